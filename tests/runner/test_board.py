"""What a person sees while a study runs: the time that is left, and what a narrow terminal keeps."""

from io import StringIO

import pytest
from rich.console import Console

from seqdpo.preferences.drops import left_out
from seqdpo.runner import board
from seqdpo.runner.board import LiveBoard, PlainBoard, Task


@pytest.fixture
def clock(monkeypatch):
    """`clock(10)`: it is ten seconds later."""
    now = [100.0]
    monkeypatch.setattr(board, "monotonic", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


def made(kind, width, tasks):
    console = Console(file=StringIO(), width=width, height=30)
    one = kind(console)
    one._progress = board.Progress({task.name: task for task in tasks})
    return one, console


def test_time_left_forgets_a_fast_beginning(clock):
    """30 units in the first second, from a cache, then one a second for ten: 60 are left and take 60 s."""
    progress = board.Progress({"a": Task("a", 100)})
    progress.start("a", "")
    clock(1)
    progress.advance(30, 30, "a")
    for _ in range(10):
        clock(1)
        progress.advance(1, 1, "a")
    assert progress.seconds_left() == pytest.approx(60)


def test_nothing_is_said_of_the_time_left_before_there_is_a_rate(clock):
    progress = board.Progress({"a": Task("a", 100)})
    assert progress.seconds_left() is None
    progress.start("a", "")
    clock(1)
    progress.advance(50, 50, "a")
    assert progress.seconds_left() is None, "a second is no rate"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_of_any_width_shows_stage_share_time_and_loss(clock, width):
    tasks = [Task("base", 10, earlier=True), Task("helpful>harmless (seed 0)", 100), Task("harmless (seed 0)", 100)]
    live, console = made(LiveBoard, width, tasks)
    live.start("helpful>harmless (seed 0)", "cpu")
    clock(20)
    live.advance(50, 25, "helpful>harmless (seed 0)")
    live.note("loss 0.512, 75% right", "helpful>harmless (seed 0)")
    console.print(live._draw())
    shown = " ".join(console.file.getvalue().split())
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    for text in ("helpful>harmless", "50%", "20 s", "0.512", "75%", "cpu", "done before", "100%", "about"):
        assert text in shown, text


def test_lines_of_a_log_have_loss_and_what_was_finished_before(clock):
    tasks = [Task("base", 10, earlier=True), Task("helpful (seed 0)", 100)]
    plain, console = made(PlainBoard, 80, tasks)
    plain.begin(tasks)
    plain.start("helpful (seed 0)", "cpu")
    plain.note("loss 0.512, 75% right", "helpful (seed 0)")
    clock(20)
    plain.advance(50, 25, "helpful (seed 0)")
    assert console.file.getvalue().splitlines() == [
        "1 of 2 were finished before",
        "[2/2] helpful (seed 0): begins on cpu",
        "[2/2] helpful (seed 0): 50%, 1.2 pairs/s, loss 0.512, 75% right, cpu; about 20 s left in all",
    ]


def test_what_a_limit_left_out_is_told_from_what_was_wrong():
    assert left_out({"over_max_train_pairs": 1400, "over_max_length": 50, "duplicate": 7, "empty_prompt": 3}) == (
        1450,
        10,
    )
