"""Data files: their rows, one after another, exactly as they stand there."""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from seqdpo.errors import DataError
from seqdpo.preferences.json_rows import json_rows
from seqdpo.wording import did_you_mean, first_line, listed

_MAX_LISTED = 20
_LONGEST_LINE = 2**30  # bytes; a list of all rows may stand in one line, but a small .gz can hold one for no memory
_ROWS_AT_ONCE = 64  # of Parquet


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of one of the EXTENSIONS, one after another.

    Not by `datasets.load_dataset`, which guesses one type for a whole column: it makes a date of the response
    '2024-01-02', a number of '007' and a null of 'NA', and cannot read a lone surrogate at all.
    Raises: DataError that names the file, and the line where there are lines, if it cannot be read, is not what
        its extension says, or holds no rows.
    """
    extension = data_extension(path)
    assert extension is not None
    with explained(path):
        _check_not_lfs_pointer(path)
        yield from nonempty(_READERS[extension](path), str(path))


def nonempty(rows: Iterable[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{where}: 0 rows; expected at least one. Give a source that holds preference data.")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what reading `path` can raise into a DataError."""
    try:
        yield
    except PermissionError as error:
        raise DataError(
            f"{path}: no permission to read it; expected a readable file or folder. Change its rights."
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: broken or cut-off gzip; expected a whole .gz file. Copy or download it again, "
            "or take .gz out of the name of a file that is not compressed."
        ) from error
    except OSError as error:
        raise DataError(
            f"{path}: could not be read ({error.strerror or error}). Check the path and the disk."
        ) from error


def not_found(key: str, name: str) -> str:
    """What a key of the study named that is not there, and what is there instead."""
    folder = Path(name).parent
    if not folder.is_dir():
        return f"{key} = {name!r}: no such file or folder here, nor a folder {str(folder)!r}."
    near = did_you_mean(Path(name).name, [child.name for child in folder.iterdir()])
    return f"{key} = {name!r}: no such file or folder here; {str(folder)!r} has {contents(folder)}.{near}"


def contents(folder: Path) -> str:
    """The names in a folder, the first of them where there are many."""
    names = sorted(child.name for child in folder.iterdir())
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return listed(names[:_MAX_LISTED]) + more


def _check_not_lfs_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise DataError(f"{path}: a Git LFS pointer; expected the data themselves. Run git lfs pull.")


def _lines(path: Path) -> Iterator[str]:
    with _open(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), start=1):
            if len(line) > _LONGEST_LINE:
                raise DataError(
                    f"{path}, line {number}: longer than {_LONGEST_LINE:,} bytes; expected one row a line. Write the "
                    "rows as JSON lines."
                )
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: byte {error.start + 1} is not UTF-8; expected UTF-8 text. "
                    "Convert the file, for example with iconv."
                ) from error
            yield text.removeprefix("\ufeff") if number == 1 else text


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """All cells as text."""
    csv.field_size_limit(2**31 - 1)  # the default refuses a dialogue of more than 131,072 characters
    reader = csv.reader(_lines(path), strict=True)
    try:
        header = next(reader, [])
        _check_header(header, path)
        for cells in reader:
            if cells and len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells; expected {len(header)} like the header. "
                    "Put cells that hold a comma or a line break between quotes."
                )
            if cells:  # a blank line has none
                yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not CSV ({error}); expected comma-separated cells. Correct the line."
        ) from error


def _check_header(header: list[str], path: Path) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"{path}, line 1: column {listed(repeated)} twice; expected each name once. Rename one.")


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa  # late: a study file is checked without it
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            texts = _text_columns(file.schema)
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for cells in zip(*batch.columns, strict=True):
                    yield dict(zip(batch.schema.names, (cell.as_py() for cell in cells), strict=True))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        if isinstance(error, MemoryError):  # the file is not to blame
            raise
        raise DataError(
            f"{path}: not Parquet, or damaged ({first_line(error)}); expected a whole Parquet file. "
            "Copy, download or write it again."
        ) from error


def _text_columns(schema: Any) -> list[str]:
    """The texts of a Parquet file, to be read as it holds them: a few bytes may say one long text of many rows."""
    columns = [schema.column(number) for number in range(len(schema))]
    is_text = {("BYTE_ARRAY", kind) for kind in ("STRING", "NONE")}
    return [one.path for one in columns if (one.physical_type, one.logical_type.type) in is_text]


_READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    ".json": lambda path: json_rows(_lines(path), str(path)),
    ".jsonl": lambda path: json_rows(_lines(path), str(path)),
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
#: What `read_rows` reads; the text formats also with .gz.
EXTENSIONS = tuple(_READERS)


def data_extension(path: Path) -> str | None:
    """Which of the EXTENSIONS a file has; None for any other."""
    extension = Path(path.name.lower().removesuffix(".gz")).suffix
    return extension if extension in _READERS else None
