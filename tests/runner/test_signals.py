"""A real run in a terminal of its own is ended in the middle of a stage."""

import json
import os
import select
import signal
import subprocess
import sys

import pytest
import yaml

from seqdpo.runner.board import PlainBoard
from seqdpo.runner.study import run_study
from seqdpo.screen import Screen
from seqdpo.study.file import load_study

pty = pytest.importorskip("pty")

STUDY = {
    "model_name_or_path": "lab",
    "lora_r": 2,
    "max_length": 128,
    "objectives": {
        name: {"format": "lab", "angle": angle, "n_pairs": 40, "overlap": 0.5}
        for name, angle in (("first", 0), ("second", 120))
    },
    "orders": [["first", "second"]],
    "placebo": 0,
    "eval_fraction": 0.5,
    "output_dir": "run",
}
#: `seqdpo run`, which waits in the second step of the second stage.
WAITING = """
import sys, time
from pathlib import Path
from seqdpo import cli
from seqdpo.runner.board import LiveBoard

advance, steps = LiveBoard.advance, []

def advanced(board, units, pairs):
    advance(board, units, pairs)
    if board._progress.current.name.startswith("first>second"):
        steps.append(pairs)
        if len(steps) == 2:
            Path("here").touch()
            time.sleep(120)

LiveBoard.advance = advanced
sys.argv = ["seqdpo", "run", "study.yaml"]
cli.main()
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    return continued(root)


def continued(root):
    (root / "study.yaml").write_text(yaml.safe_dump(STUDY))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(root)
        monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: root / "cache")
        folder = run_study(load_study("study.yaml"), PlainBoard(Screen(quiet=True)))
        return {name: (folder.root / name).read_bytes() for name in ("scores.parquet", "results.json")}


@pytest.mark.parametrize(
    ("number", "code", "terminal_goes"), [(signal.SIGTERM, 143, False), (signal.SIGHUP, 129, True)]
)
def test_a_signal_in_the_middle_of_a_stage_is_logged_and_loses_nothing(
    undisturbed, tmp_path, number, code, terminal_goes
):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    terminal, screen = pty.openpty()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=tmp_path, env=environment, stdout=screen, stderr=screen
    ) as process:
        os.close(screen)
        shown = read_until((tmp_path / "here").exists, terminal)
        if terminal_goes:
            os.close(terminal)
        process.send_signal(number)
        if not terminal_goes:
            shown += read_until(lambda: False, terminal)
            os.close(terminal)
        assert process.wait(timeout=60) == code
    events = [json.loads(line)["event"] for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert events == ["run_began", *["stage_began", "stage_done"] * 2, "stage_began", "interrupted"]
    assert not list(tmp_path.rglob("*.tmp"))
    if not terminal_goes:
        assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1  # the cursor, hidden and shown
        assert b"Run the same command again to continue." in shown
    assert continued(tmp_path) == undisturbed


def read_until(enough, terminal):
    """What is written to a terminal until `enough()`, or until nobody holds its other end."""
    shown = b""
    while not enough():
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                shown += os.read(terminal, 65_536)
            except OSError:  # Linux's end of a terminal
                break
    return shown
