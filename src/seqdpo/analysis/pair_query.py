"""What is asked about the pairs of an objective, and the rows that answer it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analysis.estimates import defined
from seqdpo.analysis.pair_table import Sort, Step, choose_step, meeting, pair_table, ranked
from seqdpo.analysis.panel import Mask, Panel
from seqdpo.analysis.schema import PairMeasure
from seqdpo.errors import ArgumentError
from seqdpo.wording import listed

#: Prompt, chosen and rejected of some pairs of an objective and split, in the order of their ids.
Texts: TypeAlias = Callable[[str, str, pa.Array], pa.Table]


@dataclass(frozen=True, slots=True)
class PairQuery:
    """Which pairs of an objective, between which checkpoints, in which order; None: not asked."""

    objective: str
    start: str | None = None
    end: str | None = None
    order: str | None = None
    seed: int | None = None
    pair: str | None = None  # the beginning of an id
    where: tuple[str, ...] = ()  # COLUMN=VALUE
    flip: str | None = None
    sort: Sort = "change"
    limit: int | None = None
    measure: PairMeasure = "margin"


class Listing(NamedTuple):
    """What the rows of a table are of: the pairs of an objective, and those of them that were asked for."""

    objective: str
    seed: int
    start: str  # names of checkpoints
    end: str
    n: int  # pairs of the objective
    n_matched: int
    mean_change: float | None  # of the matched pairs, nats; None where undefined
    flips: Mapping[str, int]  # of the matched pairs
    sort: Sort
    measure: PairMeasure


@dataclass(frozen=True, slots=True)
class PairsFound:
    """The rows that were asked for, and what they are of."""

    rows: pa.Table  # at most `limit` of the matched pairs, with their texts
    listing: Listing
    panel: Panel  # all pairs of the objective
    step: Step


class Visit(NamedTuple):
    """What one checkpoint says of a pair, in the measure that was asked for: both sides, and their difference; for the
    margin log-probabilities in nats against the base. None where undefined."""

    checkpoint: str
    placebo: int
    chosen: float | None
    rejected: float | None
    margin: float | None  # chosen - rejected


def find_pairs(panel: Panel, texts: Texts, query: PairQuery) -> PairsFound:
    """The pairs of the query's objective that it asks for.

    Raises: ArgumentError for anything in the query that the panel does not have; DataError if texts are missing.
    """
    panel = panel.in_measure(query.measure)
    step = choose_step(panel, query.start, query.end, query.order, query.seed)
    kept = meeting(panel.metadata, query.where)
    if query.pair is not None:
        kept &= _named(panel.pair_ids, query.pair)
    matched = pair_table(panel.rows(kept), step)
    if query.flip is not None:
        matched = matched.filter(pc.field("flip") == query.flip)
    rows = ranked(matched, query.sort).slice(0, query.limit)
    of_rows = texts(panel.objective, panel.split, rows["pair_id"].combine_chunks())
    for name in of_rows.column_names:
        rows = rows.append_column(name, of_rows[name])
    return PairsFound(rows, _listing(panel, step, matched, query.sort), panel, step)


def trajectory(found: PairsFound) -> list[Visit]:
    """What every checkpoint of the later one's order says of the first pair found, base first."""
    panel, end = found.panel, found.step.end
    row = pc.index(panel.pair_ids, found.rows["pair_id"][0]).as_py()
    return [
        Visit(
            checkpoint=panel.names[at],
            placebo=at.placebo,
            chosen=defined(scores.chosen_side[row]),
            rejected=defined(scores.rejected_side[row]),
            margin=defined(scores.margin[row]),
        )
        for at, scores in sorted(panel.checkpoints.items())
        if (at.seed, at.order) == (end.seed, end.order)
    ]


def _named(pair_ids: pa.Array, beginning: str) -> Mask:
    """Which pair has this id or, if none has, begins with it."""
    whole: Mask = pc.equal(pair_ids, beginning).to_numpy(zero_copy_only=False)
    named = whole if whole.any() else pc.starts_with(pair_ids, beginning).to_numpy(zero_copy_only=False)
    if named.sum() != 1:
        some = pair_ids.filter(pa.array(named)).slice(0, 5).to_pylist()
        raise ArgumentError(
            ["pair"],
            f" = {beginning!r}: {named.sum():,} pairs have an id that begins so ({listed(some)}); expected one. "
            "Give a whole id of this objective.",
        )
    return named


def _listing(panel: Panel, step: Step, matched: pa.Table, sort: Sort) -> Listing:
    change = matched["change"].to_numpy()
    counts = pc.value_counts(matched["flip"].drop_null()).to_pylist()
    return Listing(
        objective=panel.objective,
        seed=step.end.seed,
        start=panel.names[step.start],
        end=panel.names[step.end],
        n=len(panel.pair_ids),
        n_matched=matched.num_rows,
        mean_change=defined(float(np.mean(change))) if len(change) else None,
        flips={count["values"]: count["counts"] for count in counts},
        sort=sort,
        measure=panel.measure,
    )
