"""Files written whole, and read so that what goes wrong is an error for the user.

Whole: under a temporary name, then renamed, so that an interrupted run leaves no half of one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from seqdpo.errors import ConfigError, DataError
from seqdpo.wording import first_line

REMEDY = "Run the study again: finished stages are kept, and this file is written anew."


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`, which becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """The same for a folder; what an interrupted run left under the temporary name is removed first."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_for_user(output: Path, content: bytes) -> None:
    """Writes, whole, a file that a user asked for.

    Raises: ConfigError if that cannot be done.
    """
    with writing(str(output)), written_whole(output) as temporary:
        temporary.write_bytes(content)


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


def write_table(path: Path, table: pa.Table) -> None:
    with written_whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def file_hash(path: Path) -> str:
    """SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder, by its relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in paths}


def read_table(path: Path, **options: Any) -> pa.Table:
    """A Parquet file of a run.

    Raises: DataError if it cannot be read.
    """
    with reading(path):
        return pq.read_table(path, partitioning=None, **options)  # the folder's name is no column


def read_mapping(path: Path, parse: Callable[[str], Any]) -> Mapping[str, Any]:
    """A JSON or YAML file of a run.

    Raises: DataError if it cannot be read, or holds no keys.
    """
    with reading(path):
        value = parse(path.read_text(encoding="utf-8"))
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
