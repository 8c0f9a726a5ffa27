"""The metrics of continual learning: what an order made of its objectives, and at which of its stages.

They are made of R[i, j], the score of objective j after stage i, where stage j is the one that trains objective j,
i = 0 is the base and T the last stage. Each is the mean of a difference between checkpoints on the same pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from seqdpo.analysis.averages import average, bounds, by_split, joint_clusters, worst_objective
from seqdpo.analysis.estimates import Clusters, Measured, Ratio, defined, mean, ratio
from seqdpo.analysis.margins import Column, measure
from seqdpo.analysis.panel import At, Panel
from seqdpo.analysis.schema import Average, Bounds, Transfer, TransferOfObjective, WorstObjective, extended
from seqdpo.study.checkpoints import is_together, parse_order

#: The measures that are followed. Stages of different beta are compared on the margin, so the reward margin is not.
TRANSFER_MEASURES = ("margin", "accuracy", "ln_margin_base_corrected", "ranking_accuracy")

#: Those metrics that are told of every objective, and not of their average alone.
OF_EACH_OBJECTIVE = ("forgetting", "forward_transfer", "plasticity", "intransigence")


def transfer_records(panels: Sequence[Panel], beta: float, confidence: float) -> list[Transfer]:
    """One record for each split, seed, order and measure of TRANSFER_MEASURES.

    A metric is None where it has no value: an average also where one of its objectives has none.
    """
    return [
        _record(matrix, confidence) for group in by_split(panels).values() for matrix in _pair_matrices(group, beta)
    ]


class _Of(NamedTuple):
    """What a record is of."""

    split: str
    seed: int
    order: str
    measure: str


@dataclass(frozen=True, slots=True)
class _PairMatrix:
    """R[i, j] of one order and measure before the means are taken: a column (n_pairs,) in place of each number."""

    of: "_Of"
    trained: Sequence[str]  # objectives by stage
    columns: Mapping[tuple[int, str], Column]  # by stage and objective; also of objectives that are only evaluated
    alone: Mapping[str, Column]  # by objective: after the first stage of an order that starts with it
    clusters: Mapping[str, Clusters]  # by objective, numbered across objectives

    def r(self, i: int, j: int) -> Column | None:
        return self.columns.get((i, self.trained[j - 1]))

    def single(self, j: int) -> Column | None:
        """R*[j]: of a run that trains objective j alone, on the same pairs in as many steps."""
        return self.alone.get(self.trained[j - 1])


def _pair_matrices(panels: Sequence[Panel], beta: float) -> Iterator[_PairMatrix]:
    """Those of one split; a generator, since each holds as many numbers as all scores of its order."""
    clusters = {panel.objective: own for panel, own in zip(panels, joint_clusters(panels), strict=True)}
    for seed, order in dict.fromkeys(run for panel in panels for run in panel.orders() if not is_together(run[1])):
        places = [(panel, At(seed, order, stage)) for panel in panels for stage in panel.stages(seed, order)]
        trained = parse_order(order)[: max((at.stage for _, at in places), default=0)]
        for name in TRANSFER_MEASURES if trained else ():
            yield _PairMatrix(
                _Of(panels[0].split, seed, order, name),
                trained,
                {(at.stage, p.objective): measure(p.checkpoints[at], name, beta) for p, at in places},
                {p.objective: measure(p.checkpoints[at], name, beta) for p, at in _alone(panels, seed)},
                clusters,
            )


def _alone(panels: Sequence[Panel], seed: int) -> Iterator[tuple[Panel, At]]:
    """Each objective that an order of the seed starts with, and where its score after that first stage stands."""
    for panel in panels:
        starts = [at for at in panel.checkpoints if at == At(seed, at.order, stage=1)]
        own = [at for at in starts if parse_order(at.order)[0] == panel.objective]
        if own:  # orders that start alike share this stage
            yield panel, own[0]


def _record(matrix: _PairMatrix, confidence: float) -> Transfer:
    metrics = _metrics(matrix)
    return Transfer(
        split=matrix.of.split,
        seed=matrix.of.seed,
        order=matrix.of.order,
        measure=matrix.of.measure,
        **{name: _average(matrix, columns, confidence) for name, columns in metrics.items()},
        worst_objective=_worst(matrix, confidence),
        objectives=tuple(_objective_record(matrix, metrics, name, confidence) for name in _finals(matrix)),
    )


def _metrics(matrix: _PairMatrix) -> dict[str, dict[int, Column | None]]:
    """Each metric, and for each objective it is averaged over (by its stage) the column that it is the mean of.

    Source: Lopez-Paz & Ranzato 2017 (arXiv 1706.08840) for backward and forward transfer; Chaudhry et al. 2018
        (arXiv 1801.10112) for intransigence; forgetting as Avalanche has it: the first value less the last.
    """
    r, last = matrix.r, len(matrix.trained)
    stages = range(1, last + 1)
    return {
        "final_average": {j: r(last, j) for j in stages},
        "incremental_average": {j: _incremental(matrix, j) for j in stages},
        "backward_transfer": {j: _minus(r(last, j), r(j, j)) for j in stages[:-1]},
        "forgetting": {j: _minus(r(j, j), r(last, j)) for j in stages[:-1]},
        "forward_transfer": {j: _minus(r(j - 1, j), r(0, j)) for j in stages[1:]},
        "plasticity": {j: _minus(r(j, j), r(j - 1, j)) for j in stages},
        "intransigence": {j: _minus(matrix.single(j), r(j, j)) for j in stages[1:]},
    }


def _incremental(matrix: _PairMatrix, j: int) -> Column | None:
    """Objective j's part of mean_i mean_{j <= i} R[i, j], times T: the sum of R[i, j] / i over i >= j."""
    columns = {i: matrix.r(i, j) for i in range(j, len(matrix.trained) + 1)}
    terms = [column / i for i, column in columns.items() if column is not None]
    return np.sum(terms, axis=0) if len(terms) == len(columns) else None


def _minus(left: Column | None, right: Column | None) -> Column | None:
    return None if left is None or right is None else left - right


def _average(matrix: _PairMatrix, columns: Mapping[int, Column | None], confidence: float) -> Average | None:
    there = {matrix.trained[j - 1]: column for j, column in columns.items() if column is not None}
    if not there or len(there) < len(columns):
        return None
    found = average([*there.values()], [matrix.clusters[name] for name in there])
    if defined(found.value) is None:
        return None
    return extended(bounds(found, confidence), Average, n=found.n, n_objectives=len(there))


def _worst(matrix: _PairMatrix, confidence: float) -> WorstObjective | None:
    finals = _finals(matrix)
    if any(name not in finals for name in matrix.trained):
        return None
    return worst_objective({name: mean(finals[name], matrix.clusters[name]) for name in matrix.trained}, confidence)


def _finals(matrix: _PairMatrix) -> dict[str, Column]:
    """The scores of the last checkpoint: of the objectives trained, by stage, then of the others."""
    finals = {name: column for (stage, name), column in matrix.columns.items() if stage == len(matrix.trained)}
    return {name: finals[name] for name in dict.fromkeys([*matrix.trained, *finals]) if name in finals}


def _objective_record(
    matrix: _PairMatrix, metrics: Mapping[str, Mapping[int, Column | None]], name: str, confidence: float
) -> TransferOfObjective:
    stage = matrix.trained.index(name) + 1 if name in matrix.trained else None
    clusters = matrix.clusters[name]
    final = mean(matrix.columns[len(matrix.trained), name], clusters)
    columns = {
        "when_taught": matrix.columns.get((stage, name)) if stage else None,
        **{metric: metrics[metric].get(stage) if stage else None for metric in OF_EACH_OBJECTIVE},
    }
    found = {key: None if column is None else mean(column, clusters) for key, column in columns.items()}
    estimates = {"final": final, **found, "retention": _retention(matrix, stage, confidence)}
    return TransferOfObjective(
        objective=name,
        stage=stage,
        n=final.n,
        n_prompts=final.n_prompts,
        **{key: _bounds(estimate, confidence) for key, estimate in estimates.items()},
    )


def _retention(matrix: _PairMatrix, stage: int | None, confidence: float) -> Ratio | None:
    """R[T, j] / R[j, j] of the margin, which is 0 at the base; None where nothing is sure to have been learned."""
    if matrix.of.measure != "margin" or not stage or stage == len(matrix.trained):
        return None
    taught, final = matrix.r(stage, stage), matrix.r(len(matrix.trained), stage)
    clusters = matrix.clusters[matrix.trained[stage - 1]]
    if taught is None or final is None or not mean(taught, clusters).interval(confidence)[0] > 0:
        return None
    return ratio(final, taught, clusters)


def _bounds(estimate: Measured | None, confidence: float) -> Bounds | None:
    return None if estimate is None or defined(estimate.value) is None else bounds(estimate, confidence)
