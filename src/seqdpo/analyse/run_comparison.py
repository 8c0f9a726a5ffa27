"""Two runs on the pairs that both have scored: what each checkpoint of the one says beside that of the other."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analyse.changes import FLIPS, flips
from seqdpo.analyse.estimates import Clusters, defined, mean
from seqdpo.analyse.margins import PairScores
from seqdpo.analyse.panel import At, Indices, Panel


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

    def record(self) -> dict[str, Any]:
        """How many pairs both runs have, and each alone."""
        sizes = [0 if panel is None else len(panel.pair_ids) for panel in (self.first, self.second)]
        n = len(self.rows_first)
        return {
            "objective": self.objective,
            "split": self.split,
            "n_common": n,
            "n_only_a": sizes[0] - n,
            "n_only_b": sizes[1] - n,
        }


def common_pairs(first: Sequence[Panel], second: Sequence[Panel]) -> list[Common]:
    """For each objective and split of either run the pairs that both have, joined by their ids."""
    of_first, of_second = _by_name(first), _by_name(second)
    return [_common(of_first.get(name), of_second.get(name)) for name in of_first | of_second]


def comparisons(common: Common, confidence: float) -> list[dict[str, Any]]:
    """A record for each checkpoint that both runs have: means over the common pairs, and the second's less the first's.

    The checkpoints are those that taught the objective or end an order, seed by seed; the same name is the same path
    of objectives. docs/commands.md describes the keys.
    """
    first, second = common.first, common.second
    if first is None or second is None or not len(common.rows_first):
        return []
    clusters = np.unique(first.clusters[common.rows_first], return_inverse=True)[1]
    return [
        {
            "objective": common.objective,
            "split": common.split,
            "seed": at.seed,
            "checkpoint": first.names[at],
            **_comparison(
                _rows(first.checkpoints[at], common.rows_first),
                _rows(second.checkpoints[other], common.rows_second),
                clusters,
                confidence,
            ),
        }
        for at, other in _shared_checkpoints(first, second)
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
        taught = at.order.split(">")[at.stage - 1] == first.objective
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


def _comparison(a: PairScores, b: PairScores, clusters: Clusters, confidence: float) -> dict[str, Any]:
    record: dict[str, Any] = {"n": len(clusters)}
    for name in ("margin", "accuracy"):
        of_a, of_b = getattr(a, name), getattr(b, name)
        record |= {
            f"{name}_a": defined(float(np.mean(of_a))),
            f"{name}_b": defined(float(np.mean(of_b))),
            f"{name}_difference": mean(of_b - of_a, clusters).record(confidence),
        }
    return record | _right_in_one(a, b)


def _right_in_one(a: PairScores, b: PairScores) -> dict[str, int | None]:
    """Pairs with a margin above 0 in one run and below 0 in the other; None where a margin is undefined."""
    codes = flips(a.margin, b.margin)
    names = {"right_only_in_a": "lost", "right_only_in_b": "regained"}
    undefined = (codes < 0).any()
    return {
        key: None if undefined else int(np.count_nonzero(codes == FLIPS.index(flip))) for key, flip in names.items()
    }
