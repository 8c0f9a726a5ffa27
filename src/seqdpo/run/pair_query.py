"""From a finished run and what is asked about its pairs to the rows that answer it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analyse.estimates import defined
from seqdpo.analyse.pair_table import Sort, Step, choose_step, expect_one_of, meeting, pair_table, ranked
from seqdpo.analyse.panel import Panel, panels
from seqdpo.errors import ConfigError
from seqdpo.report.pairs import Listing
from seqdpo.run.finished import FinishedRun
from seqdpo.wording import listed

SPLIT = "eval"  # the pairs that every checkpoint scores


@dataclass(frozen=True, slots=True)
class PairQuery:
    """Which pairs of an objective, between which checkpoints, in which order; None: not asked."""

    objective: str
    start: str | None = None
    end: str | None = None
    order: str | None = None
    seed: int | None = None
    pair: str | None = None  # the beginning of an id
    where: tuple[str, ...] = ()
    flip: str | None = None
    sort: Sort = "change"
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class PairsFound:
    """The rows that were asked for, and what they are of."""

    rows: pa.Table  # at most `limit` of the matched pairs, with their texts
    listing: Listing
    panel: Panel  # all pairs of the objective
    step: Step


def find_pairs(run: FinishedRun, query: PairQuery) -> PairsFound:
    """The pairs that a query asks for.

    Raises: ConfigError for anything in the query that the run does not have; DataError for unfit tables.
    """
    panel = _panel(run, query.objective)
    step = choose_step(panel, query.start, query.end, query.order, query.seed)
    kept = meeting(panel.metadata, query.where)
    if query.pair is not None:
        kept &= _named(panel.pair_ids, query.pair)
    matched = pair_table(panel.rows(kept), step)
    if query.flip is not None:
        matched = matched.filter(pc.field("flip") == query.flip)
    rows = ranked(matched, query.sort).slice(0, query.limit)
    texts = run.texts(panel.objective, panel.split, rows["pair_id"].combine_chunks())
    for name in texts.column_names:
        rows = rows.append_column(name, texts[name])
    return PairsFound(rows, _listing(panel, step, matched, query.sort), panel, step)


def trajectory(found: PairsFound) -> list[dict[str, Any]]:
    """What every checkpoint of the later one's order says of the first pair found, base first.

    Log-probabilities in nats against the base, so that `margin` = `chosen` - `rejected`.
    """
    panel, end = found.panel, found.step.end
    row = pc.index(panel.pair_ids, found.rows["pair_id"][0]).as_py()
    return [
        {
            "checkpoint": panel.names[at],
            "placebo": at.placebo,
            "chosen": defined(scores.chosen_logp[row] - scores.base_chosen_logp[row]),
            "rejected": defined(scores.rejected_logp[row] - scores.base_rejected_logp[row]),
            "margin": defined(scores.margin[row]),
        }
        for at, scores in sorted(panel.checkpoints.items())
        if (at.seed, at.order) == (end.seed, end.order)
    ]


def _panel(run: FinishedRun, objective: str) -> Panel:
    expect_one_of("--objective", objective, pc.unique(run.scores(["objective"])["objective"]).to_pylist())
    [panel] = panels(run.scores(wanted=(pc.field("objective") == objective) & (pc.field("split") == SPLIT)), run.pairs)
    return panel


def _named(pair_ids: pa.Array, beginning: str) -> np.ndarray:
    """Which pair has this id or, if none has, begins with it."""
    whole = pc.equal(pair_ids, beginning).to_numpy(zero_copy_only=False)
    named = whole if whole.any() else pc.starts_with(pair_ids, beginning).to_numpy(zero_copy_only=False)
    if named.sum() != 1:
        some = pair_ids.filter(pa.array(named)).slice(0, 5).to_pylist()
        raise ConfigError(
            f"--pair = {beginning!r}: {named.sum():,} pairs have an id that begins so ({listed(some)}); expected one. "
            "Give a whole id of this objective."
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
    )
