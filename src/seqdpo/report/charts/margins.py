"""Every pair before and after a stage."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seqdpo.analysis.schema import Cell
from seqdpo.report.charts.chart import FLIP_COLOURS, FLIP_SHAPES, GREY, CellChart, Chart, Spec, axis, shown, single


def _margins(cell: Cell) -> Chart:
    edges = [
        {"edge": row.margin_up_to, "name": row.quartile}
        for row in cell.quartiles.as_in_the_study.rows
        if row.margin_up_to is not None
    ]
    caption = (
        "Below the grey diagonal a pair lost margin. Dashed: quartile edges of the margin when "
        f"{cell.objective} was taught. Drag to choose pairs; the table follows. n = {cell.n:,} pairs."
    )
    ends = (f"after {cell.from_}", f"after {cell.to}")
    scatter = pair_scatter("Every pair, before and after", caption, *ends, edges)
    change = cell.change.margin_change.value
    return replace(scatter, alt=f"Mean margin change {shown(change)} nats over {cell.n:,} pairs.")


def pair_scatter(title: str, caption: str, before: str, after: str, edges: Sequence[Mapping[str, Any]] = ()) -> Chart:
    """A point for each row of the dataset `pairs`; `before` and `after` say of what their margins are."""
    x, y = f"margin {before}, nats", f"margin {after}, nats"
    points: Spec = {
        "data": {"name": "pairs"},
        "params": [{"name": "brush", "select": {"type": "interval", "encodings": ["x", "y"]}}],
        "mark": {"type": "point", "filled": True, "size": 28, "opacity": 0.6},
        "encoding": {
            "x": axis("before", x),
            "y": axis("after", y),
            "color": axis("flip", "outcome", "nominal", scale=FLIP_COLOURS),
            "shape": axis("flip", "outcome", "nominal", scale=FLIP_SHAPES),
            "tooltip": [{"field": name} for name in ("before", "after", "change", "flip", "quartile")],
        },
    }
    bands: Spec = {
        "data": {"name": "edges"},
        "mark": {"type": "rule", "strokeDash": [3, 3], "opacity": 0.6},
        "encoding": {"x": axis("edge", x), "tooltip": {"field": "name"}},
    }
    identity: Spec = {
        "data": {"name": "identity"},
        "mark": {"type": "line", "opacity": 0.7, "color": GREY},
        "encoding": {"x": axis("value", x), "y": axis("value", y)},
    }
    layers = [bands, identity, points]
    data = {"edges": [dict(edge) for edge in edges]}
    return Chart("margins", title, caption, caption, single(layers, height=340), data, needs_pairs=True)


ENTRY = CellChart(1, _margins)
