"""What a stage is kept in while it trains: whole, with its checksum, under saves/ of the run folder.

A signal that may end the process is held back until the step is done and kept, and takes its course then: Ctrl-C, a
time limit or a pre-emption costs no step. What is spoilt costs the stage, which begins again.
"""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import torch

from seqdpo.files import file_hash, folder_written_whole, set_aside, sweep_of, write_json
from seqdpo.policy.ranks import from_first, this_process
from seqdpo.preferences.pairs import content_hash
from seqdpo.runner.bench import Bench
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.records import adapter_hash, identity_of, place_in_tree
from seqdpo.study.checkpoints import Node
from seqdpo.training.resume import RunningStage, State

SAVE_FORMAT = 1
_STATE, _RECORD = "state.pt", "save.json"
#: Windows has no SIGUSR1 and SIGUSR2, with which clusters announce the end of a job's time.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class Saves:
    """A stage's saves (`seqdpo.training.resume.Keeper`): the last one is kept, under the number of its steps."""

    def __init__(self, bench: Bench, node: Node, seed: int) -> None:
        self._folder, self._say = bench.folder.saves(node), bench.say
        self._seconds, self._last = 60 * bench.keys.save_minutes, monotonic()
        parent = adapter_hash(bench.folder, node.parent)
        identity, place = identity_of(node, bench.identity), place_in_tree(node, bench.keys_of(node))
        of = [SAVE_FORMAT, identity, place, seed, parent, torch.__version__]
        self._of = content_hash([*of, this_process().size])
        self._signals = _HeldSignals()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Holds signals back in this block."""
        with self._signals.held():
            yield

    def kept(self) -> State | None:
        path: Path | None = from_first(self._newest() if this_process().is_first else None)
        if path is None:
            return None
        state: State = torch.load(path / _STATE, map_location="cpu", weights_only=True)
        return state

    def after_step(self, stage: RunningStage) -> None:
        if not this_process().is_first:  # all hold the same
            return
        if self._signals.waiting or monotonic() - self._last >= self._seconds:
            self._save(stage.state(), len(stage.steps))
            self._last = monotonic()
        self._signals.let_go()

    def _save(self, state: State, steps: int) -> None:
        older = self._whole()
        with folder_written_whole(self._folder / f"{steps:09}") as path:
            torch.save(state, path / _STATE)
            write_json(path / _RECORD, {"steps": steps, "of": self._of, "sha256": file_hash(path / _STATE)})
        for path in older:
            shutil.rmtree(path)

    def _newest(self) -> Path | None:
        for path in self._whole():
            record = self._believed(path)
            if record is not None:
                self._say(f"{path.parent.name}: goes on after step {record['steps']}")
                return path
            self._say(f"{path}: cannot be believed. It is kept as {set_aside(path).name}, and the stage begins again.")
        return None

    def _whole(self) -> list[Path]:
        """The newest one first."""
        return sorted((path for path in self._folder.glob("*") if path.name.isdecimal()), reverse=True)

    def _believed(self, path: Path) -> dict[str, Any] | None:
        """The record of a save of this very stage; None if it is spoilt, or of other inputs."""
        try:
            record: dict[str, Any] = json.loads((path / _RECORD).read_text(encoding="utf-8"))
            whole = record["of"] == self._of and record["sha256"] == file_hash(path / _STATE)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if whole else None


@contextmanager
def stage_saves(bench: Bench, node: Node, seed: int) -> Iterator[Saves]:
    """A stage's saves, for the time in which it trains."""
    saves = Saves(bench, node, seed)
    if not this_process().is_first:
        yield saves
        return
    sweep_of(bench.folder.saves(node))
    with saves.holding():
        yield saves


def forget_saves(folder: RunFolder, node: Node) -> None:
    """Of a stage that is trained; what was set aside stays."""
    for path in folder.saves(node).glob("*"):
        if path.name.isdecimal():
            shutil.rmtree(path)
    with suppress(OSError):  # not empty, or not there
        folder.saves(node).rmdir()
        folder.saves(node).parent.rmdir()


class _HeldSignals:
    """Signals that wait for the end of a step, and then go to the handlers that were there before."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self._handlers: dict[int, Any] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Only a main thread has handlers; elsewhere nothing is held."""
        if threading.current_thread() is threading.main_thread():
            known = {number: signal.getsignal(number) for number in _SIGNALS}
            # None: a handler of another language than Python
            self._handlers = {number: one for number, one in known.items() if one not in (None, signal.SIG_IGN)}
        for number in self._handlers:
            signal.signal(number, self._hold)
        try:
            yield
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        self.let_go()

    def let_go(self) -> None:
        """Whoever set a handler may end the process, or go on."""
        while self.waiting:
            number = self.waiting.pop(0)
            handler = self._handlers[number]
            if callable(handler):
                handler(number, None)
            else:
                signal.signal(number, handler)
                signal.raise_signal(number)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self.waiting:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self.waiting.append(number)
