"""Did the change depend on how sure the model was of a pair when it was taught? By quartiles of that margin.

A run's margins hold noise of that run (seed, order of the data, initial weights). Pairs of high margin are partly those
that the noise lifted, so they fall back later, and pairs of low margin rise, where nothing happened at all. Therefore
only two decompositions are findings here: by quartiles that another seed sets, and the excess over control stages that
started from the same checkpoint and hold the same noise. And a run changes quartiles by chance, too, all pairs of one
together: a finding lies beyond the noise of the pairs and beyond what the control stages differ by among each other.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from seqdpo.analysis.association import fit_line, slope_by_instrument, varies
from seqdpo.analysis.cells import Cell
from seqdpo.analysis.changes import FLIPS, FlipCodes, all_or_nothing, flips
from seqdpo.analysis.estimates import Clusters, Estimate, defined, difference, mean, two_sided
from seqdpo.analysis.margins import Column, PairScores, share_above_zero
from seqdpo.analysis.multiplicity import holm
from seqdpo.analysis.panel import Indices, Mask
from seqdpo.analysis.run_noise import FEWEST_CONTROLS, beyond_controls
from seqdpo.analysis.schema import (
    BeyondControls,
    BiasedQuartile,
    BiasedTable,
    Contrast,
    CrossFittedQuartile,
    CrossFittedTable,
    ExcessQuartile,
    ExcessTable,
    Interval,
    QuartileBasis,
    QuartileFinding,
    Slopes,
    extended,
)
from seqdpo.analysis.schema import Quartiles as QuartileFindings

QUARTILES = ("Q1", "Q2", "Q3", "Q4")  # from the lowest margins to the highest
BIASED = (
    "Not a finding. These quartiles are set by the run's own margins, and regression to the mean alone makes Q1 rise "
    "and Q4 fall where nothing happened. Shown only for comparison with studies that bin this way; without intervals "
    "and tests, because none would hold."
)
_UNTESTABLE = (
    "Withheld: the quartiles cannot be tested, because a pair has no finite log-probability or no quartile holds two "
    "prompts. Score more pairs, and leave out those without."
)
#: Control stages with which a redistribution is likely to be found; two are the fewest that can be tested with.
ENOUGH_CONTROLS = 4
_FLIPPED = ("lost", "regained")


#: What a finding may rest on, in words; the first that is there.
_BASES: dict[QuartileBasis, str] = {
    "cross_fitted": "with quartiles set by other seeds, and beyond what the control stages did to them",
    "excess_over_placebo": "beyond what the control stages did to the same quartiles",
}
SCOPE = (
    "this run, as one more beside its control stages: beyond the noise of its pairs, and beyond what one control stage "
    "differs from the next; runs with and without an effect are taken to vary alike"
)


class Quartiles(NamedTuple):
    """Which quarter of the pairs each one is in."""

    codes: Indices  # (n_pairs,) position in QUARTILES, -1 where the value is NaN
    edges: tuple[float, float, float]  # a pair at an edge is in the quartile below it; NaN without any value

    def bounds(self, quartile: int) -> tuple[float | None, float | None]:
        """Its values lie above the first and up to the second; None where it is open."""
        ends = (math.nan, *self.edges, math.nan)
        return defined(ends[quartile]), defined(ends[quartile + 1])


class _Moves(NamedTuple):
    """What became of the pairs of a cell, or in one of its control stages; every field has (n_pairs,)."""

    change: Column
    accuracy_change: Column
    flip: FlipCodes


class _Table(NamedTuple):
    """What is shown quartile by quartile; every column has (n_pairs,)."""

    bins: Quartiles
    columns: Mapping[str, Column]  # the first of them is tested
    flip: FlipCodes
    control_flips: Sequence[FlipCodes]
    clusters: Clusters
    change: Column = np.empty(0)  # of the margin, as in each of the control stages
    in_controls: Sequence[Column] = ()

    @property
    def tested(self) -> Column:
        return next(iter(self.columns.values()))


def quartiles(values: Column) -> Quartiles:
    """The quartiles of the values (n,) that are not NaN.

    Equal values are never parted, lest the order of the rows decide; so with many ties quartiles differ in size, and
    some may be empty.
    """
    there = ~np.isnan(values)
    if not there.any():
        return Quartiles(np.full(len(values), -1), (math.nan, math.nan, math.nan))
    low, middle, high = np.quantile(values[there], (0.25, 0.5, 0.75)).tolist()
    return Quartiles(np.where(there, np.searchsorted((low, middle, high), values), -1), (low, middle, high))


def independent_runs(cell: Cell) -> list[PairScores]:
    """What taught the cell's objective in the other seeds, seed by seed: the same stage of the same order."""
    wanted = (cell.order, cell.taught, 0)
    checkpoints = cell.panel.checkpoints
    others = sorted(at for at in checkpoints if (at.order, at.stage, at.placebo) == wanted and at.seed != cell.seed)
    return [checkpoints[at] for at in others]


def quartile_record(cell: Cell, others: Sequence[PairScores], confidence: float) -> QuartileFindings:
    """The change of a cell by quartiles of the margin when taught.

    `others` are `independent_runs(cell)`. Where a margin of any of these runs is NaN, no pair is in any quartile.
    """
    n_controls, clusters = len(cell.controls), cell.panel.clusters
    runs = all_or_nothing(cell.when_taught, cell.before, cell.after, *cell.controls, *others)
    taught, before, after, *more = (scores.margin for scores in runs)
    moves, in_controls = _moves(before, after), [_moves(before, control) for control in more[:n_controls]]
    seeds = more[n_controls:]
    cross_fitted = _cross_fitted(moves, in_controls, seeds, clusters, confidence) if seeds else None
    excess = _excess(moves, in_controls, taught, clusters, confidence) if in_controls else None
    found = _finding(cross_fitted, excess, cell, 1 - confidence)
    return QuartileFindings(
        n_other_seeds=len(seeds),
        n_controls=n_controls,
        as_in_the_study=_as_in_the_study(moves, taught, clusters, confidence),
        cross_fitted=cross_fitted,
        excess_over_placebo=excess,
        slope=_slopes(moves, in_controls, taught, seeds, cell, confidence),
        redistribution_index=_redistribution_index(moves, in_controls, taught),
        finding=None if isinstance(found, str) else found,
        withheld=found if isinstance(found, str) else None,
    )


def _moves(before: Column, after: Column) -> _Moves:
    return _Moves(after - before, share_above_zero(after) - share_above_zero(before), flips(before, after))


def _as_in_the_study(moves: _Moves, taught: Column, clusters: Clusters, confidence: float) -> BiasedTable:
    """Without intervals: they would be around biased numbers, and look like findings."""
    columns = {"margin_change": moves.change, "accuracy_change": moves.accuracy_change}
    rows = _rows(_Table(quartiles(taught), columns, moves.flip, [], clusters), confidence)
    bare = [row | {name: _without_interval(row[name]) for name in columns} for row in rows]
    return BiasedTable(biased=True, text=BIASED, rows=tuple(BiasedQuartile(biased=True, **row) for row in bare))


def _without_interval(estimate: Interval) -> Interval:
    return replace(estimate, low=None, high=None)


def _cross_fitted(
    moves: _Moves, in_controls: Sequence[_Moves], seeds: Sequence[Column], clusters: Clusters, confidence: float
) -> CrossFittedTable:
    columns = {"margin_change": moves.change, "accuracy_change": moves.accuracy_change}
    changes = [control.change for control in in_controls]
    table = _Table(quartiles(_average(seeds)), columns, moves.flip, [], clusters, moves.change, changes)
    return CrossFittedTable(
        rows=tuple(CrossFittedQuartile(**row) for row in _tested(table, confidence)),
        q4_minus_q1=_contrast(table, confidence),
    )


def _excess(
    moves: _Moves, in_controls: Sequence[_Moves], taught: Column, clusters: Clusters, confidence: float
) -> ExcessTable:
    columns = {
        "excess_margin_change": _beyond(moves, in_controls),
        "excess_accuracy_change": moves.accuracy_change - _average([c.accuracy_change for c in in_controls]),
    }
    control_flips, changes = zip(*((control.flip, control.change) for control in in_controls), strict=True)
    table = _Table(quartiles(taught), columns, moves.flip, control_flips, clusters, moves.change, changes)
    return ExcessTable(
        rows=tuple(ExcessQuartile(**row) for row in _tested(table, confidence)),
        q4_minus_q1=_contrast(table, confidence),
    )


def _beyond(moves: _Moves, in_controls: Sequence[_Moves]) -> Column:
    """Each pair's change less its mean change over the control stages: both hold the same regression to the mean."""
    return moves.change - _average([control.change for control in in_controls])


def _average(columns: Sequence[Column]) -> Column:
    """(n_pairs,) summed one by one, so that no copy of all of them is made."""
    total: Column = sum(columns[1:], columns[0])
    return total / len(columns)


def _tested(table: _Table, confidence: float) -> list[dict[str, Any]]:
    """The rows, with the first column against 0 over the pairs, and beside the control stages; Holm over the four."""
    members = [table.bins.codes == i for i in range(len(QUARTILES))]
    p_holm = holm([two_sided(mean(table.tested[pairs], table.clusters[pairs])) for pairs in members])
    beyond = [_beside_controls(table, _mean_over(pairs), confidence) for pairs in members]
    run_p_holm = holm([None if one is None else one.p for one in beyond])
    more = zip(_rows(table, confidence), p_holm, beyond, run_p_holm, strict=True)
    return [row | {"p_holm": p, "beyond_controls": b, "run_p_holm": run_p} for row, p, b, run_p in more]


def _contrast(table: _Table, confidence: float) -> Contrast:
    """Q4 - Q1 of the first column."""
    codes = table.bins.codes
    found = difference(table.tested, codes == 3, codes == 0, table.clusters)
    q4, q1 = _mean_over(codes == 3), _mean_over(codes == 0)
    beyond = _beside_controls(table, lambda change: q4(change) - q1(change), confidence)
    return extended(found.record(confidence), Contrast, p=two_sided(found), beyond_controls=beyond)


def _beside_controls(table: _Table, number: Callable[[Column], float], confidence: float) -> BeyondControls | None:
    """A number of the change of each pair, (n_pairs,), beside the same of each control stage."""
    return beyond_controls(number(table.change), [number(change) for change in table.in_controls], confidence)


def _mean_over(pairs: Mask) -> Callable[[Column], float]:
    return lambda values: float(np.mean(values[pairs])) if pairs.any() else math.nan


def _rows(table: _Table, confidence: float) -> list[dict[str, Any]]:
    """The fields that all tables' quartiles have, and those of their columns."""
    return [_row(table, i, np.flatnonzero(table.bins.codes == i), confidence) for i in range(len(QUARTILES))]


def _row(table: _Table, i: int, pairs: Indices, confidence: float) -> dict[str, Any]:
    """The i-th quartile; `pairs` are the positions of its members."""
    above, up_to = table.bins.bounds(i)
    estimates = {name: mean(column[pairs], table.clusters[pairs]) for name, column in table.columns.items()}
    row: dict[str, Any] = {
        "quartile": QUARTILES[i],
        "margin_above": above,
        "margin_up_to": up_to,
        "n": len(pairs),
        "n_prompts": next(iter(estimates.values())).n_prompts,
        **{name: estimate.record(confidence) for name, estimate in estimates.items()},
        **_flip_counts(table.flip[pairs]),
    }
    if table.control_flips:
        counts = [_flip_counts(flip[pairs]) for flip in table.control_flips]
        row |= {f"{word}_in_controls": float(np.mean([count[word] for count in counts])) for word in _FLIPPED}
    return row


def _flip_counts(flip: FlipCodes) -> dict[str, int]:
    return {word: int(np.count_nonzero(flip == FLIPS.index(word))) for word in _FLIPPED}


def _slopes(
    moves: _Moves,
    in_controls: Sequence[_Moves],
    taught: Column,
    seeds: Sequence[Column],
    cell: Cell,
    confidence: float,
) -> Slopes:
    """Slopes of the change on the margin when taught: nats of change for each nat of margin."""
    clusters = cell.panel.clusters
    beyond = _beyond(moves, in_controls) if in_controls else None

    def on_taught(change: Column) -> Estimate:
        return fit_line(change, taught, clusters).slope

    def corrected(change: Column | None) -> Interval | None:
        if change is None or not seeds:
            return None
        slope = slope_by_instrument(change, taught, _average(seeds), clusters, confidence)
        return slope.record(confidence) if math.isfinite(slope.value) else None

    return Slopes(
        biased=_without_interval(on_taught(moves.change).record(confidence)),
        correlation_between_seeds=_correlation(taught, seeds),
        corrected=corrected(moves.change),
        excess_over_placebo=None if beyond is None else on_taught(beyond).record(confidence),
        excess_corrected=corrected(beyond),
        beyond_controls=beyond_controls(
            on_taught(moves.change).value, [on_taught(control.change).value for control in in_controls], confidence
        ),
    )


def _correlation(taught: Column, seeds: Sequence[Column]) -> float | None:
    """Mean of the correlations of this run's margins with each other seed's; None without any, or without spread."""
    if not seeds or not all(varies(column) for column in (taught, *seeds)):
        return None
    return float(np.mean([np.corrcoef(taught, other)[0, 1] for other in seeds]))


def _redistribution_index(moves: _Moves, in_controls: Sequence[_Moves], taught: Column) -> float | None:
    """SD of the change beyond that in control stages, in SDs of the margin when taught; None without controls."""
    if not in_controls or not varies(taught):
        return None
    noise = float(np.mean([np.var(control.change) for control in in_controls]))
    return math.sqrt(max(0.0, float(np.var(moves.change)) - noise)) / float(np.std(taught))


def _finding(
    cross_fitted: CrossFittedTable | None, excess: ExcessTable | None, cell: Cell, level: float
) -> QuartileFinding | str:
    """What may be said, from the first table that is there; else why nothing is, and what would make a finding."""
    table = cross_fitted or excess
    if table is None:
        return _nothing_to_compare_with(cell)
    if len(cell.controls) < FEWEST_CONTROLS:
        return _run_noise_unknown(cell)
    if all(row.p_holm is None or row.run_p_holm is None for row in table.rows):
        return _UNTESTABLE
    basis: QuartileBasis = "cross_fitted" if cross_fitted else "excess_over_placebo"
    directions = {row.quartile: _direction(row, level) for row in table.rows}
    rose, fell = (tuple(name for name, found in directions.items() if found == sign) for sign in (1, -1))
    return QuartileFinding(
        basis=basis,
        redistributed_between_quartiles=bool(rose and fell),
        rose=rose,
        fell=fell,
        sentence=_sentence(rose, fell, cell.objective, _BASES[basis]),
        scope=SCOPE,
    )


def _direction(row: CrossFittedQuartile | ExcessQuartile, level: float) -> int:
    """1 where a quartile rose, -1 where it fell: over its pairs and beside the control stages alike; else 0."""
    beyond, change = row.beyond_controls, row.tested.value
    tests = (row.p_holm, row.run_p_holm)
    if beyond is None or change is None or any(p is None or p > level for p in tests):
        return 0
    return int(np.sign(change)) if change * beyond.excess > 0 else 0


def _run_noise_unknown(cell: Cell) -> str:
    if cell.start < cell.end - 1:
        return (
            "Withheld: a run moves quartiles by chance, and over several stages there are no control stages to tell "
            "that apart. See the cells of the single stages."
        )
    return (
        "Withheld: a run moves quartiles by chance, and it takes at least two control stages to tell that apart; found "
        f"{len(cell.controls)}. Run with `placebo: {ENOUGH_CONTROLS}`."
    )


def _nothing_to_compare_with(cell: Cell) -> str:
    if cell.start < cell.end - 1:
        return _run_noise_unknown(cell)
    return (
        "Withheld: quartiles of a run's own margins show regression to the mean where nothing happened, and there is "
        "neither a control stage nor another seed to tell it apart. "
        f"Run with `placebo: {ENOUGH_CONTROLS}`."
    )


def _sentence(rose: Sequence[str], fell: Sequence[str], objective: str, how: str) -> str:
    parts = [f"{' and '.join(names)} {verb}" for names, verb in ((rose, "rose"), (fell, "fell")) if names]
    if len(parts) == 2:
        return f"Redistributed: {how}, {' while '.join(parts)} in the margins of {objective} in this run."
    if parts:
        other = "fell" if rose else "rose"
        return f"No shift between quartiles shown: {how}, {parts[0]} in the margins of {objective}, and none {other}."
    none = f"no quartile of {objective} rose or fell beyond the noise of its pairs"
    return f"No shift between quartiles shown: {how}, {none}."
