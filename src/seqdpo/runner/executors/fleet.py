"""The coordinator of workers elsewhere: starts what may run, follows it by its log, tries again what was lost."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple, Protocol

from seqdpo.errors import RunError, SeqdpoError
from seqdpo.runner.board import Board
from seqdpo.runner.events import read_events, seconds_between
from seqdpo.runner.executors.account import node_began, node_done
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.schedule import Frontier
from seqdpo.runner.stage import title
from seqdpo.study.checkpoints import Node, folder_name
from seqdpo.study.stored import read_study

#: How often a node is begun whose worker was lost.
MOST_TRIES = 3
SECONDS_BETWEEN_LOOKS = 0.5


class Ended(NamedTuple):
    """A node that a worker is done with."""

    name: str
    error: str | None = None  # what its user has to mend
    lost: bool = False  # its worker is gone, through no fault of the node


class Fleet(Protocol):
    """Workers of one kind; nodes are named as their folders are."""

    size: int  # nodes at once

    def start(self, names: Sequence[str]) -> None: ...
    def ended(self) -> Iterable[Ended]:
        """Those that ended since the last call; does not wait."""

    def stop(self) -> None:
        """Ends whatever runs."""


def work(worker: Callable[[str], Any], name: str) -> str | None:
    """Runs a node; the message of an error that is for the user, as text, which every transport carries."""
    try:
        worker(name)
    except SeqdpoError as error:
        return str(error)
    return None


def walk(folder: RunFolder, left: Sequence[Node | None], board: Board, fleet: Fleet) -> None:
    """Runs the nodes that are left, each as soon as its parent is done. A node that fails stops no other branch.

    Raises: RunError that names those that failed.
    """
    _Walk(folder, left, board, fleet).run()


class _Walk:
    def __init__(self, folder: RunFolder, left: Sequence[Node | None], board: Board, fleet: Fleet) -> None:
        self._folder, self._board, self._fleet = folder, board, fleet
        self._frontier = Frontier(left, read_study(folder).variants)
        self._running: dict[str, _Running] = {}
        self._tries: Counter[str] = Counter()
        self._failed: dict[str, str] = {}

    def run(self) -> None:
        try:
            while self._start() or self._running:
                for ended in self._fleet.ended():
                    self._end(ended)
                for running in self._running.values():
                    running.look(self._folder, self._board)
                sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            self._fleet.stop()
        if self._failed:
            raise RunError("\n".join(f"{name}: {error}" for name, error in self._failed.items()))

    def _start(self) -> bool:
        new = {folder_name(node): node for node in self._frontier.take(self._fleet.size - len(self._running))}
        for name, node in new.items():
            self._tries[name] += 1
            self._running[name] = _Running(node, self._folder)
        if new:
            self._fleet.start(list(new))
        return bool(new)

    def _end(self, ended: Ended) -> None:
        running = self._running.pop(ended.name)
        if ended.lost and self._tries[ended.name] < MOST_TRIES:
            self._folder.log("worker_lost", node=ended.name, error=ended.error)
            self._board.message(f"{ended.name}: its worker was lost. It goes on with another one.")
            self._frontier.give_back(running.node)
        elif ended.error or ended.lost:
            self._failed[ended.name] = ended.error or "its worker was lost"
            self._folder.log("stage_failed", node=ended.name, error=ended.error)
            self._board.message(f"{ended.name}: failed; see {self._folder.node_log(running.node)}")
        else:
            running.look(self._folder, self._board)
            node_done(self._folder, self._board, running.node, running.seconds)
            self._frontier.done(running.node)


class _Running:
    """A node that a worker has, as its log tells of it."""

    def __init__(self, node: Node | None, folder: RunFolder) -> None:
        self.node, self.seconds = node, 0.0
        self._seen, self._began, self._told = _size(folder.node_log(node)), False, (0.0, 0)

    def look(self, folder: RunFolder, board: Board) -> None:
        """Tells the board what is new in the log since this worker took the node over."""
        events = read_events(folder.node_log(self.node), self._seen)
        if not events:
            return
        self.seconds = seconds_between(events[0], events[-1])
        if not self._began:
            self._began = True
            node_began(folder, board, self.node, f"{events[0].get('host')}, {events[0].get('device')}")
        progress = next((event for event in reversed(events) if event["event"] == "progress"), None)
        if progress is not None:
            units, pairs = progress["units"], progress["pairs"]
            board.advance(units - self._told[0], pairs - self._told[1], title(self.node))
            self._told = units, pairs


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
