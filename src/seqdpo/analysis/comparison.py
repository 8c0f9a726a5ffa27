"""Two runs on the pairs that both have scored: what each checkpoint of the one says beside that of the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analysis.changes import FLIPS, flips
from seqdpo.analysis.estimates import Clusters, defined, mean
from seqdpo.analysis.margins import PairScores
from seqdpo.analysis.panel import At, Indices, Panel
from seqdpo.analysis.schema import Interval, Record
from seqdpo.study.checkpoints import parse_order

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Record):
    """A key of the study, or an input, that is not the same."""

    key: str
    a: object
    b: object


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCount(Record):
    """How many pairs of an objective both runs have, and each alone."""

    objective: str
    split: str
    n_common: int
    n_only_a: int
    n_only_b: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedCheckpoint(Record):
    """A checkpoint that both runs have: means over the common pairs, and B less A pair by pair."""

    objective: str
    split: str
    seed: int
    checkpoint: str
    n: int
    margin_a: float | None
    margin_b: float | None
    margin_difference: Interval
    accuracy_a: float | None
    accuracy_b: float | None
    accuracy_difference: Interval
    right_only_in_a: int | None
    right_only_in_b: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Record):
    """Two runs beside each other; docs/commands.md describes every key."""

    schema_version: int
    a: str  # where the runs lie
    b: str
    method: str
    differences: tuple[Difference, ...]
    pairs: tuple[PairCount, ...]
    checkpoints: tuple[ComparedCheckpoint, ...]


class Common(NamedTuple):
    """The pairs of one objective that two runs share, in the order of the first."""

    first: Panel | None  # None: only the other run has the objective
    second: Panel | None
    rows_first: Indices  # (n_common,) where they stand in the panel
    rows_second: Indices

    @property
    def objective(self) -> str:
        return self._any.objective

    @property
    def split(self) -> str:
        return self._any.split

    @property
    def pair_ids(self) -> pa.Array:
        return self._any.pair_ids.take(pa.array(self.rows_first))

    @property
    def _any(self) -> Panel:
        panel = self.first or self.second
        assert panel is not None
        return panel

    def record(self) -> PairCount:
        sizes = [0 if panel is None else len(panel.pair_ids) for panel in (self.first, self.second)]
        n = len(self.rows_first)
        return PairCount(
            objective=self.objective, split=self.split, n_common=n, n_only_a=sizes[0] - n, n_only_b=sizes[1] - n
        )


def common_pairs(first: Sequence[Panel], second: Sequence[Panel]) -> list[Common]:
    """For each objective and split of either run the pairs that both have, joined by their ids."""
    of_first, of_second = _by_name(first), _by_name(second)
    return [_common(of_first.get(name), of_second.get(name)) for name in of_first | of_second]


def comparisons(common: Common, confidence: float) -> list[ComparedCheckpoint]:
    """A record for each checkpoint that both runs have.

    The checkpoints are those that taught the objective or end an order, seed by seed; the same name is the same path
    of objectives.
    """
    if common.first is None or not len(common.rows_first):
        return []
    clusters = np.unique(common.first.clusters[common.rows_first], return_inverse=True)[1]
    return [
        _record(common, seed, name, of_a, of_b, clusters, confidence)
        for (seed, name), (of_a, of_b) in shared_scores(common).items()
    ]


def shared_scores(common: Common) -> dict[tuple[int, str], tuple[PairScores, PairScores]]:
    """What both runs say of the common pairs at each checkpoint of `comparisons`, by seed and name."""
    first, second = common.first, common.second
    if first is None or second is None:
        return {}
    return {
        (at.seed, first.names[at]): (
            _rows(first.checkpoints[at], common.rows_first),
            _rows(second.checkpoints[other], common.rows_second),
        )
        for at, other in _shared_checkpoints(first, second)
    }


def _by_name(panels: Sequence[Panel]) -> dict[tuple[str, str], Panel]:
    return {(panel.objective, panel.split): panel for panel in panels}


def _common(first: Panel | None, second: Panel | None) -> Common:
    if first is None or second is None:
        nothing = np.empty(0, dtype=np.int64)
        return Common(first, second, nothing, nothing)
    found = pc.index_in(first.pair_ids, value_set=second.pair_ids)
    shared = found.is_valid().to_numpy(zero_copy_only=False)
    return Common(first, second, np.flatnonzero(shared), found.drop_null().to_numpy().astype(np.int64))


def _shared_checkpoints(first: Panel, second: Panel) -> Iterator[tuple[At, At]]:
    of_second = _real_checkpoints(second)
    ends = _ends(first) | _ends(second)
    for name, at in _real_checkpoints(first).items():
        taught = parse_order(at.order)[at.stage - 1] == first.objective
        if name in of_second and (taught or name in ends):
            yield at, of_second[name]


def _real_checkpoints(panel: Panel) -> dict[tuple[int, str], At]:
    """The trained checkpoints by seed and name, control stages left out; orders that share one list it once."""
    named: dict[tuple[int, str], At] = {}
    for at in panel.checkpoints:
        if at.stage and not at.placebo:
            named.setdefault((at.seed, panel.names[at]), at)
    return named


def _ends(panel: Panel) -> set[tuple[int, str]]:
    """The checkpoints after the last stage of an order."""
    last = (At(seed, order, panel.stages(seed, order)[-1]) for seed, order in panel.orders())
    return {(at.seed, panel.names[at]) for at in last}


def _rows(scores: PairScores, rows: Indices) -> PairScores:
    return PairScores(*(column[rows] for column in scores))


def _record(
    common: Common, seed: int, name: str, a: PairScores, b: PairScores, clusters: Clusters, confidence: float
) -> ComparedCheckpoint:
    right_only_in_a, right_only_in_b = _right_in_one(a, b)
    return ComparedCheckpoint(
        objective=common.objective,
        split=common.split,
        seed=seed,
        checkpoint=name,
        n=len(clusters),
        margin_a=defined(float(np.mean(a.margin))),
        margin_b=defined(float(np.mean(b.margin))),
        margin_difference=mean(b.margin - a.margin, clusters).record(confidence),
        accuracy_a=defined(float(np.mean(a.accuracy))),
        accuracy_b=defined(float(np.mean(b.accuracy))),
        accuracy_difference=mean(b.accuracy - a.accuracy, clusters).record(confidence),
        right_only_in_a=right_only_in_a,
        right_only_in_b=right_only_in_b,
    )


def _right_in_one(a: PairScores, b: PairScores) -> tuple[int | None, int | None]:
    """Pairs with a margin above 0 in A and below 0 in B, and the reverse; None where a margin is undefined."""
    codes = flips(a.margin, b.margin)
    if (codes < 0).any():
        return None, None
    lost, regained = (int(np.count_nonzero(codes == FLIPS.index(flip))) for flip in ("lost", "regained"))
    return lost, regained
