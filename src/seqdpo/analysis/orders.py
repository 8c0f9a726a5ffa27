"""Orders side by side: the same objectives, trained in different order, at the end of each."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqdpo.analysis.averages import average, bounds, by_split, joint_clusters, worst_objective
from seqdpo.analysis.estimates import Clusters, mean
from seqdpo.analysis.margins import Column, measure
from seqdpo.analysis.panel import At, Panel
from seqdpo.analysis.schema import (
    Behind,
    FinalAccuracy,
    FirstMinusLast,
    OrderEnd,
    Orders,
    OverSeeds,
    SeedOfOrders,
    extended,
)
from seqdpo.study.checkpoints import parse_order, variant_of

#: The measures on which an objective trained first is compared with the same trained last.
ORDER_MEASURES = ("margin", "accuracy", "ln_margin")


def order_records(panels: Sequence[Panel], beta: float, confidence: float) -> list[Orders]:
    """One record for each split and each set of two or more objectives that several orders of a variant train.

    Only final checkpoints are compared. `first_minus_last`: one record for each measure of ORDER_MEASURES and each
    objective that some orders start with and others end with. `final_accuracy`: which order ends best.
    """
    return [
        Orders(
            split=split,
            objectives=tuple(panel.objective for panel in own),
            orders=tuple(orders),
            first_minus_last=tuple(
                _first_minus_last(panel, sides, name, beta, confidence)
                for panel in own
                if (sides := _sides(panel, orders))
                for name in ORDER_MEASURES
            ),
            final_accuracy=_final_accuracy(own, orders, beta, confidence),
        )
        for split, group in by_split(panels).items()
        for own, orders in _comparable(group)
    ]


def _comparable(panels: Sequence[Panel]) -> list[tuple[list[Panel], list[str]]]:
    """For each set of objectives: their panels, and the orders over them, if there are several."""
    sets: dict[tuple[str, frozenset[str]], list[str]] = {}
    for order in dict.fromkeys(at.order for panel in panels for at in panel.checkpoints if _is_end(at)):
        sets.setdefault((variant_of(order), frozenset(parse_order(order))), []).append(order)
    found = [([panel for panel in panels if panel.objective in names], orders) for (_, names), orders in sets.items()]
    return [(own, orders) for own, orders in found if own and len(orders) > 1]


def _end(seed: int, order: str) -> At:
    """The final checkpoint of an order."""
    return At(seed, order, stage=len(parse_order(order)))


def _is_end(at: At) -> bool:
    return at == _end(at.seed, at.order)


class _Sides(NamedTuple):
    """The orders of one seed that start with an objective, and those that end with it."""

    seed: int
    first: list[str]
    last: list[str]


def _sides(panel: Panel, orders: Sequence[str]) -> list[_Sides]:
    """Of each seed that has orders on both sides."""
    found = []
    for seed in _seeds(panel):
        there = [order for order in orders if _end(seed, order) in panel.checkpoints]
        first = [order for order in there if parse_order(order)[0] == panel.objective]
        last = [order for order in there if parse_order(order)[-1] == panel.objective]
        found.append(_Sides(seed, first, last))
    return [sides for sides in found if sides.first and sides.last]


def _seeds(panel: Panel) -> list[int]:
    return list(dict.fromkeys(at.seed for at in panel.checkpoints))


def _first_minus_last(
    panel: Panel, sides: Sequence[_Sides], name: str, beta: float, confidence: float
) -> FirstMinusLast:
    def finals(orders: Sequence[str], seed: int) -> Column:
        return _mean_of([_end(seed, order) for order in orders], panel, name, beta)

    found = [mean(finals(one.first, one.seed) - finals(one.last, one.seed), panel.clusters) for one in sides]
    return FirstMinusLast(
        objective=panel.objective,
        measure=name,
        n=found[0].n,
        n_prompts=found[0].n_prompts,
        seeds=tuple(
            extended(bounds(of, confidence), SeedOfOrders, seed=one.seed, first=tuple(one.first), last=tuple(one.last))
            for one, of in zip(sides, found, strict=True)
        ),
        over_seeds=_over_seeds(np.array([of.value for of in found]), confidence),
    )


def _mean_of(checkpoints: Sequence[At], panel: Panel, name: str, beta: float) -> Column:
    """Each pair's mean over the checkpoints: (n_pairs,)."""
    total = np.zeros(len(panel.clusters))
    for at in checkpoints:
        total += measure(panel.checkpoints[at], name, beta)
    return total / len(checkpoints)


def _over_seeds(values: Column, confidence: float) -> OverSeeds:
    """The mean of one number a seed, with the t interval over the seeds; with fewer than two there is none."""
    return extended(bounds(mean(values, np.arange(len(values))), confidence), OverSeeds, n_seeds=len(values))


class _Ending(NamedTuple):
    """The accuracy at the end of an order."""

    order: str
    columns: list[Column]  # for each objective (n_pairs,), averaged over seeds
    by_seed: Column  # (n_seeds,) averaged over objectives

    @property
    def lowest(self) -> float:
        """That of its worst objective."""
        return min(float(np.mean(column)) for column in self.columns)


def _final_accuracy(
    panels: Sequence[Panel], orders: Sequence[str], beta: float, confidence: float
) -> FinalAccuracy | None:
    """Every order's average over objectives, and how far it lies below the best one's.

    Over the seeds that have all the orders; None without such a seed, and where an accuracy is undefined.
    """
    seeds = [s for s in _seeds(panels[0]) if all(_end(s, o) in panel.checkpoints for o in orders for panel in panels)]
    endings = [_ending(panels, order, seeds, beta) for order in orders] if seeds else []
    if not endings or any(math.isnan(ending.by_seed.mean()) for ending in endings):
        return None
    best = max(endings, key=lambda ending: ending.by_seed.mean())
    clusters = joint_clusters(panels)
    records = [_ending_record(ending, best, panels, clusters, confidence) for ending in endings]
    return FinalAccuracy(
        seeds=tuple(seeds),
        best=best.order,
        best_by_worst_objective=max(endings, key=lambda ending: ending.lowest).order,
        n=sum(len(panel.clusters) for panel in panels),
        n_objectives=len(panels),
        orders=tuple(records),
    )


def _ending(panels: Sequence[Panel], order: str, seeds: Sequence[int], beta: float) -> _Ending:
    by_seed = [np.mean([_mean_of([_end(s, order)], panel, "accuracy", beta).mean() for panel in panels]) for s in seeds]
    columns = [_mean_of([_end(s, order) for s in seeds], panel, "accuracy", beta) for panel in panels]
    return _Ending(order, columns, np.array(by_seed))


def _ending_record(
    ending: _Ending, best: _Ending, panels: Sequence[Panel], clusters: Sequence[Clusters], confidence: float
) -> OrderEnd:
    behind = average([b - own for b, own in zip(best.columns, ending.columns, strict=True)], clusters)
    over_seeds = _over_seeds(best.by_seed - ending.by_seed, confidence)
    scores = {panel.objective: mean(of, panel.clusters) for panel, of in zip(panels, ending.columns, strict=True)}
    lead = extended(bounds(behind, confidence), Behind, over_seeds=over_seeds)
    return OrderEnd(
        order=ending.order,
        average=bounds(average(ending.columns, clusters), confidence),
        worst_objective=worst_objective(scores, confidence),
        best_minus_this=None if ending is best else lead,
    )
