"""Files written whole: under a temporary name, then renamed, so that an interrupted run leaves no half of one."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqdpo.errors import ConfigError


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
    """Writes, whole, a file that a user asked for.

    Raises: ConfigError if that cannot be done.
    """
    try:
        with written_whole(output) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ConfigError(
            f"{output}: cannot be written: {error.strerror or error}; expected a place for a file. Choose another one."
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
    """The hash of every file below a folder, by its relative path; what was set aside is none of them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and ".damaged" not in path.name)
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in paths}
