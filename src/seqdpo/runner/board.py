"""What a person sees while a study runs: a live board in a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 15.0
ROWS_SHOWN = 20


@dataclass(slots=True)
class Task:
    """One line of the board: the base or a stage. Units are those of `runner.work`."""

    name: str
    units: float
    done: float = 0.0
    pairs: int = 0  # pairs passed, for the rate
    began: float | None = None
    ended: float | None = None
    note: str = ""

    def seconds(self) -> float:
        if self.began is None:
            return 0.0
        return (self.ended if self.ended is not None else monotonic()) - self.began

    def rate(self) -> float:
        """Pairs passed through the model per second."""
        return self.pairs / self.seconds() if self.seconds() > 0 else 0.0


class Board(Protocol):
    """Where the runner tells what it does. Where several tasks run at once, each is told of by its name."""

    def message(self, text: str) -> None: ...
    def begin(self, tasks: list[Task]) -> None: ...
    def start(self, name: str, where: str = "") -> None: ...
    def advance(self, units: float, pairs: int, name: str | None = None) -> None: ...
    def finish(self, note: str, name: str) -> None: ...
    def end(self) -> None: ...


@dataclass(slots=True)
class Progress:
    """The state behind both boards."""

    tasks: dict[str, Task] = field(default_factory=dict)
    current: Task | None = None  # the one that began last
    places: dict[str, int] = field(init=False)  # of the tasks, from 1
    work_began: float | None = None

    def __post_init__(self) -> None:
        self.places = {name: place for place, name in enumerate(self.tasks, 1)}

    def start(self, name: str, where: str) -> None:
        self.current = task = self.tasks[name]
        task.began, task.done, task.pairs, task.note = monotonic(), 0.0, 0, where
        self.work_began = self.work_began or task.began

    def advance(self, units: float, pairs: int, name: str | None) -> Task | None:
        task = self.tasks[name] if name else self.current
        if task is not None:
            task.done += units
            task.pairs += pairs
        return task

    def finish(self, note: str, name: str) -> Task:
        task = self.tasks[name]
        task.began = task.began or monotonic()
        task.done, task.ended, task.note = task.units, monotonic(), note
        return task

    def seconds_left(self) -> float | None:
        """By the rate so far of the work that this process did; None before there is one."""
        begun = [task for task in self.tasks.values() if task.began is not None]
        done = sum(task.done for task in begun)
        if self.work_began is None or done == 0:
            return None
        left = sum(max(task.units - task.done, 0) for task in self.tasks.values() if task.ended is None)
        return left * (monotonic() - self.work_began) / done


class PlainBoard:
    """One line when a stage begins and ends, and every so often between; for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress()
        self._last_line = monotonic()

    def message(self, text: str) -> None:
        self._print(text)

    def begin(self, tasks: list[Task]) -> None:
        self._progress = Progress({task.name: task for task in tasks})

    def start(self, name: str, where: str = "") -> None:
        self._progress.start(name, where)
        self._print(f"{self._position(name)} {name}: begins" + (f" on {where}" if where else ""))

    def advance(self, units: float, pairs: int, name: str | None = None) -> None:
        task = self._progress.advance(units, pairs, name)
        if task is not None and monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            share = min(task.done / task.units, 1) if task.units else 1.0
            left = clock(self._progress.seconds_left())
            self._print(f"{self._position(task.name)} {task.name}: {share:.0%}, {task.rate():.1f} pairs/s, {left} left")

    def finish(self, note: str, name: str) -> None:
        task = self._progress.finish(note, name)
        self._print(f"{self._position(task.name)} {task.name}: done in {clock(task.seconds())}. {note}")

    def end(self) -> None:
        pass

    def _position(self, name: str) -> str:
        return f"[{self._progress.places[name]}/{len(self._progress.tasks)}]"

    def _print(self, text: str) -> None:
        self._last_line = monotonic()
        self._console.print(text, soft_wrap=True)


class LiveBoard:
    """A table of all stages that is drawn anew as they go on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress()
        self._live: Live | None = None

    def message(self, text: str) -> None:
        self._console.print(text, style="dim")

    def begin(self, tasks: list[Task]) -> None:
        self._progress = Progress({task.name: task for task in tasks})
        self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=4)
        self._live.start()

    def start(self, name: str, where: str = "") -> None:
        self._progress.start(name, where)

    def advance(self, units: float, pairs: int, name: str | None = None) -> None:
        self._progress.advance(units, pairs, name)

    def finish(self, note: str, name: str) -> None:
        self._progress.finish(note, name)

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        table.add_column("checkpoint", no_wrap=True, overflow="ellipsis")
        for name in ("done", "pairs/s", "time"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("note", no_wrap=True, overflow="ellipsis")
        for task in self._shown():
            table.add_row(*self._row(task))
        left = self._progress.seconds_left()
        working = any(task.began is not None and task.ended is None for task in self._progress.tasks.values())
        footer = f"about {clock(left)} left" if working and left is not None else ""
        return Group(table, Text(footer, style="dim"))

    def _shown(self) -> list[Task]:
        """As many rows as fit, around the current one."""
        tasks = list(self._progress.tasks.values())
        rows = max(min(self._console.height - 4, ROWS_SHOWN), 3)
        current = next((i for i, task in enumerate(tasks) if task.ended is None), len(tasks))
        first = max(min(current - rows // 2, len(tasks) - rows), 0)
        return tasks[first : first + rows]

    def _row(self, task: Task) -> tuple[Text, Text, str, str, str, Text]:
        if task.ended is not None:
            mark, style = "✓", "green"
        elif task.began is not None:
            mark, style = "▶", "bold"
        else:
            mark, style = "·", "dim"
        begun = task.began is not None
        return (
            Text(mark, style=style),
            Text(task.name, style=style),
            f"{min(task.done / task.units, 1) if task.units else 1:.0%}" if begun else "",
            f"{task.rate():.1f}" if task.pairs else "",
            clock(task.seconds()) if begun else "",
            Text(task.note, style="dim"),
        )


@contextmanager
def board_for(console: Console) -> Iterator[Board]:
    """The live board in a terminal, plain lines elsewhere; ends it whatever happens."""
    board: Board = LiveBoard(console) if console.is_terminal else PlainBoard(console)
    try:
        yield board
    finally:
        with suppress(OSError):  # a terminal that has gone shows nothing, and is no reason to end otherwise
            board.end()


def clock(seconds: float | None) -> str:
    """`12 s`, `3:20` (minutes), `2:05:00` (hours); `?` for None."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
