"""The run folder: where everything of one study lies. docs/run-folder.md describes every file."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import seqdpo
from seqdpo.errors import ConfigError
from seqdpo.files import sweep
from seqdpo.layout import NODE_FILE, RunFiles
from seqdpo.study.checkpoints import BASE, Node

#: The logger that says what cannot be written into events.jsonl.
LOG = f"{seqdpo.__name__}.events"


@dataclass(frozen=True, slots=True)
class RunFolder(RunFiles):
    """A run folder that is written: its stages, its lock and its log of events."""

    def stage(self, node: Node | None) -> Path:
        """The folder of a stage; of the base's scores for None."""
        return self.root / "stages" / (BASE if node is None else node.folder)

    def adapter(self, node: Node | None) -> Path | None:
        """The adapter that a stage left; the base has none."""
        return None if node is None else self.stage(node) / "adapter"

    def has_finished_stage(self) -> bool:
        """Whether a stage was trained and measured; that the base was scored is no reason to keep a study."""
        return any(path.parent.name != BASE for path in self.root.glob(f"stages/*/{NODE_FILE}"))

    def log(self, event: str, **details: Any) -> None:
        """Appends one line to events.jsonl; if that cannot be done, it is said once, and the work goes on."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details}
        try:
            _append(self.events, json.dumps(line, ensure_ascii=False).encode())
        except OSError as error:
            _say_unwritten(self.events, error.strerror or str(error))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out of the folder, and takes away what killed ones left half written.

        Raises: ConfigError if another process holds it, or it cannot be written to.
        """
        lock = FileLock(self.root / ".lock", timeout=0)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise _in_use(self.root) from None
        except OSError as error:
            raise _unusable(self.root, error) from None
        try:
            sweep(self.root)
            yield
        finally:
            lock.release()


def _append(path: Path, line: bytes) -> None:
    with path.open("a+b") as file:
        torn = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n"  # a killed process's line
        file.write((b"\n" if torn else b"") + line + b"\n")


@cache
def _say_unwritten(path: Path, reason: str) -> None:
    logging.getLogger(LOG).warning("%s: cannot be written (%s); what happens is not kept there.", path, reason)


def check_output_dir(root: Path) -> None:
    """Refuses, before anything is written, a place that cannot become or is not a run folder.

    Raises: ConfigError if it is a file, holds other things, cannot be written to, or is in use.
    """
    try:
        _check_place(root)
        _check_content(root)
    except OSError as error:
        raise _unusable(root, error) from None


def _check_place(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise ConfigError(f"output_dir = {str(root)!r}: is a file; expected a folder or a new name. Choose another.")
    existing = next(path for path in [root, *root.parents] if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"output_dir = {str(root)!r}: {existing} is a file; expected a folder. Choose another.")
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(
            f"output_dir = {str(root)!r}: no permission to write in {existing}; expected a folder of yours. "
            "Choose another one, or change its rights."
        )


def _check_content(root: Path) -> None:
    names = sorted(path.name for path in root.iterdir() if path.name != ".lock") if root.is_dir() else []
    run = RunFolder(root)
    if names and not run.events.is_file() and not run.manifest.is_file():
        found = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ConfigError(
            f"output_dir = {str(root)!r}: holds {found}, but no manifest.json; expected an empty folder, a new name "
            "or an earlier run. Choose another output_dir."
        )
    if (root / ".lock").is_file():
        with run.locked():
            pass


def _in_use(root: Path) -> ConfigError:
    return ConfigError(
        f"output_dir = {str(root)!r}: another process is running a study there; expected none. Wait for it, or use "
        "another output_dir."
    )


def _unusable(root: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"output_dir = {str(root)!r}: cannot be used: {error.strerror or error}; expected a folder to write in. "
        "Choose another one."
    )
