"""Which response moved."""

from collections.abc import Mapping

from seqdpo.analysis.schema import Cell
from seqdpo.report.charts.chart import (
    CellChart,
    Chart,
    Spec,
    axis,
    counted,
    flip_channels,
    plain,
    single,
    zero,
)
from seqdpo.report.words import UNITS


def _displacement(cell: Cell) -> Chart:
    unit, quadrants = UNITS[cell.measure], plain(cell.change.displacement.quadrants)
    what = "log-probability" if cell.measure == "margin" else f"{cell.measure.replace('_', ' ')} of the response"
    points: Spec = {
        "data": {"name": "pairs"},
        "mark": {"type": "point", "filled": True, "size": 24, "opacity": 0.5, "cursor": "pointer"},
        "encoding": {
            "x": axis("rejected_change", f"rejected: change of the {what}, {unit}"),
            "y": axis("chosen_change", f"chosen: change, {unit}"),
            **flip_channels("outcome", cell.change.flips),
        },
    }
    counts = ", ".join(f"{_words(name)}: {counted(n)}" for name, n in quadrants.items())
    return Chart(
        key="displacement",
        title=_title(quadrants, cell.n),
        caption=f"A margin can fall because the chosen response fell or the rejected one rose. {counts}. "
        "A click opens the pair.",
        alt=counts,
        spec=single([zero("x"), zero("y"), points], height=300),
        needs_pairs=True,
    )


def _title(quadrants: Mapping[str, int | None], n: int) -> str:
    counts = {name: count for name, count in quadrants.items() if count}
    if not counts:
        return "Which response moved"
    most = max(counts, key=lambda name: counts[name])
    return f"Which response moved: most often {_words(most)} ({counts[most]:,} of {n:,} pairs)"


def _words(name: str) -> str:
    """`chosen down, rejected up`."""
    return name.replace("_rejected", ", rejected").replace("_", " ")


ENTRY = CellChart(4, _displacement)
