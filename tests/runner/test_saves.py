"""Interrupted inside a stage: what is kept, when, and what a spoilt save costs."""

import os
import signal
import subprocess
import sys

import pytest
from test_run_study import SilentBoard, lab_study

from seqdpo.runner import stage as node_stage
from seqdpo.runner.events import read_events
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.study import prepare_run, run_study
from seqdpo.runner.worker import Worker

pytestmark = pytest.mark.usefixtures("base_logps_cache")

ONE = {"orders": [["first"]], "per_device_train_batch_size": 8, "gradient_trace_points": 0, "mechanism_pairs": 0}
STEPS = 7
RESULTS = ("scores.parquet", "results.json", "stages/seed0.first/adapter/adapter_model.safetensors")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing interrupted."""
    root = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: root / "cache")
        folder = run_study(lab_study(root / "run", **ONE), SilentBoard())
    assert not (folder.root / "saves").exists()
    return {name: (folder.root / name).read_bytes() for name in RESULTS}


@pytest.fixture(autouse=True)
def handlers():
    """Both signals as a command line has them; a test in the background would ignore one and die of the other."""

    def end(number, frame):
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    yield end
    for number, handler in before.items():
        signal.signal(number, handler)


class Heard:
    """Which steps a run trains; does something after one of them."""

    def __init__(self, monkeypatch):
        self.steps, self._monkeypatch, self._on_step = [], monkeypatch, node_stage._on_step

    def then(self, after, act):
        def on_step(bench, step):
            self.steps.append(step.step)
            self._on_step(bench, step)
            if step.step == after:
                act()

        self._monkeypatch.setattr(node_stage, "_on_step", on_step)


def saves(root):
    return sorted(path.name for path in (root / "saves/seed0.first").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_step_and_costs_none(number, straight, tmp_path, monkeypatch, handlers):
    heard = Heard(monkeypatch)
    for after in (2, STEPS):  # in the middle, and after the last step
        heard.then(after, lambda: signal.raise_signal(number))
        with pytest.raises(KeyboardInterrupt):
            run_study(lab_study(tmp_path / "run", **ONE), SilentBoard())
        assert saves(tmp_path / "run") == [f"{after:09}"]
        assert not (tmp_path / "run/stages/seed0.first").exists()
        assert signal.getsignal(number) is handlers
    heard.then(0, lambda: None)
    folder = run_study(lab_study(tmp_path / "run", **ONE), SilentBoard())
    assert heard.steps == [1, 2, *range(1, STEPS + 1), *range(1, STEPS + 1)]  # told of again, not trained again
    assert {name: (folder.root / name).read_bytes() for name in RESULTS} == straight
    assert not (folder.root / "saves").exists()
    events = [event["event"] for event in read_events(folder.root / "logs/seed0.first.jsonl")]
    assert [event for event in events if event != "progress"] == [
        "began",
        "interrupted",
        "began",
        "interrupted",
        "began",
        "done",
    ]


def test_a_signal_that_its_handler_makes_nothing_of_stops_nothing(straight, tmp_path, monkeypatch):
    """Before a pre-emption Slurm sends SIGTERM, which submitit passes over: what counts is the signal that follows."""
    passed = []
    signal.signal(signal.SIGTERM, lambda number, frame: passed.append(number))
    Heard(monkeypatch).then(2, lambda: signal.raise_signal(signal.SIGTERM))
    folder = run_study(lab_study(tmp_path / "run", **ONE), SilentBoard())
    assert passed == [signal.SIGTERM]
    assert {name: (folder.root / name).read_bytes() for name in RESULTS} == straight


@pytest.mark.parametrize("file", ["state.pt", "save.json"])
def test_a_spoilt_save_costs_the_stage_and_not_the_run(file, straight, tmp_path, monkeypatch):
    heard = Heard(monkeypatch)
    heard.then(3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_study(lab_study(tmp_path / "run", **ONE), SilentBoard())
    spoilt = tmp_path / "run/saves/seed0.first/000000003" / file
    spoilt.write_bytes(spoilt.read_bytes()[:-20] + b"x" * 20)
    heard.then(0, lambda: None)
    board = SilentBoard()
    board.told = []
    monkeypatch.setattr(SilentBoard, "message", lambda self, text: self.told.append(text), raising=True)
    folder = run_study(lab_study(tmp_path / "run", **ONE), board)
    assert any("000000003: cannot be believed. It is kept as 000000003.damaged" in text for text in board.told)
    assert {name: (folder.root / name).read_bytes() for name in RESULTS} == straight
    assert saves(folder.root) == ["000000003.damaged"]


KILLED = """
import os, signal, sys
from pathlib import Path
from seqdpo.runner import base_logps, stage
from seqdpo.runner.worker import Worker

base_logps.cache_dir = lambda: Path(sys.argv[2])
on_step = stage._on_step
def killed(bench, step):
    on_step(bench, step)
    if step.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
stage._on_step = killed
worker = Worker(Path(sys.argv[1]), print)
worker.run("base")
worker.run("first")
"""


def test_a_worker_killed_in_the_middle_costs_what_came_after_its_last_save(straight, tmp_path, monkeypatch):
    """-9 leaves no time for anything; `save_minutes: 0` keeps every step, and may be given to a run at any time."""
    folder = prepare_run(lab_study(tmp_path / "run", **ONE, save_minutes=0), SilentBoard())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, folder.root, tmp_path / "cache"], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert saves(folder.root) == ["000000003"]
    assert list(folder.root.glob("stages/.seed0.first.*.tmp"))
    said = []
    Worker(folder.root, said.append).run("seed0.first")
    assert "seed0.first: goes on after step 3" in said
    assert not list(folder.root.rglob("*.tmp"))
    run_study(lab_study(tmp_path / "run", **ONE), SilentBoard())
    assert {name: (folder.root / name).read_bytes() for name in RESULTS} == straight


def test_a_save_of_another_stage_is_not_gone_on_with(tmp_path, straight, monkeypatch):
    heard = Heard(monkeypatch)
    heard.then(2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_study(lab_study(tmp_path / "other", **ONE | {"learning_rate": 1e-4}), SilentBoard())
    heard.then(0, lambda: None)
    folder = prepare_run(lab_study(tmp_path / "run", **ONE), SilentBoard())
    (folder.root / "saves").mkdir()
    (RunFolder(tmp_path / "other").root / "saves/seed0.first").rename(folder.root / "saves/seed0.first")
    run_study(lab_study(folder.root, **ONE), SilentBoard())
    assert {name: (folder.root / name).read_bytes() for name in RESULTS} == straight
