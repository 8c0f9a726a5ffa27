"""Which response moved."""

from seqdpo.analysis.schema import Cell
from seqdpo.report.charts.chart import (
    FLIP_COLOURS,
    FLIP_SHAPES,
    CellChart,
    Chart,
    Spec,
    axis,
    counted,
    plain,
    single,
    zero,
)


def _displacement(cell: Cell) -> Chart:
    points: Spec = {
        "data": {"name": "pairs"},
        "mark": {"type": "point", "filled": True, "size": 24, "opacity": 0.5},
        "encoding": {
            "x": axis("rejected_change", "change of the rejected log-probability, nats"),
            "y": axis("chosen_change", "change of the chosen one, nats"),
            "color": axis("flip", "outcome", "nominal", scale=FLIP_COLOURS),
            "shape": axis("flip", "outcome", "nominal", scale=FLIP_SHAPES),
        },
    }
    counts = ", ".join(
        f"{name.replace('_', ' ')}: {counted(n)}" for name, n in plain(cell.change.displacement.quadrants).items()
    )
    return Chart(
        key="displacement",
        title="Which response moved",
        caption=f"A margin can fall because the chosen response fell or the rejected one rose. {counts}.",
        alt=counts,
        spec=single([zero("x"), zero("y"), points], height=300),
        needs_pairs=True,
    )


ENTRY = CellChart(4, _displacement)
