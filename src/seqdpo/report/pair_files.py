"""The rows of `seqdpo pairs` for other programs, in a file."""

from pathlib import Path
from typing import Literal

import pyarrow as pa

from seqdpo.errors import ConfigError
from seqdpo.files import write_table, writing, written_for_user
from seqdpo.report.rows import row_texts

FileFormat = Literal["jsonl", "csv", "parquet"]
ENDINGS: dict[str, FileFormat] = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}


def file_format(chosen: Literal["table"] | FileFormat | None, output: Path | None) -> FileFormat | None:
    """The format chosen, else the one that the file's name ends with; None: a table on the screen.

    Raises: ConfigError for a table in a file, and for Parquet without one.
    """
    by_name = None if output is None else ENDINGS.get(output.suffix)
    found = chosen or by_name or "table"
    if found == "table" and output is not None:
        raise ConfigError(
            f"--output = {str(output)!r}: a table is for the screen; expected --format jsonl, csv or parquet. Add it."
        )
    if found == "parquet" and output is None:
        raise ConfigError("--format = 'parquet': is no text for the screen; expected --output FILE. Add it.")
    return None if found == "table" else found


def write_rows(rows: pa.Table, form: FileFormat, output: Path) -> None:
    """Writes a file that a user asked for.

    Raises: ConfigError if that cannot be done.
    """
    with writing(f"--output = {str(output)!r}"), written_for_user(output) as path:
        if form == "parquet":
            write_table(path, rows)
            return
        with path.open("w", encoding="utf-8", newline="") as file:
            file.writelines(row_texts(rows, form))
