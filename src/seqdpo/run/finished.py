"""A finished run folder, read again: what `pairs` and `compare` start from. No torch."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from seqdpo.analyse.results import SCHEMA_VERSION
from seqdpo.errors import ConfigError, DataError
from seqdpo.run.folder import RunFolder, check_run_folder
from seqdpo.wording import listed

#: Columns of scores.parquet whose values repeat; read as dictionaries they take a tenth of the memory.
REPEATED = ["order", "checkpoint", "objective", "split", "pair_id"]
#: Columns of data/pairs.parquet that are most of its bytes.
TEXTS = ("prompt", "chosen", "rejected")
#: Them with 64-bit offsets: Arrow cannot bring more than 2 GiB of plain `string` into another order.
LARGE_TEXTS = pa.schema(
    [
        ("prompt", pa.large_list(pa.struct([("role", pa.large_string()), ("content", pa.large_string())]))),
        ("chosen", pa.large_string()),
        ("rejected", pa.large_string()),
    ]
)
REMEDY = "Run the study again: finished stages are kept, and this file is written anew."


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """The tables and facts of a run folder; docs/run-folder.md describes their columns and keys."""

    folder: RunFolder
    pairs: pa.Table  # data/pairs.parquet without the texts
    study: dict[str, Any]  # study.yaml
    manifest: dict[str, Any]  # manifest.json

    def scores(self, columns: Sequence[str] | None = None, wanted: pc.Expression | None = None) -> pa.Table:
        """scores.parquet; of large runs better only the rows that are wanted.

        Raises: DataError if the file cannot be read.
        """
        path = self.folder.scores
        return read_table(path, columns=columns, filters=wanted, read_dictionary=REPEATED)

    def texts(self, objective: str, split: str, pair_ids: pa.Array) -> pa.Table:
        """Prompt, chosen and rejected of some pairs, in their order.

        Raises: DataError if the file cannot be read, or lacks one of the pairs.
        """
        path = self.folder.pairs
        wanted = (pc.field("objective") == objective) & (pc.field("split") == split)
        wanted &= pc.field("pair_id").isin(pair_ids)
        found = read_table(path, columns=["pair_id", *TEXTS], filters=wanted)
        rows = pc.index_in(pair_ids, value_set=found["pair_id"].combine_chunks())
        if rows.null_count:
            raise DataError(f"{path}: {rows.null_count} pairs are gone; expected those that were scored. {REMEDY}")
        return found.select(TEXTS).cast(LARGE_TEXTS).take(rows)


def read_run(root: Path) -> FinishedRun:
    """The run in a folder.

    Raises: ConfigError if it is no run folder, or the run is not finished; DataError if a file cannot be read.
    """
    folder = _finished_folder(root)
    return FinishedRun(
        folder,
        pairs=read_table(folder.pairs, columns=_columns_without_texts(folder.pairs)),
        study=read_mapping(folder.study, yaml.safe_load),
        manifest=read_mapping(folder.manifest, json.loads),
    )


def read_results(root: Path) -> dict[str, Any]:
    """The findings of a finished run.

    Raises: as `read_run`; DataError if results.json is of another version.
    """
    folder = _finished_folder(root)
    found = read_mapping(folder.results, json.loads)
    if found.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{folder.results}: schema_version = {found.get('schema_version')!r}; expected {SCHEMA_VERSION}. {REMEDY}"
        )
    return found


def _finished_folder(root: Path) -> RunFolder:
    folder = RunFolder(root)
    check_run_folder(folder)
    if not folder.manifest.is_file() or not folder.scores.is_file():
        gone = folder.manifest if folder.scores.is_file() else folder.scores
        raise ConfigError(
            f"{root}: no {gone.name}; expected a finished run. Run `seqdpo run` again to finish it; if it is finished, "
            f"`seqdpo analyse {root}` writes the file anew."
        )
    return folder


def _columns_without_texts(path: Path) -> list[str]:
    with _read(path):
        names: list[str] = pq.read_schema(path).names
    missing = [name for name in ("pair_id", "prompt_id", "objective", "split", *TEXTS) if name not in names]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; found {listed(names)}. {REMEDY}")
    return [name for name in names if name not in TEXTS]


def read_table(path: Path, **options: Any) -> pa.Table:
    """A Parquet file of the run.

    Raises: DataError if it cannot be read.
    """
    with _read(path):
        return pq.read_table(path, partitioning=None, **options)  # the folder's name is no column


def read_mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """A JSON or YAML file of the run.

    Raises: DataError if it cannot be read, or holds no keys.
    """
    with _read(path):
        value = parse(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds {str(value)[:40]!r}; expected keys with values. {REMEDY}")
    return value


@contextmanager
def _read(path: Path) -> Iterator[None]:
    """Turns what reading a file may raise into an error for the user."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected it beside the scores. {REMEDY}") from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read it. Change its rights.") from None
    except (OSError, ValueError, RecursionError, pa.ArrowException, yaml.YAMLError) as error:
        reason = (str(getattr(error, "problem", "") or error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read ({reason[:120]}). {REMEDY}") from None
