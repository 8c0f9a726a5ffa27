"""The line between two checkpoints: margins and accuracy along it, and whether the change is first-order or curved.

The first-order part of a change is what the slope at the previous checkpoint promises for the whole way. What remains
bends: it depends on how far the stage went, and half the way does not do half of it.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from seqdpo.analysis.averages import worst_objective
from seqdpo.analysis.estimates import Clusters, Estimate, mean
from seqdpo.analysis.margins import Column, share_above_zero
from seqdpo.analysis.schema import BestPlace, PathOfObjective, PathStatement, PathStep, extended

Margins: TypeAlias = Mapping[float, Column]  # by a: (n_pairs,) nats

#: A second-order part of at most this share of the change counts as none.
FIRST_ORDER_SHARE = 0.2


class Bend(NamedTuple):
    """The change of each pair's margin from a = 0 to a = 1, and two ways to see how it bends; columns (n_pairs,)."""

    margin_change: Column
    slope_prediction: Column  # of the change, by the slope between a = 0 and 0.25
    departure: Column  # the change less that prediction
    second_order_part: Column  # of the change: that of the parabola through a = 0, 0.5 and 1


def path_record(margins: Margins, clusters: Clusters, confidence: float) -> PathOfObjective:
    """What became of one objective's pairs along the line; `margins` has the places of `seqdpo.tables.PATH`."""
    bend = bend_of(margins)
    return PathOfObjective(
        steps=tuple(
            PathStep(
                a=a,
                margin=mean(column, clusters).record(confidence),
                accuracy=mean(share_above_zero(column), clusters).record(confidence),
            )
            for a, column in sorted(margins.items())
        ),
        **{name: mean(column, clusters).record(confidence) for name, column in bend._asdict().items()},
        statement=_statement(bend, clusters, confidence),
    )


def bend_of(margins: Margins) -> Bend:
    """With m(a) = m(0) + s a + q a^2 the change is s + q, and q = 2 (m(0) - 2 m(1/2) + m(1))."""
    start, quarter, half, end = (margins[a] for a in (0.0, 0.25, 0.5, 1.0))
    prediction = (quarter - start) / 0.25
    return Bend(end - start, prediction, end - start - prediction, 2 * (start - 2 * half + end))


def best_place(scores: Mapping[str, Mapping[float, Estimate]], confidence: float) -> BestPlace | None:
    """The a where the worst objective does best, its score there, and the worst score at a = 1: None if undefined.

    It is the best of several noisy numbers, on the very pairs that it is told of.
    """
    worst = {
        a: worst_objective({name: steps[a] for name, steps in scores.items()}, confidence)
        for a in (next(iter(scores.values())) if scores else ())
    }
    known = {a: found for a, found in worst.items() if found is not None}
    if len(known) < len(worst) or not known:
        return None
    best = max(known, key=lambda a: scores[known[a].objective][a].value)
    return extended(known[best], BestPlace, a=best, at_one=known[1.0])


def _statement(bend: Bend, clusters: Clusters, confidence: float) -> PathStatement | None:
    """Is the mean second-order part surely within +-FIRST_ORDER_SHARE of the mean change, or surely beyond?

    The tolerance is a share of a mean over the same pairs, so both sides are tested pair by pair.
    """
    change = mean(bend.margin_change, clusters)
    tolerance = FIRST_ORDER_SHARE * np.sign(change.value) * bend.margin_change
    above_lower = mean(bend.second_order_part + tolerance, clusters).interval(confidence)
    above_upper = mean(bend.second_order_part - tolerance, clusters).interval(confidence)
    if np.isnan([*above_lower, *above_upper]).any():
        return None
    if above_lower[1] < 0 or above_upper[0] > 0:
        return "curved"
    return "first-order" if above_lower[0] > 0 and above_upper[1] < 0 else "unresolved"
