"""The run folder: where everything of one study lies. docs/run-folder.md describes every file."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from seqdpo.errors import ConfigError
from seqdpo.files import sweep
from seqdpo.layout import NODE_FILE, RunFiles
from seqdpo.runner.events import append_event
from seqdpo.study.checkpoints import BASE, Node, folder_name

#: What a lock raises on a file system that has none, as NFS 3 without its lock service.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class RunFolder(RunFiles):
    """A run folder that is written: its stages, its lock and its log of events."""

    def stage(self, node: Node | None) -> Path:
        """The folder of a stage; of the base's scores for None."""
        return self.root / "stages" / folder_name(node)

    def adapter(self, node: Node | None) -> Path | None:
        """The adapter that a stage left; the base has none."""
        return None if node is None else self.stage(node) / "adapter"

    def has_finished_stage(self) -> bool:
        """Whether a stage was trained and measured; that the base was scored is no reason to keep a study."""
        return any(path.parent.name != BASE for path in self.root.glob(f"stages/*/{NODE_FILE}"))

    def log(self, event: str, **details: Any) -> None:
        """Appends one line to events.jsonl."""
        append_event(self.events, event, **details)

    def node_log(self, node: Node | None) -> Path:
        """What happened to a node, wherever it ran."""
        return self.root / "logs" / f"{folder_name(node)}.jsonl"

    def claim(self, node: Node | None) -> Path:
        """The lock that the process holds which works on a node (`seqdpo.runner.claims`)."""
        return self.root / "logs" / f".{folder_name(node)}.lock"

    def saves(self, node: Node) -> Path:
        """Where a stage that is being trained is kept, to go on with it."""
        return self.root / "saves" / node.folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps others out that write to the whole run, and takes away what killed ones left half written.

        Workers may go on with their stages.
        Raises: ConfigError if another process holds it, or it cannot be written to.
        """
        lock = FileLock(self.root / ".lock", timeout=0)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise _in_use(self.root) from None
        except OSError as error:
            raise unusable(self.root, error) from None
        try:
            sweep(self.root, self.held())
            yield
        finally:
            lock.release()

    def held(self) -> set[str]:
        """The names of the stages' folders that some process works on."""
        return {path.name[1:].removesuffix(".lock") for path in self.root.glob("logs/.*.lock") if _is_held(path)}

    def has_coordinator(self) -> bool:
        """Whether some process holds the whole run now."""
        return (self.root / ".lock").is_file() and _is_held(self.root / ".lock")


def _is_held(path: Path) -> bool:
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


def check_output_dir(root: Path) -> None:
    """Refuses, before anything is written, a place that cannot become or is not a run folder.

    Raises: ConfigError if it is a file, holds other things, cannot be written to, or is in use.
    """
    try:
        _check_place(root)
        _check_content(root)
    except OSError as error:
        raise unusable(root, error) from None


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


def unusable(root: Path, error: OSError) -> ConfigError:
    """What is said where a run folder cannot be written to or locked."""
    if error.errno in _NO_LOCKS:
        return ConfigError(
            f"output_dir = {str(root)!r}: its file system has no locks ({error.strerror}); expected one that has, as "
            "local disks, NFS from version 4, Lustre, GPFS or CephFS. Choose a folder there, or mount it with locks."
        )
    return ConfigError(
        f"output_dir = {str(root)!r}: cannot be used: {error.strerror or error}; expected a folder to write in. "
        "Choose another one."
    )
