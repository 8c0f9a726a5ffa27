"""Scores from elsewhere as a run folder, so that report, pairs, gate and compare read them. No torch, no model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

import seqdpo
from seqdpo.analysis.given_scores import given_scores
from seqdpo.analysis.results import MechanismTables, results
from seqdpo.analysis.schema import to_json
from seqdpo.errors import ConfigError
from seqdpo.files import file_hash, folder_written_whole, write_json, write_sealed, write_table
from seqdpo.layout import RunFiles
from seqdpo.preferences.files import contents, read_rows
from seqdpo.tables import NODE_COLUMNS, STAGE_TABLES

#: What the files may be; CSV holds no numbers.
_KINDS = (".jsonl", ".jsonl.gz", ".parquet")


def run_of_scores(source: Path, root: Path, beta: float) -> None:
    """Writes a run folder of scores in the form of docs/scores.md.

    `beta` scales `reward_margin`, and nothing else.
    Raises: ConfigError if the folder is there already, or the file is not; DataError as `given_scores`.
    """
    if not source.is_file():
        raise ConfigError(f"{source}: no such file; expected scores as JSON lines or Parquet{_beside(source)}.")
    if not source.name.lower().endswith(_KINDS):
        raise ConfigError(f"{source}: expected a file named {', '.join(_KINDS)}. Write the scores as one of them.")
    if root.exists():
        raise ConfigError(f"{root}: exists already; expected a new folder. Choose another with --output.")
    scores, pairs = given_scores(read_rows(source), str(source))
    study = {"kind": "scores", "beta": beta, "seeds": scores["seed"].unique().to_pylist()}
    mechanism = {name: _empty(name) for name in STAGE_TABLES}
    found = results(scores, pairs, beta, study=study, mechanism=MechanismTables(**mechanism))
    counts = {one["values"]: one["counts"] for one in pairs["objective"].value_counts().to_pylist()}
    try:
        with folder_written_whole(root) as folder:
            files = RunFiles(folder)
            tables = {files.scores: scores, files.pairs: pairs}
            tables |= {folder / f"{name}.parquet": table for name, table in mechanism.items()}
            for path, table in tables.items():
                write_table(path, table)
            write_json(files.study, study)  # JSON is YAML
            write_json(files.dropped, {name: _account(n) for name, n in counts.items()})
            write_json(files.results, to_json(found))
            whole = (files.study, files.dropped, files.results, *tables)
            write_sealed(files.manifest, _manifest(source) | {"files": files.hashes(*whole)})
    except OSError as error:
        raise ConfigError(
            f"{root}: cannot be written ({error.strerror}). Choose another place with --output."
        ) from None


def _beside(source: Path) -> str:
    return f"; {str(source.parent)!r} has {contents(source.parent)}" if source.parent.is_dir() else ""


def _empty(name: str) -> pa.Table:
    return pa.schema([*NODE_COLUMNS, *STAGE_TABLES[name][0]]).empty_table()


def _account(n: int) -> Mapping[str, Any]:
    return {"read": n, "train": 0, "eval": n, "dropped": {}}


def _manifest(source: Path) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "scores": source.name,
        "engine": f"none: scores of {source.name}",
        "identity": {"model": "not known", "data": file_hash(source), "seqdpo": seqdpo.__version__},
    }
