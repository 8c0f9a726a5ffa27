"""Where an objective's rows lie: on the hub, in a file, in a folder; and which of them are for evaluation."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from seqdpo.errors import ConfigError, DataError
from seqdpo.hub import DATASET_ID, hub_or_cache, kept_snapshot, why_not
from seqdpo.preferences import helpsteer2, hh_rlhf, pku_saferlhf, preference, ultrafeedback
from seqdpo.preferences.files import (
    EXTENSIONS,
    contents,
    data_extension,
    explained,
    first_line,
    nonempty,
    not_found,
    read_rows,
)
from seqdpo.preferences.pairs import Candidates, Split
from seqdpo.study.objectives import (
    HelpSteer2Objective,
    HhRlhfObjective,
    PkuSafeRlhfObjective,
    PreferenceObjective,
    SourcedObjective,
    SplitPaths,
    UltraFeedbackObjective,
)
from seqdpo.wording import did_you_mean, listed

#: Words that make a split one for training or for evaluation; of several that are there the first is read.
_WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "eval": ("test", "eval", "evaluation", "validation", "valid", "val", "dev"),
}
_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?(-[0-9a-f]+)?$")  # train-00000-of-00002, train_1
_PKU_SUBSETS = ("alpaca-7b", "alpaca2-7b", "alpaca3-8b")  # upstream's folders are Alpaca-7B and so on
_METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


class _Table(NamedTuple):
    where: str  # the source's name in messages
    rows: Iterable[dict[str, Any]]


#: The tables of each split, under the name the source gives it; '' where it gives none.
_Splits: TypeAlias = dict[str, list[_Table]]


def read_candidates(objective: SourcedObjective) -> Candidates:
    """All candidate pairs of an objective.

    A source with one split, whatever its name, leaves the split of its pairs to the study. One with several must
    have a training and an evaluation split; of test, eval and validation the first that is there is read, other
    splits are not. Pairs of {train: …, eval: …} are of the side they are named for.
    Raises: ConfigError, before the first pair, for a source that is not there or not laid out like its format;
        DataError for a source that cannot be read, or for the rows in it.
    """
    return _adapted(objective, _split_tables(objective))


def _adapted(objective: SourcedObjective, tables: Iterable[tuple[Split | None, _Table]]) -> Candidates:
    for split, table in tables:
        yield from _candidates(objective, table, split)


def _candidates(objective: SourcedObjective, table: _Table, split: Split | None) -> Candidates:
    match objective:
        case HhRlhfObjective():
            return hh_rlhf.candidates(table.rows, objective, split, table.where)
        case HelpSteer2Objective():
            return helpsteer2.candidates(table.rows, objective, split, table.where)
        case PkuSafeRlhfObjective():
            return pku_saferlhf.candidates(table.rows, objective, split, table.where)
        case UltraFeedbackObjective():
            return ultrafeedback.candidates(table.rows, objective, split, table.where)
        case PreferenceObjective():
            return preference.candidates(table.rows, objective, split, table.where)
    raise AssertionError(f"no adapter for {type(objective).__name__}")


def _split_tables(objective: SourcedObjective) -> list[tuple[Split | None, _Table]]:
    source = objective.dataset_name
    sides: tuple[Split, ...] = ("train", "eval")
    if isinstance(source, SplitPaths):
        return [
            (side, table)
            for side, name in zip(sides, (source.train, source.eval), strict=True)
            for table in _side(_splits(objective, name), side, name)
        ]
    splits = _splits(objective, source)
    if len(splits) == 1:
        return [(None, table) for tables in splits.values() for table in tables]
    return [(side, table) for side in sides for table in _side(splits, side, source)]


def _side(splits: _Splits, side: Split, name: str) -> list[_Table]:
    """The tables of the training or the evaluation split; of the only split where there is one."""
    if len(splits) == 1:
        return next(iter(splits.values()))
    for word in _WORDS[side]:
        named = [split for split in splits if word in _words(split)]
        # the convention of DPO mixtures on the hub, as in HuggingFaceH4/ultrafeedback_binarized
        for_preferences = [split for split in named if "prefs" in _words(split)]
        found = [word] if word in named else for_preferences or named
        if len(found) == 1:
            return splits[found[0]]
        if found:
            raise ConfigError(
                f"dataset_name = {name!r}: splits {listed(found)} could all be the {side} split; expected one. "
                "Save the pairs you want to files and name them as {train: path, eval: path}."
            )
    raise ConfigError(
        f"dataset_name = {name!r}: splits {listed(splits)}; expected one for {side}: {listed(_WORDS[side])}. "
        "Rename them, or name files as {train: path, eval: path}."
    )


def _words(split: str) -> list[str]:
    return re.findall(r"[a-z]+", split.lower())


def _splits(objective: SourcedObjective, name: str) -> _Splits:
    """Finds what `name` stands for; a local path goes before the hub."""
    path = Path(name)
    with explained(path):
        if not path.exists():
            return _hub_splits(objective, name)
        if objective.dataset_revision is not None:
            raise ConfigError(
                f"dataset_revision = {objective.dataset_revision!r}, but dataset_name = {name!r} is a local path; "
                "expected a revision with a hub id only. Remove dataset_revision."
            )
        if not path.is_dir():
            return {"": [_file_table(path)]}
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return _saved_splits(path)
        return _folder_splits(objective, path)


def _file_table(path: Path) -> _Table:
    if data_extension(path) is None:
        raise ConfigError(
            f"{path}: extension {''.join(path.suffixes[-2:])!r}; expected {listed(EXTENSIONS)}, "
            "the first three also with .gz. Convert the file."
        )
    return _Table(str(path), read_rows(path))


def _folder_splits(objective: SourcedObjective, folder: Path) -> _Splits:
    match objective:
        case PkuSafeRlhfObjective(subset=subset):
            folders = _pku_folders(folder, subset)
        case HhRlhfObjective(subset=str(subset)) | PreferenceObjective(subset=str(subset)):
            folders = [_subset_folder(folder, subset)]
        case _:
            folders = [folder]
    return _files_by_split([file for each in folders for file in _some_data_files(each)], folder)


def _subset_folder(folder: Path, subset: str) -> Path:
    if folder.resolve().name == subset:
        return folder
    if (folder / subset).is_dir():
        return folder / subset
    raise _no_subset(folder, subset)


def _pku_folders(folder: Path, subset: str) -> list[Path]:
    """The folders of a subset; the folder itself if the files lie in it directly."""
    root = folder / "data" if (folder / "data").is_dir() else folder
    found = {name.lower(): root / name for name in _subfolders(root)}
    wanted = _PKU_SUBSETS if subset == "default" else (subset,)
    folders = [found[name] for name in wanted if name in found]
    if not folders and not _data_files(root):
        raise _no_subset(root, subset)
    return folders or [root]


def _no_subset(folder: Path, subset: str) -> ConfigError:
    there = _subfolders(folder)
    return ConfigError(
        f"{folder}: no folder for subset = {subset!r}; expected it beside {listed(there)}."
        f"{did_you_mean(subset, there)} Check subset, or download the missing folder."
    )


def _subfolders(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _some_data_files(folder: Path) -> list[Path]:
    """The data files of a folder, or of the folder `data` in it, which is where the hub puts Parquet."""
    files = _data_files(folder)
    if not files and (folder / "data").is_dir():
        files = _data_files(folder / "data")
    if not files:
        raise ConfigError(
            f"{folder}: no data files; expected {listed(EXTENSIONS)}. There: {contents(folder)}. "
            "Check dataset_name, or name the files as {train: path, eval: path}."
        )
    return files


def _data_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if data_extension(file) and file.is_file() and file.name not in _METADATA and not file.name.startswith(".")
    )


def _files_by_split(files: Sequence[Path], folder: Path) -> _Splits:
    """Files under the split that their name says; all in one where no name says any."""
    _check_no_twins(files)
    splits: _Splits = {}
    for file in files:
        splits.setdefault(_SHARD.sub("", _stem(file)), []).append(_file_table(file))
    known = {word for words in _WORDS.values() for word in words}
    others = [split for split in splits if known.isdisjoint(_words(split))]
    if len(others) == len(splits):
        return {"": [table for tables in splits.values() for table in tables]}
    if others:
        raise ConfigError(
            f"{folder}: data files {listed(others)} beside {listed(split for split in splits if split not in others)}; "
            "expected a split in every name or in none. Move them away, or name files as {train: path, eval: path}."
        )
    return splits


def _check_no_twins(files: Iterable[Path]) -> None:
    """The same table in two formats would be read twice."""
    seen: dict[Path, Path] = {}
    for file in files:
        twin = seen.setdefault(file.parent / _stem(file), file)
        if twin is not file:
            raise ConfigError(f"{file}: beside {twin.name}; expected one file of that name. Move one of them away.")


def _stem(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).stem


def _saved_splits(folder: Path) -> _Splits:
    """A folder written by `save_to_disk` of the datasets library."""
    import datasets  # late: a second to import, and most sources do without it

    try:
        with _quiet():
            saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # of many kinds; all mean that the folder is not what it looks like
        raise DataError(
            f"{folder}: cannot be loaded ({first_line(error)}); expected a folder as save_to_disk leaves it. "
            "Save it again."
        ) from error
    return _dataset_splits({"": saved} if isinstance(saved, datasets.Dataset) else saved, str(folder))


def _dataset_splits(splits: Mapping[str, Iterable[dict[str, Any]]], name: str) -> _Splits:
    result: _Splits = {}
    for split, rows in splits.items():
        where = f"{name} ({split})" if split else name
        result[split] = [_Table(where, nonempty(rows, where))]
    return result


def _hub_splits(objective: SourcedObjective, name: str) -> _Splits:
    if not DATASET_ID.fullmatch(name) or data_extension(Path(name)):
        raise ConfigError(
            not_found("dataset_name", name) + " Check the path, or give a hub id such as 'Anthropic/hh-rlhf'."
        )
    subset = getattr(objective, "subset", None)
    by_folder = isinstance(objective, HhRlhfObjective)  # upstream has folders; PKU-SafeRLHF has configurations
    try:
        loaded = load_from_hub(
            name,
            name=None if by_folder else subset,
            data_dir=subset if by_folder else None,
            revision=objective.dataset_revision,
        )
    except Exception as error:  # from datasets, huggingface_hub and its HTTP client, of many kinds
        because = why_not("dataset", name, objective.dataset_revision, error) or _library_reason(error)
        raise ConfigError(f"{not_found('dataset_name', name)} {because}") from error
    return _dataset_splits(loaded, name)


def load_from_hub(
    dataset_id: str, *, name: str | None, data_dir: str | None, revision: str | None
) -> Mapping[str, Iterable[dict[str, Any]]]:
    """All splits of a dataset on the hub, from the local cache where it has them."""
    import datasets

    with _quiet(), hub_or_cache("dataset", dataset_id, revision):
        loaded: Mapping[str, Iterable[dict[str, Any]]] = datasets.load_dataset(
            kept_snapshot(dataset_id, revision) or dataset_id,
            name=name,
            data_dir=data_dir,
            revision=revision,
        )
    return loaded


def _library_reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"From the hub it could not be loaded: {first_line(error)}. Check subset and dataset_revision."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps progress bars and notices of the datasets library off the user's screen."""
    import datasets

    had_bars = not datasets.are_progress_bars_disabled()
    verbosity = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        if had_bars:
            datasets.enable_progress_bars()
        datasets.logging.set_verbosity(verbosity)
