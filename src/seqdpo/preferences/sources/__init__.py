"""Where an objective's rows lie: on the hub, in a file, in a folder; and which of them are for evaluation."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from seqdpo.errors import ConfigError, DataError
from seqdpo.preferences.datasets import Made, Sourced
from seqdpo.preferences.files import explained
from seqdpo.preferences.pairs import Candidates, Split
from seqdpo.preferences.sources.card import card_splits
from seqdpo.preferences.sources.folders import file_table, files_by_split, folders_by_split, some_data_files
from seqdpo.preferences.sources.library import hub_splits, saved_splits
from seqdpo.preferences.sources.sides import Splits, Table, side_of, sides_of
from seqdpo.study.objectives import BaseObjective, SourcedObjective, SplitPaths, format_of


def read_candidates(name: str, objective: BaseObjective) -> Candidates:
    """All candidate pairs of the objective `name`.

    A source with one split, whatever its name, leaves the split of its pairs to the study. One with several must
    have a training and an evaluation split; of test, eval and validation the first that is there is read, other
    splits are not. Pairs of {train: …, eval: …} are of the side they are named for.
    Raises: ConfigError, before the first pair, for a source that is not there or not laid out like its format;
        DataError for a source that cannot be read, or for the rows in it.
    """
    form = format_of(objective.format)
    if isinstance(form, Made):
        return form.candidates(name, objective)
    assert isinstance(objective, SourcedObjective)
    return _adapted(form, objective, _tables(form, objective))


def _adapted(
    form: Sourced[Any], objective: SourcedObjective, tables: Iterable[tuple[Split | None, Table]]
) -> Candidates:
    kinds: dict[str, str] = {}  # kind of the rows -> the first table that has it
    for split, table in tables:
        rows = iter(table.rows)
        first = next(rows)  # every reader refuses a table without rows
        _check_alike(kinds, form.alike(first, objective), table.where)
        yield from form.candidates(chain([first], rows), objective, split, table.where)


def _check_alike(kinds: dict[str, str], kind: str, where: str) -> None:
    kinds.setdefault(kind, where)
    for other, first in kinds.items():
        if other != kind:
            raise DataError(
                f"{where}: {kind}, but {first}: {other}; expected one kind of rows in all files of an objective. "
                "Make them alike, or read them as two objectives."
            )


def _tables(form: Sourced[Any], objective: SourcedObjective) -> list[tuple[Split | None, Table]]:
    source = objective.dataset_name
    if isinstance(source, SplitPaths):
        sides: tuple[tuple[Split, str], ...] = (("train", source.train), ("eval", source.eval))
        return [(side, table) for side, name in sides for table in side_of(_splits(form, objective, name), side, name)]
    return sides_of(objective, _splits(form, objective, source), source)


def _splits(form: Sourced[Any], objective: SourcedObjective, name: str) -> Splits:
    """Finds what `name` stands for; a local path goes before the hub."""
    path = Path(name)
    with explained(path):
        if not path.exists():
            return hub_splits(name, objective.dataset_revision, form.hub(objective))
        if objective.dataset_revision is not None:
            raise ConfigError(
                f"dataset_revision = {objective.dataset_revision!r}, but dataset_name = {name!r} is a local path; "
                "expected a revision with a hub id only. Remove dataset_revision."
            )
        if not path.is_dir():
            return {"": [file_table(path)]}
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return saved_splits(path)
        return _folder_splits(form, objective, path)


def _folder_splits(form: Sourced[Any], objective: SourcedObjective, folder: Path) -> Splits:
    if form.carded and (splits := card_splits(folder, form.hub(objective).get("name"))) is not None:
        return splits
    folders = form.folders(folder, objective)
    if len(folders) == 1 and (splits := folders_by_split(folders[0])):
        return splits
    return files_by_split([file for each in folders for file in some_data_files(each)], folder)
