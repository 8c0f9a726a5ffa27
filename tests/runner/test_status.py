"""How a run stands, from files alone: its logs and records, with times and devices that are known."""

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from seqdpo.runner.claims import claimed
from seqdpo.runner.executors import fleet
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.status import run_status, status_board
from seqdpo.study.checkpoints import Node
from seqdpo.study.config import Study
from seqdpo.study.file import study_yaml

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
GPU = "NVIDIA H100"


@pytest.fixture
def folder(tmp_path):
    """Two orders of two objectives: the base done, one stage done after an interruption, one failed, one begun."""
    objectives = {name: {"format": "lab"} for name in ("a", "b")}
    study = Study(model_name_or_path="lab", objectives=objectives, placebo=0, output_dir=str(tmp_path))
    (tmp_path / "study.yaml").write_text(study_yaml(study))
    (tmp_path / "logs").mkdir()
    began = {"host": "n1", "device": GPU, "pid": 1}
    log(tmp_path, "base", (0, "began", began), (30, "done", {}))
    log(tmp_path, "seed0.a", (60, "began", began), (360, "interrupted", {}), (9000, "began", began), (9100, "done", {}))
    log(
        tmp_path, "seed0.b", (60, "began", began | {"host": "n2"}), (90, "failed", {"error": "step 3: loss = nan\nLog"})
    )
    log(tmp_path, "seed0.a.b", (9200, "began", began), (9230, "progress", {"units": 9.0, "pairs": 1234}))
    for name in ("base", "seed0.a"):
        (tmp_path / "stages" / name).mkdir(parents=True)
        record = {"files": {}, "host": "n1", "measure_peak_memory_bytes": 3 * 2**30, "environment": {"device": GPU}}
        (tmp_path / "stages" / name / "node.json").write_text(json.dumps(record))
    RunFolder(tmp_path).log("run_began")
    return RunFolder(tmp_path)


def log(root, name, *events):
    lines = [{"time": (NOON + timedelta(seconds=at)).isoformat(), "event": event} | more for at, event, more in events]
    (root / f"logs/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_states_times_and_devices_are_those_of_the_logs(folder):
    status = run_status(folder)
    found = {node.name: (node.state, node.seconds, node.host) for node in status.nodes}
    assert found == {
        "base": ("done", 30, "n1"),
        "seed0.a": ("done", 400, "n1"),  # 300 s, and 100 s after the interruption
        "seed0.a.b": ("stopped", 30, "n1"),
        "seed0.b": ("failed", 30, "n2"),
        "seed0.b.a": ("waiting", None, None),
    }
    assert status.gpu_hours == pytest.approx((30 + 400 + 30 + 30) / 3600)
    assert status.nodes[0].memory_bytes == 3 * 2**30
    assert status.over


def test_what_a_process_holds_is_running(folder):
    with claimed(folder, Node(0, ("a", "b")), print):
        status = run_status(folder)
    assert {node.name: node.state for node in status.nodes}["seed0.a.b"] == "running"
    assert not status.over
    with folder.locked():
        assert run_status(folder).coordinated


def test_clocks_that_differ_make_no_time_wrong(folder):
    """A worker whose clock is an hour behind goes on with what another one began: each time is of one clock."""
    began = {"host": "n2", "device": GPU, "pid": 7}
    events = [(9200, "began", began | {"host": "n1"}), (9230, "progress", {"units": 9.0, "pairs": 1234})]
    log(folder.root, "seed0.a.b", *events, (5640, "began", began), (5740, "done", {}))
    node = next(node for node in run_status(folder).nodes if node.name == "seed0.a.b")
    assert (node.seconds, node.host) == (130, "n2")
    running = fleet._Running(Node(0, ("a", "b")), folder)  # a coordinator, whose own clock is read nowhere
    log(
        folder.root,
        "seed0.a.b",
        *events,
        (5640, "began", began),
        (5740, "done", {}),
        (2000, "began", began),
        (2060, "done", {}),
    )
    running.look(folder, _Board())
    assert running.seconds == 60


class _Board:
    def start(self, name, where): ...


def test_the_board_shows_a_line_for_each_stage(folder):
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(status_board(run_status(folder)))
    text = console.export_text()
    assert "2 done, 1 failed, 1 stopped, 1 waiting; no coordinator" in text
    line = next(line for line in text.splitlines() if "seed0.a " in line)
    assert all(word in line for word in ("6:40", "3.0 GiB", "n1", GPU))
    assert "1,234 pairs" in text
    assert "step 3: loss = nan" in text
    assert "0.14 GPU-hours" in text


def test_status_needs_no_torch(folder):
    code = (
        "import atexit, sys; from seqdpo.cli import main; atexit.register(lambda: print(*{'torch'} & {*sys.modules}))"
    )
    command = [sys.executable, "-c", f"{code}; main()", "status", str(folder.root), "--follow"]
    environment = os.environ | {"COLUMNS": "300"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "2 done, 1 failed" in shown
    assert "torch" not in shown.replace("test_status_needs_no_torch", "")
