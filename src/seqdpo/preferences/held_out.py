"""The pairs of an audit: all of a source is held out, but for what the checkpoints were trained on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from seqdpo.errors import ConfigError
from seqdpo.preferences.pairs import Candidates, Drop, Pair
from seqdpo.preferences.sources import read_candidates
from seqdpo.study.objectives import BaseObjective, SourcedObjective


def held_out_candidates(
    objectives: Mapping[str, BaseObjective], trained_on: Mapping[str, Sequence[str]]
) -> dict[str, Candidates]:
    """The candidates of every objective, all of them for evaluation.

    Kept apart, as drops `trained_on`, are pairs whose prompt is among those of `trained_on`, of whatever objective.
    Where a source has a test split of its own, its training split is kept apart likewise, as `upstream_train_split`.
    Raises: ConfigError for a `trained_on` of an objective without files; and what reading raises.
    """
    trained = {key for name in trained_on for pair in _trained(name, objectives, trained_on) for key in _prompt(pair)}
    read_once = {name: list(read_candidates(name, objective)) for name, objective in objectives.items()}
    upstream = {
        key
        for candidates in read_once.values()
        if _has_test_split(candidates)
        for pair in _pairs(candidates)
        if pair.upstream_split == "train"
        for key in _prompt(pair)
    }
    return {name: iter(_held_out(candidates, trained, upstream)) for name, candidates in read_once.items()}


def _trained(
    name: str, objectives: Mapping[str, BaseObjective], trained_on: Mapping[str, Sequence[str]]
) -> Iterable[Pair]:
    objective = objectives[name]
    if not isinstance(objective, SourcedObjective):
        raise ConfigError(
            f"trained_on.{name}: the objective's format {objective.format!r} has no files; expected an objective with "
            "dataset_name. Remove it."
        )
    for source in trained_on[name]:
        of_file = objective.model_copy(update={"dataset_name": source, "dataset_revision": None})
        yield from _pairs(read_candidates(name, of_file))


def _held_out(candidates: Sequence[Pair | Drop], trained: set[str], upstream: set[str]) -> Candidates:
    for candidate in candidates:
        if isinstance(candidate, Drop):
            yield candidate
        elif not trained.isdisjoint(_prompt(candidate)):
            yield Drop("trained_on")
        elif not upstream.isdisjoint(_prompt(candidate)):
            yield Drop("upstream_train_split")
        else:
            yield replace(candidate, upstream_split="eval")


def _prompt(pair: Pair) -> tuple[str, str]:
    """By its text and, where the data came with one, by its own id."""
    return pair.prompt_hash, pair.prompt_id


def _has_test_split(candidates: Iterable[Pair | Drop]) -> bool:
    return any(pair.upstream_split == "eval" for pair in _pairs(candidates))


def _pairs(candidates: Iterable[Pair | Drop]) -> Iterable[Pair]:
    return (candidate for candidate in candidates if not isinstance(candidate, Drop))
