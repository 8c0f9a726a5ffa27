"""Cells: an earlier objective and a later stage, with what the pairs' margins were before, after and in controls."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from seqdpo.analysis.margins import PairScores
from seqdpo.analysis.panel import At, Panel
from seqdpo.study.checkpoints import parse_order


@dataclass(frozen=True, slots=True)
class Cell:
    """What the stages after `start`, up to `end`, did to an objective that stage `taught` had taught.

    `start` is the stage just before `end`, so that the control stages apply; for stages further on, a second cell
    starts at `taught` and sums up everything since.
    """

    panel: Panel
    seed: int
    order: str
    taught: int
    start: int
    end: int

    @property
    def objective(self) -> str:
        return self.panel.objective

    @property
    def before(self) -> PairScores:
        return self.panel.checkpoints[self.at(self.start)]

    @property
    def after(self) -> PairScores:
        return self.panel.checkpoints[self.at(self.end)]

    @property
    def when_taught(self) -> PairScores:
        return self.panel.checkpoints[self.at(self.taught)]

    @property
    def controls(self) -> list[PairScores]:
        """The control stages that started where this cell's stage did."""
        if self.start != self.end - 1:
            return []
        return [self.panel.checkpoints[at] for at in self.panel.controls(self.at(self.end))]

    def at(self, stage: int) -> At:
        return At(self.seed, self.order, stage)

    @property
    def later(self) -> tuple[str, ...]:
        """The objectives of the stages between the two checkpoints."""
        return parse_order(self.order)[self.start : self.end]

    def name(self, stage: int) -> str:
        """The name of the checkpoint after a stage of the cell's order."""
        return self.panel.names[self.at(stage)]


def cells(panels: Iterable[Panel]) -> list[Cell]:
    """Every cell of a study: order by order, objective by objective, stage by stage."""
    return [
        Cell(panel, seed, order, taught, start, end)
        for panel in panels
        for seed, order in panel.orders()
        for taught, start, end in _steps(panel, seed, order)
    ]


def _steps(panel: Panel, seed: int, order: str) -> Iterator[tuple[int, int, int]]:
    objectives = parse_order(order)
    stages = panel.stages(seed, order)
    if panel.objective not in objectives or objectives.index(panel.objective) + 1 not in stages:
        return
    taught = objectives.index(panel.objective) + 1
    later = [stage for stage in stages if stage >= taught]
    for start, end in pairwise(later):
        yield taught, start, end
        if start > taught:
            yield taught, taught, end
