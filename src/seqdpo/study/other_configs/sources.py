"""Sources of preference pairs that another tool's file names, as objectives of the format `preference`."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from seqdpo.study.keys import OBJECTIVE_NAME
from seqdpo.study.other_configs.stage_file import StageFile
from seqdpo.wording import brief

_DATA_FILE = re.compile(r"\.(jsonl?|csv|parquet)(\.gz)?$")
_SLICE = re.compile(r"\[.*\]$")
#: Names of split that are found by themselves.
_FOUND = {"train": ("train",), "test": ("test", "validation", "eval")}
TEXT = (
    "prompt and responses are plain text, which {tool} puts into a template and seqdpo into none: write each as a list "
    "of messages, [{{role: user, content: …}}]"
)


def add_objective(file: StageFile, source: Any, name: str = "", **more: Any) -> None:
    """An objective that reads `source`, a path, a hub id, or {train: …, eval: …}; None in `more` is left out."""
    paths = source.values() if isinstance(source, dict) else [source]
    if not all(isinstance(path, str) for path in paths):
        file.problems.append(f"source of pairs = {brief(source)}; expected a path or a hub id")
        return
    given = {key: value for key, value in more.items() if value not in (None, {}, "")}
    label = name or (source["train"] if isinstance(source, dict) else source)
    file.objectives[_name(label, file.objectives)] = {"format": "preference", "dataset_name": source, **given}


def split_keys(file: StageFile, train: Any, test: Any) -> dict[str, Any]:
    """The keys of an objective for names of splits; the usual ones are found without."""
    names = {"dataset_train_split": _whole(file, train), "dataset_test_split": _whole(file, test)}
    usual = (names["dataset_train_split"] or "train") in _FOUND["train"] and (
        names["dataset_test_split"] or "test"
    ) in _FOUND["test"]
    return {} if usual else names


def columns(**theirs: Any) -> dict[str, str]:
    """Our columns and theirs, where the names differ."""
    return {ours: column for ours, column in theirs.items() if column and column != ours}


def data_file(path: Any, data_files: Any) -> Any:
    """The one file that `data_files` names, else the path: `{path: json, data_files: x.jsonl}` reads x.jsonl."""
    files = [data_files] if isinstance(data_files, str) else data_files
    return files[0] if isinstance(files, list) and len(files) == 1 else path


def entries(file: StageFile, key: str) -> Iterator[dict[str, Any]]:
    """The sources of a list, each a mapping or a bare path."""
    listed = file.take(key, [])
    for entry in listed if isinstance(listed, list) else [listed]:
        if isinstance(entry, Mapping) and entry.get("path"):
            yield {name: value for name, value in entry.items() if value not in (None, "")}
        elif isinstance(entry, str):
            yield {"path": entry}
        else:
            file.problems.append(f"{key} holds {brief(entry)}; expected sources, each with a path")


def leave_entry(file: StageFile, of: str, entry: Mapping[str, Any]) -> None:
    """Says of each key of a source that nobody took that it has no place."""
    for key, value in entry.items():
        file.leave(f"{of}.{key}", value, "an objective has no such key")


def _whole(file: StageFile, split: Any) -> str | None:
    """The split without a slice, which is said: `train[:1000]` is train."""
    if not isinstance(split, str) or not _SLICE.search(split):
        return split
    file.leave("split", split, "a whole split is read. Set max_train_pairs on the objective to take fewer")
    return _SLICE.sub("", split)


def _name(label: str, taken: Mapping[str, Any]) -> str:
    """`out/helpful.jsonl` is helpful; with a number where that is taken."""
    stem = _DATA_FILE.sub("", PurePosixPath(label.replace("\\", "/")).name)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:36]
    if not OBJECTIVE_NAME.fullmatch(name) or name == "base" or name.startswith("placebo"):
        name = f"pairs-{name}".strip("-")
    numbered = (f"{name}-{number}" for number in range(2, 1000))
    return name if name not in taken else next(one for one in numbered if one not in taken)
