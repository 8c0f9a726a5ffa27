"""What is known of a stage before it is trained, and what it foretells of the earlier objectives."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from seqdpo.analysis.estimates import Clusters, effective_prompts, mean, ratio
from seqdpo.analysis.kept import CONFIDENCE, kept
from seqdpo.analysis.label_pull import label_slope, opposed, opposed_by_slice, opposition_strength, renumbered, share
from seqdpo.analysis.margins import Column, share_above_zero
from seqdpo.analysis.power import (
    pairs_for_accuracy_tolerance,
    pairs_for_margin_tolerance,
    recipe_reach,
    smallest_accuracy_loss,
    smallest_loss,
)
from seqdpo.analysis.schema import Findings, Interval, Record
from seqdpo.errors import DataError
from seqdpo.files import read_sealed
from seqdpo.study.checkpoints import Checkpoint
from seqdpo.study.keys import DesignKeys
from seqdpo.wording import brief

PREFLIGHT_VERSION = 1
#: Prompts in a slice below which nothing is said of its labels.
FEWEST_PROMPTS_OF_SLICE = 10
MOST_SLICES = 5  # in a record, of either end
#: Control stages of which the reach is told.
CONTROLS_TOLD = (2, 4, 8, 16)

Order: TypeAlias = tuple[str, ...]


class NewPairs(NamedTuple):
    """Some of the pairs that a stage will train on."""

    margins: Column  # (n_pairs,) nats against the base, under the policy as it is
    clusters: Clusters
    metadata: pa.Table  # as in data/pairs.parquet


class Earlier(NamedTuple):
    """An earlier objective's held-out pairs before the stage."""

    margins: Column  # (n_pairs,) of all of them, under the policy as it is
    clusters: Clusters
    read: NDArray[np.int64]  # (n_read,) places of those that were forecast and probed
    forecast: Column | None  # (n_read,) change of the margin along a short step down the new pairs' gradient; nats
    probes: Sequence[Column]  # margins (n_read,) after the short stage, then after each of its control stages; or none


class Signals(NamedTuple):
    """What was measured before a stage."""

    new: NewPairs
    new_held_out: Column  # margins of the new objective's held-out pairs, under the policy as it is
    new_held_out_clusters: Clusters
    earlier: Mapping[str, Earlier]


# the records of preflight.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(Record):
    """What the preflight read; `share` is of the stage's training passes."""

    label_pairs: int
    gradient_pairs: int
    held_out_pairs: int  # of each earlier objective
    probe_steps: int  # of the short stage and of each of its control stages
    stage_steps: int
    passes: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpposedSlice(Record):
    """A slice of the new pairs, and the share of its labels that the policy opposes."""

    column: str
    value: str
    opposed: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels(Record):
    """The new labels against the policy as it is."""

    opposed: Interval  # share of pairs whose margin against the base is below 0
    strength: Interval  # nats, the mean of how far below, over those pairs
    slope: Interval  # by what these labels would multiply the present margins; 1 does not pull at them
    slices: tuple[OpposedSlice, ...]  # the most opposed first; at most MOST_SLICES from either end


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSoFar(Record):
    """The new objective's held-out pairs before it is trained."""

    accuracy: Interval
    margin: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult(Record):
    """A short stage beside its control stages: changes of the mean margin as shares of the present one."""

    real: Interval
    controls: tuple[float, ...]
    excess: Interval  # real less the mean of the controls, pair by pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(Record):
    """The forecast: what share of the present margin the stage leaves."""

    value: float
    low: float
    high: float
    confidence: float
    falls_beyond_tolerance: float  # the chance
    outside: bool  # the signals lie outside those that it was validated on


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict(Record):
    """Pairs whose two responses two objectives judge, and the share of them that they label differently."""

    objective: str
    other: str
    differing: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Power(Record):
    """What an objective's held-out pairs can show with a chance of 80%, at the level at which Holm begins."""

    objective: str
    n: int
    n_prompts: int
    smallest_loss: float  # share of what was learned
    smallest_accuracy_loss: float
    pairs_for_margin: int  # at which no change is shown to be none
    pairs_for_accuracy: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold(Record):
    """An earlier objective: what is there, the signals, and the forecast."""

    objective: str
    margin: Interval
    accuracy: Interval
    transfer: float | None  # mean margin of the new pairs, trained and held out, as a share of this objective's own
    gradient: Interval | None  # change along a short step as a share of the present margin
    probe: ProbeResult | None
    kept: Kept | None  # None where nothing is surely there that could be lost


@dataclass(frozen=True, slots=True, kw_only=True)
class RemedyCost(Record):
    """What a remedy costs beside the stage: passes, and as a share of the stage's training passes."""

    remedy: str
    passes: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePreflight(Record):
    """All that is known of one stage before it is trained."""

    seed: int
    checkpoint: str  # that the stage will leave
    from_: str
    objective: str
    cost: Cost
    labels: Labels
    transfer: TransferSoFar
    earlier: tuple[Foretold, ...]
    remedies: tuple[RemedyCost, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BetterOrder(Record):
    """Of two orders of the same objectives, that whose first objective is forecast to keep more."""

    seed: int
    order: str
    other: str
    chance: float  # that it does


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflights(Record):
    """The content of preflight.json, without its seal."""

    schema_version: int
    stages: tuple[StagePreflight, ...]
    orders: tuple[BetterOrder, ...]
    conflicts: tuple[Conflict, ...]  # of objectives that judge the same responses
    power: tuple[Power, ...]  # of every objective that is not the last of some order
    reach: Mapping[str, float | None]  # by number of control stages: the least change told from run noise, in SDs
    waiting: tuple[str, ...]  # stages of which nothing is known: their parent is not trained


def read_preflights(path: Path) -> tuple[Preflights, Mapping[str, Any]]:
    """What a preflight.json holds, and the identity of the model, data and keys that it is of.

    Raises: DataError if it cannot be read, its seal is broken, or it is not what this release writes.
    """
    content = read_sealed(path)
    identity = content.pop("identity", {})
    try:
        return TypeAdapter(Preflights).validate_json(json.dumps(content)), identity
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"{path}: {'.'.join(map(str, first['loc']))} = {brief(first['input'], 60)}: {first['msg']}; expected what "
            "this release writes. Run seqdpo preflight again."
        ) from None


# from signals to records


def stage_preflight(
    seed: int, checkpoint: Checkpoint, of: Signals, cost: Cost, remedies: Sequence[RemedyCost], keys: DesignKeys
) -> StagePreflight:
    """The record of one stage."""
    new, confidence = of.new, keys.confidence
    slope = label_slope(new.margins, keys.beta, new.clusters)
    accuracy = share(share_above_zero(of.new_held_out), of.new_held_out_clusters, of.new_held_out, confidence)
    parent = Checkpoint(checkpoint.path[:-1])
    return StagePreflight(
        seed=seed,
        checkpoint=checkpoint.name,
        from_=parent.name,
        objective=checkpoint.path[-1],
        cost=cost,
        labels=Labels(
            opposed=opposed(new.margins, new.clusters, confidence),
            strength=opposition_strength(new.margins, new.clusters).record(confidence),
            slope=slope.record(confidence),
            slices=_slices(new, confidence),
        ),
        transfer=TransferSoFar(
            accuracy=accuracy,
            margin=mean(of.new_held_out, of.new_held_out_clusters).record(confidence),
        ),
        earlier=tuple(_foretold(name, one, of, keys) for name, one in of.earlier.items()),
        remedies=tuple(remedies),
    )


def _slices(new: NewPairs, confidence: float) -> tuple[OpposedSlice, ...]:
    found = opposed_by_slice(new.metadata, new.margins, new.clusters, FEWEST_PROMPTS_OF_SLICE, confidence)
    shown = found if len(found) <= 2 * MOST_SLICES else [*found[:MOST_SLICES], *found[-MOST_SLICES:]]
    return tuple(OpposedSlice(column=one.column, value=one.value, opposed=one.opposed) for one in shown)


def _foretold(name: str, one: Earlier, of: Signals, keys: DesignKeys) -> Foretold:
    confidence = keys.confidence
    margin = mean(one.margins, one.clusters)
    present, clusters = one.margins[one.read], renumbered(one.clusters[one.read])
    gradient = None if one.forecast is None else ratio(one.forecast, present, clusters)
    probe = _probe(present, one.probes, clusters, confidence) if one.probes else None
    there = margin.interval(confidence)[0] > 0
    new = np.concatenate([of.new.margins, of.new_held_out])
    transfer = float(np.mean(new)) / margin.value if there and len(new) else None
    return Foretold(
        objective=name,
        margin=margin.record(confidence),
        accuracy=share(share_above_zero(one.margins), one.clusters, one.margins, confidence),
        transfer=transfer,
        gradient=None if gradient is None else gradient.record(confidence),
        probe=probe,
        kept=None if transfer is None else _kept(transfer, keys),
    )


def _kept(transfer: float, keys: DesignKeys) -> Kept | None:
    found = kept(transfer, keys.margin_tolerance)
    if found is None:
        return None
    return Kept(
        value=found.value,
        low=found.low,
        high=found.high,
        confidence=CONFIDENCE,
        falls_beyond_tolerance=found.falls,
        outside=found.outside,
    )


def _probe(present: Column, probes: Sequence[Column], clusters: Clusters, confidence: float) -> ProbeResult:
    """Changes as shares of the present margin of the same pairs."""
    real, *controls = (after - present for after in probes)
    return ProbeResult(
        real=ratio(real, present, clusters).record(confidence),
        controls=tuple(float(np.mean(one) / np.mean(present)) for one in controls),
        excess=ratio(real - np.mean(controls, axis=0), present, clusters).record(confidence),
    )


def power_of(objective: str, clusters: Clusters, keys: DesignKeys, level: float) -> Power:
    """`level` is the one-sided one of a claim on a checkpoint at which Holm begins."""
    n_effective = effective_prompts(clusters)
    return Power(
        objective=objective,
        n=len(clusters),
        n_prompts=len(np.unique(clusters)),
        smallest_loss=smallest_loss(n_effective, keys.margin_tolerance, level),
        smallest_accuracy_loss=smallest_accuracy_loss(n_effective, keys.accuracy_tolerance, level),
        pairs_for_margin=pairs_for_margin_tolerance(keys.margin_tolerance, level),
        pairs_for_accuracy=pairs_for_accuracy_tolerance(keys.accuracy_tolerance, level),
    )


def better_orders(stages: Sequence[StagePreflight]) -> tuple[BetterOrder, ...]:
    """Of every two orders of the same two objectives and seed, which first objective is forecast to keep more.

    The two forecasts are taken to err independently and by a normal law.
    """
    of_two = [one for one in stages if len(Checkpoint.parse(one.checkpoint).path) == 2 and one.earlier[0].kept]
    found = []
    for one, other in combinations(of_two, 2):
        if (
            one.seed != other.seed
            or one.objective != other.earlier[0].objective
            or other.objective != one.earlier[0].objective
        ):
            continue
        first, second = one.earlier[0].kept, other.earlier[0].kept
        assert first is not None and second is not None
        sd = math.hypot(_sd(first), _sd(second))
        chance = float(stats.norm.cdf((first.value - second.value) / sd))
        better, worse = (one, other) if chance >= 0.5 else (other, one)
        found.append(
            BetterOrder(seed=one.seed, order=better.checkpoint, other=worse.checkpoint, chance=max(chance, 1 - chance))
        )
    return tuple(found)


def _sd(of: Kept) -> float:
    return (of.high - of.low) / 2 / float(stats.norm.ppf((1 + of.confidence) / 2))


def reach_by_controls(n_seeds: int, level: float) -> dict[str, float | None]:
    """By number of control stages beside each later stage: the least change, in SDs of run noise, of a recipe."""
    return {str(n): recipe_reach(n_seeds, n, level) for n in CONTROLS_TOLD}


# forecast beside what came


class Came(NamedTuple):
    """A forecast beside what came of it, of an earlier objective and a stage that has run."""

    stage: StagePreflight
    of: Foretold
    kept: float | None  # mean margin after over before; None where it is undefined
    inside: bool | None  # the interval of the forecast; None without one


def _is_there(of: Foretold) -> bool:
    """Whether there is, with confidence, a margin to keep."""
    return of.margin.low is not None and of.margin.low > 0


def came(found: Preflights, findings: Findings) -> list[Came]:
    """Of every stage that a preflight was made of and whose scores are there, in the order of preflight.json."""
    scores = {(one.seed, one.checkpoint, one.objective): one.margin.value for one in findings.score_matrix}
    rows = []
    for stage in found.stages:
        for of in stage.earlier:
            after = scores.get((stage.seed, stage.checkpoint, of.objective))
            if (stage.seed, stage.checkpoint, of.objective) not in scores:
                continue
            before = scores.get((stage.seed, stage.from_, of.objective))
            kept = after / before if after is not None and before and _is_there(of) else None
            inside = None if of.kept is None or kept is None else of.kept.low <= kept <= of.kept.high
            rows.append(Came(stage, of, kept, inside))
    return rows
