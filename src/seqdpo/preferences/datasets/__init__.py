"""The formats of preference data: a module each, whose FORMAT says what `seqdpo.study.objectives.FORMATS` registers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from seqdpo.preferences.pairs import Candidates, Split
from seqdpo.study.objectives import BaseObjective, SourcedObjective

Rows: TypeAlias = Iterable[dict[str, Any]]
S = TypeVar("S", bound=SourcedObjective)
M = TypeVar("M", bound=BaseObjective)


@dataclass(frozen=True, slots=True)
class Sourced(Generic[S]):
    """A format that is read from files, folders, saved datasets or the hub."""

    objective: type[S]  # what a study file may say of it
    #: (rows of one file or split, objective, split upstream, the file's name in messages): one item for each
    #: candidate pair.
    candidates: Callable[[Rows, S, Split | None, str], Candidates]
    #: The folders of a local folder that hold the files.
    folders: Callable[[Path, S], list[Path]] = lambda folder, objective: [folder]
    carded: bool = True  # whether a dataset card in the folder is asked first
    #: The `name` (a configuration) and `data_dir` that `datasets.load_dataset` is given.
    hub: Callable[[S], dict[str, str | None]] = lambda objective: {}
    #: What must be alike in the first rows of all files, in words; files of two kinds would be read as one.
    alike: Callable[[dict[str, Any], S], str] = lambda row, objective: ""


@dataclass(frozen=True, slots=True)
class Made(Generic[M]):
    """A format whose pairs are made, not read."""

    objective: type[M]
    candidates: Callable[[str, M], Candidates]  # the objective's name, and what the study says of it
