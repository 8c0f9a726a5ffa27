"""Which of a source's splits are for training and which for evaluation."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

from seqdpo.errors import ConfigError
from seqdpo.preferences.pairs import Split
from seqdpo.study.objectives import SourcedObjective
from seqdpo.wording import did_you_mean, listed

#: Words that make a split one for training or for evaluation; of several that are there the first is read.
WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "eval": ("test", "eval", "evaluation", "validation", "valid", "val", "dev"),
}


class Table(NamedTuple):
    """The rows of one file or one split."""

    where: str  # its name in messages
    rows: Iterable[dict[str, Any]]


#: The tables of each split, under the name the source gives it; '' where it gives none.
Splits: TypeAlias = dict[str, list[Table]]


def sides_of(objective: SourcedObjective, splits: Splits, name: str) -> list[tuple[Split | None, Table]]:
    """The tables that are read, each with its side; None where the study draws the side of each prompt.

    Raises: ConfigError where a side cannot be told.
    """
    train, test = objective.dataset_train_split, objective.dataset_test_split
    if test is None and (train is not None or len(splits) == 1):
        return [(None, table) for table in side_of(splits, "train", name, train)]
    named: tuple[tuple[Split, str | None], ...] = (("train", train), ("eval", test))
    return [(side, table) for side, split in named for table in side_of(splits, side, name, split)]


def side_of(splits: Splits, side: Split, name: str, split: str | None = None) -> list[Table]:
    """The tables of the training or the evaluation split: `split`, or the one whose name says so, or the only one."""
    key = "dataset_train_split" if side == "train" else "dataset_test_split"
    if split is not None:
        return _named(key, split, splits, name)
    if len(splits) == 1:
        return next(iter(splits.values()))
    for word in WORDS[side]:
        named = [split for split in splits if word in words(split)]
        # the convention of DPO mixtures on the hub, as in HuggingFaceH4/ultrafeedback_binarized
        for_preferences = [split for split in named if "prefs" in words(split)]
        found = [word] if word in named else for_preferences or named
        if len(found) == 1:
            return splits[found[0]]
        if found:
            raise ConfigError(
                f"dataset_name = {name!r}: splits {listed(found)} could all be the {side} split; expected one. "
                f"Name the one you want: {key}: {found[0]}."
            )
    raise ConfigError(
        f"dataset_name = {name!r}: splits {listed(splits)}; expected one for {side}: {listed(WORDS[side])}. "
        f"Name the ones you want with dataset_train_split and dataset_test_split; the first alone is parted by prompt."
    )


def words(split: str) -> list[str]:
    return re.findall(r"[a-z]+", split.lower())


def _named(key: str, split: str, splits: Splits, name: str) -> list[Table]:
    if split not in splits:
        there = [found or "(one without a name)" for found in splits]
        raise ConfigError(
            f"{key} = {split!r}: dataset_name = {name!r} has the splits {listed(there)}; expected one of them."
            f"{did_you_mean(split, there)} Correct {key}, or leave it out."
        )
    return splits[split]
