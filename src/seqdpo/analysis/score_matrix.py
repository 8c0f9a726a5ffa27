"""R[i, j]: how well the checkpoint after stage i does on objective j, for every measure, order and seed."""

from collections.abc import Sequence

from seqdpo.analysis.averages import bounds
from seqdpo.analysis.estimates import mean
from seqdpo.analysis.margins import MEASURES, measure
from seqdpo.analysis.panel import At, Panel
from seqdpo.analysis.schema import Score


def score_matrix(panels: Sequence[Panel], beta: float, confidence: float) -> list[Score]:
    """One record for each checkpoint and objective: what it is, `n`, `n_prompts` and an interval for each of MEASURES.

    Order by order as they come, each by stage, control stages after the real one; within a checkpoint the objectives
    keep the order of `panels`. A checkpoint that several orders share stands under each of them.
    """
    cells = [(panel, at) for panel in panels for at in panel.checkpoints]
    places = {place: i for i, place in enumerate(dict.fromkeys((at.seed, at.order) for _, at in cells))}
    cells.sort(key=lambda cell: (places[cell[1].seed, cell[1].order], cell[1].stage, cell[1].placebo))
    return [_record(panel, at, beta, confidence) for panel, at in cells]


def _record(panel: Panel, at: At, beta: float, confidence: float) -> Score:
    scores = panel.checkpoints[at]
    found = {name: mean(measure(scores, name, beta), panel.clusters) for name in MEASURES}
    return Score(
        seed=at.seed,
        order=at.order,
        stage=at.stage,
        checkpoint=panel.names[at],
        placebo=at.placebo,
        objective=panel.objective,
        split=panel.split,
        n=found["margin"].n,
        n_prompts=found["margin"].n_prompts,
        **{name: bounds(estimate, confidence) for name, estimate in found.items()},
    )
