"""The data files of a local folder, and the splits that their names say."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from seqdpo.errors import ConfigError
from seqdpo.preferences.files import EXTENSIONS, contents, data_extension, read_rows
from seqdpo.preferences.sources.sides import WORDS, Splits, Table, words
from seqdpo.wording import did_you_mean, listed

_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?(-[0-9a-f]+)?$")  # train-00000-of-00002, train_1
_METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


def file_table(path: Path) -> Table:
    """Raises: ConfigError if its extension is none that can be read."""
    if data_extension(path) is None:
        raise ConfigError(
            f"{path}: extension {''.join(path.suffixes[-2:])!r}; expected {listed(EXTENSIONS)}, "
            "the first three also with .gz. Convert the file."
        )
    return Table(str(path), read_rows(path))


def some_data_files(folder: Path) -> list[Path]:
    """The data files of a folder, or of the folder `data` in it, which is where the hub puts Parquet."""
    files = data_files(folder)
    if not files and (folder / "data").is_dir():
        files = data_files(folder / "data")
    if not files:
        raise ConfigError(
            f"{folder}: no data files; expected {listed(EXTENSIONS)}. There: {contents(folder)}. "
            "Check dataset_name, or name the files as {train: path, eval: path}."
        )
    return files


def data_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if data_extension(file) and file.is_file() and file.name not in _METADATA and not file.name.startswith(".")
    )


def subset_folder(folder: Path, subset: str) -> Path:
    """The folder of a subset: the one of its name in `folder`, or `folder` itself."""
    if folder.resolve().name == subset:
        return folder
    if (folder / subset).is_dir():
        return folder / subset
    raise no_subset(folder, subset)


def no_subset(folder: Path, subset: str) -> ConfigError:
    there = subfolders(folder)
    return ConfigError(
        f"{folder}: no folder for subset = {subset!r}; expected it beside {listed(there)}."
        f"{did_you_mean(subset, there)} Check subset, or download the missing folder."
    )


def subfolders(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def folders_by_split(folder: Path) -> Splits:
    """The files of folders that have splits' names, train/ and test/, where no data files lie beside them."""
    known = {word for of_side in WORDS.values() for word in of_side}
    named = [folder / name for name in subfolders(folder) if not known.isdisjoint(words(name))]
    if data_files(folder):
        return {}
    return {each.name: [file_table(file) for file in files] for each in named if (files := data_files(each))}


def files_by_split(files: Sequence[Path], folder: Path) -> Splits:
    """Files under the split that their name says; all in one where no name says any."""
    _check_no_twins(files)
    splits: Splits = {}
    for file in files:
        splits.setdefault(_SHARD.sub("", _stem(file)), []).append(file_table(file))
    known = {word for of_side in WORDS.values() for word in of_side}
    others = [split for split in splits if known.isdisjoint(words(split))]
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
