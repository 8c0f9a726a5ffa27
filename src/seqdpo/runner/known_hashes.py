"""Checksums of large files that are known from an earlier look, so that continuing a run of many stages reads few bytes.

A checksum is believed as long as the file system says that nobody has written to the file since: same size, inode and
times, of which the time of the last change (ctime) cannot be set by a program that puts the others back. So a file that was
changed, exchanged, restored or copied is read again. What is not seen is a disk that changes bits by itself; whoever is
about to use a file reads it whole (`seqdpo.runner.records`).
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from seqdpo.errors import DataError
from seqdpo.files import file_hash, read_sealed, write_sealed
from seqdpo.runner.folder import RunFolder

#: Smaller files are read each time.
LARGE = 1_000_000
#: A file that changed less than so many seconds before it was read may have changed again in the same tick of its clock.
SETTLED = 2.0


class KnownHashes:
    """Of the files of a run folder; kept in `logs/hashes.json`, which only saves time."""

    def __init__(self, folder: RunFolder) -> None:
        self._root, self._path = folder.root, folder.root / "logs" / "hashes.json"
        self._known: dict[str, list[Any]] = {}
        self._new: dict[str, list[Any]] = {}
        with suppress(DataError):
            self._known = read_sealed(self._path)

    def of(self, file: Path) -> str:
        """SHA-256 of a file, as `file_hash`."""
        status = file.stat()
        if status.st_size < LARGE:
            return file_hash(file)
        name = file.relative_to(self._root).as_posix()
        stamp = [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
        known = self._known.get(name)
        found = str(known[-1]) if known is not None and known[:-1] == stamp else file_hash(file)
        if time.time() - status.st_ctime > SETTLED:
            self._new[name] = [*stamp, found]
        return found

    def keep(self) -> None:
        """Writes what was asked for, for the next time."""
        if self._new and self._new != self._known:
            with suppress(OSError):
                write_sealed(self._path, self._new)
