"""The findings in another measure than the margin: the same analysis of the same pairs, another number for each."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from seqdpo.analysis.cells import Cell, cells
from seqdpo.analysis.margins import IN_MEASURE
from seqdpo.analysis.orders import order_records
from seqdpo.analysis.panel import Panel
from seqdpo.analysis.schema import Cell as CellFindings
from seqdpo.analysis.schema import OfMeasure, Orders, PairMeasure


def other_measures(
    panels: Sequence[Panel], judged: Callable[[Sequence[Cell]], Sequence[CellFindings]], beta: float, confidence: float
) -> list[OfMeasure]:
    """One record for each measure but the margin; `judged` makes the records of cells."""
    return [_of_measure(name, panels, judged, beta, confidence) for name in IN_MEASURE if name != "margin"]


def _of_measure(
    name: PairMeasure,
    panels: Sequence[Panel],
    judged: Callable[[Sequence[Cell]], Sequence[CellFindings]],
    beta: float,
    confidence: float,
) -> OfMeasure:
    of = [panel.in_measure(name) for panel in panels]
    orders = order_records(of, beta, confidence)
    return OfMeasure(
        measure=name, cells=tuple(judged(cells(of))), orders=tuple(_renamed(record, name) for record in orders)
    )


def _renamed(record: Orders, name: PairMeasure) -> Orders:
    """What stands for the margin by its own name; accuracy is the share of pairs where it is above 0."""
    kept = [one for one in record.first_minus_last if one.measure in ("margin", "accuracy")]
    named = [replace(one, measure=name) if one.measure == "margin" else one for one in kept]
    return replace(record, first_minus_last=tuple(named))
