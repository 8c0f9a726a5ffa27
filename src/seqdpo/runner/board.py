"""What a person sees while a study runs: a live board in a terminal, plain lines elsewhere."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 15.0
ROWS_SHOWN = 20
#: Columns of a terminal from which there is room for the bar and the rate.
WIDE = 76
#: Before so many seconds nothing is said of the time left.
FIRST_SECONDS = 5.0


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
    earlier: bool = False  # finished by an earlier command
    where: str = ""

    @property
    def is_over(self) -> bool:
        return self.earlier or self.ended is not None

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        return 1.0 if self.is_over or not self.units else min(self.done / self.units, 1)

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
    def note(self, text: str, name: str) -> None: ...
    def finish(self, note: str, name: str) -> None: ...
    def end(self) -> None: ...


@dataclass(slots=True)
class Progress:
    """The state behind both boards."""

    tasks: dict[str, Task] = field(default_factory=dict)
    current: Task | None = None  # the one that began last
    places: dict[str, int] = field(init=False)  # of the tasks, from 1
    work_began: float | None = None
    units: float = 0.0  # done by this process
    seen: deque[tuple[float, float]] = field(default_factory=deque)  # moments, a second apart at least, and units

    def __post_init__(self) -> None:
        self.places = {name: place for place, name in enumerate(self.tasks, 1)}

    def start(self, name: str, where: str) -> None:
        self.current = task = self.tasks[name]
        task.began, task.done, task.pairs, task.note, task.where = monotonic(), 0.0, 0, where, where
        if self.work_began is None:
            self.work_began = task.began
            self.seen.append((task.began, 0.0))

    def advance(self, units: float, pairs: int, name: str | None) -> Task | None:
        task = self.tasks[name] if name else self.current
        if task is not None:
            task.done += units
            task.pairs += pairs
            self._see(units)
        return task

    def note(self, text: str, name: str) -> None:
        task = self.tasks[name]
        task.note = f"{text}, {task.where}" if task.where else text

    def finish(self, note: str, name: str) -> Task:
        task = self.tasks[name]
        task.began = task.began or monotonic()
        self._see(max(task.units - task.done, 0.0))
        task.done, task.ended, task.note = task.units, monotonic(), note
        return task

    def _see(self, units: float) -> None:
        self.units += units
        now = monotonic()
        if self.seen and now - self.seen[-1][0] >= 1:
            self.seen.append((now, self.units))

    def seconds_left(self) -> float | None:
        """By the rate in the later half of the time so far: a slow beginning, or what was in a cache, is forgotten,
        and a moment's haste or pause weighs little. None before there is one."""
        now = monotonic()
        if self.work_began is None or now - self.work_began < FIRST_SECONDS:
            return None
        half = now - (now - self.work_began) / 2
        while len(self.seen) > 1 and self.seen[1][0] <= half:
            self.seen.popleft()
        moment, units = self.seen[0]
        if now <= moment or self.units <= units:
            return None
        left = sum(max(task.units - task.done, 0) for task in self.tasks.values() if not task.is_over)
        return left * (now - moment) / (self.units - units)


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
        earlier = sum(task.earlier for task in tasks)
        if earlier:
            self._print(f"{earlier} of {len(tasks)} were finished before")

    def start(self, name: str, where: str = "") -> None:
        self._progress.start(name, where)
        self._print(f"{self._position(name)} {name}: begins" + (f" on {where}" if where else ""))

    def advance(self, units: float, pairs: int, name: str | None = None) -> None:
        task = self._progress.advance(units, pairs, name)
        if task is not None and monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            left = clock(self._progress.seconds_left())
            said = f", {task.note}" if task.note != task.where else ""
            at = f"{self._position(task.name)} {task.name}: {task.share:.0%}, {task.rate():.1f} pairs/s"
            self._print(f"{at}{said}; about {left} left in all")

    def note(self, text: str, name: str) -> None:
        self._progress.note(text, name)

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

    def note(self, text: str, name: str) -> None:
        self._progress.note(text, name)

    def finish(self, note: str, name: str) -> None:
        self._progress.finish(note, name)

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        wide = self._console.width >= WIDE
        table.add_column("checkpoint", overflow="fold", max_width=28 if wide else 24)
        for name in ("", "done", "pairs/s", "time") if wide else ("done", "time"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("note", overflow="fold")
        for task in self._shown():
            table.add_row(*self._row(task, wide))
        left = self._progress.seconds_left()
        working = any(task.began is not None and not task.is_over for task in self._progress.tasks.values())
        footer = f"about {clock(left)} left in all" if working and left is not None else ""
        return Group(table, Text(footer, style="dim"))

    def _shown(self) -> list[Task]:
        """As many rows as fit, around the current one."""
        tasks = list(self._progress.tasks.values())
        rows = max(min(self._console.height - 4, ROWS_SHOWN), 3)
        current = next((i for i, task in enumerate(tasks) if not task.is_over), len(tasks))
        first = max(min(current - rows // 2, len(tasks) - rows), 0)
        return tasks[first : first + rows]

    def _row(self, task: Task, wide: bool) -> list[RenderableType]:
        if task.is_over:
            mark, style = "✓", "green"
        elif task.began is not None:
            mark, style = "▶", "bold"
        else:
            mark, style = "·", "dim"
        begun = task.began is not None
        row: list[RenderableType] = [Text(mark, style=style), Text(task.name, style=style)]
        if wide:
            row.append(ProgressBar(total=1, completed=task.share, width=8) if begun else "")
        row.append(f"{task.share:.0%}" if begun or task.earlier else "")
        if wide:
            row.append(f"{task.rate():.1f}" if task.pairs else "")
        row.append(clock(task.seconds()) if begun else "")
        row.append(Text("done before" if task.earlier else task.note, style="dim"))
        return row


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
