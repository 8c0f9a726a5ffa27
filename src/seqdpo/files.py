"""Files written whole, and read so that what goes wrong is an error for the user.

Whole: under a temporary name, then renamed, so that an interrupted run leaves no half of one.
"""

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from seqdpo.errors import ConfigError, DataError
from seqdpo.values import MOST_VALUES, holds_too_much
from seqdpo.wording import first_line

REMEDY = "Run the study again: finished stages are kept, and this file is written anew."

#: Under this key a record holds the checksum of all others.
_SEAL = "checksum"
#: The temporary names of this module, by the process that writes; older releases left the host out.
_TEMPORARY = re.compile(r"\.(?P<of>.+)\.((?P<host>[A-Za-z0-9-]+)-)?(?P<process>[0-9]+)\.tmp")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`, which becomes `path` when the block ends well.

    The name is one process's own, and what stands under `path` before is there until the new file is on the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        _on_disk(temporary)
        if path.is_dir():  # no file can take its place
            set_aside(path)
        temporary.replace(path)
        _on_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """The same for a folder that is not there yet."""
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _on_disk(file)
        temporary.rename(path)
        _on_disk(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(root: Path, spared: Collection[str] = ()) -> None:
    """Removes what killed processes left under temporary names below `root`.

    What another process of this machine is writing stays (a page is written without the folder's lock), and what is
    of a file or folder whose name is spared, or lies in one.
    """
    for path in list(root.rglob(".*.tmp")):
        of = _left_behind(path)
        if of and not {of, *path.relative_to(root).parts}.intersection(spared):
            _remove(path)


def sweep_of(path: Path) -> None:
    """The same for one file or folder: what was left in it, and beside it under its own name."""
    sweep(path)
    for other in list(path.parent.glob(f".{path.name}.*.tmp")):
        if _left_behind(other) == path.name:
            _remove(other)


def _left_behind(path: Path) -> str | None:
    """Whose temporary name a path has; None if it is no such name, or of another process that may still write it."""
    name = _TEMPORARY.fullmatch(path.name)
    if name is None or (name["host"] == host_name() and _is_another(int(name["process"]))):
        return None
    return name["of"]


def _is_another(process: int) -> bool:
    """Whether a process of that number, not this one, is alive; Windows does not tell without harm."""
    if process == os.getpid() or os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def host_name() -> str:
    """This machine among those that share a folder."""
    return re.sub("[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0]) or "host"


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{host_name()}-{os.getpid()}.tmp")


def _on_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's names, would survive a power cut; Windows has no such call."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Renames a file or folder that is not to be believed, beside what may take its place; nothing if it is gone."""
    names = (path.with_name(f"{path.name}.damaged{number}") for number in ("", *range(2, 10_000)))
    aside = next(name for name in names if not name.exists())
    if path.exists():
        path.rename(aside)
    return aside


def write_text(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_for_user(output: Path, content: bytes) -> None:
    """Writes a file that a user asked for.

    Raises: ConfigError if that cannot be done.
    """
    with writing(str(output)), written_for_user(output) as path:
        path.write_bytes(content)


@contextmanager
def written_for_user(output: Path) -> Iterator[Path]:
    """As `written_whole`, but a device, a pipe or the target of a link stays what it is, and is written through."""
    if not output.exists() or (output.is_file() and not output.is_symlink()):
        with written_whole(output) as path:
            yield path
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / output.name
        yield path
        output.write_bytes(path.read_bytes())


@contextmanager
def writing(where: str) -> Iterator[None]:
    """Turns what writing a file for a user may raise into an error for the user, which begins with `where`."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{where}: cannot be written: {error.strerror or error}; expected a place for a file. Choose another one."
        ) from None


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """JSON that holds the checksum of its own content."""
    write_json(path, {**value, _SEAL: _seal(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote; older releases wrote no checksum.

    Raises: DataError if it cannot be read, or is not what was written.
    """
    value = dict(read_mapping(path, json.loads))
    found, expected = value.pop(_SEAL, None), _seal(value)
    if found not in (None, expected):
        raise DataError(f"{path}: checksum = {expected[:16]}; expected {str(found)[:16]}: it is spoilt. {REMEDY}")
    return value


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_table(path: Path, table: pa.Table) -> None:
    """A Parquet file with a checksum of every page, so that other readers, too, can tell that it is spoilt."""
    with written_whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def file_hash(path: Path) -> str:
    """SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hash(path: Path, expected: str, record: str, remedy: str) -> None:
    """Raises: DataError if a file is not there, or not the one whose checksum a record holds."""
    with reading(path):
        found = file_hash(path)
    if found != expected:
        raise DataError(
            f"{path}: checksum = {found[:16]}; expected {expected[:16]} as in {record}: it is spoilt, or another "
            f"run's. {remedy}"
        )


def file_hashes(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder, by its relative path; what was set aside is none of them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and ".damaged" not in path.name)
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in paths}


def read_table(path: Path, **options: Any) -> pa.Table:
    """A Parquet file of a run, its pages checked; older releases wrote pages without checksums.

    Raises: DataError if it cannot be read.
    """
    with reading(path):  # without partitioning, for the folder's name is no column
        return pq.read_table(path, partitioning=None, page_checksum_verification=True, **options)


def read_mapping(path: Path, parse: Callable[[str], Any]) -> Mapping[str, Any]:
    """A JSON or YAML file of a run.

    Raises: DataError if it cannot be read, or holds no keys.
    """
    with reading(path):
        value = parse(path.read_text(encoding="utf-8"))
    if holds_too_much(value):
        raise DataError(f"{path}: holds more than {MOST_VALUES:,} values; expected a record of a run. {REMEDY}")
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds {str(value)[:40]!r}; expected keys with values. {REMEDY}")
    return value


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what reading a file of a run may raise into an error for the user."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected it beside the scores. {REMEDY}") from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read it. Change its rights.") from None
    except (OSError, ValueError, RecursionError, pa.ArrowException, yaml.YAMLError) as error:
        reason = getattr(error, "problem", None) or first_line(error)  # of YAML, what is wrong and not where
        raise DataError(f"{path}: cannot be read ({reason[:120]}). {REMEDY}") from None
