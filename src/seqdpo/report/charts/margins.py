"""Every pair before and after a stage."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seqdpo.analysis.schema import Cell, Flips, PairMeasure
from seqdpo.report.charts.chart import GREY, CellChart, Chart, Spec, axis, flip_channels, moved, shown, single
from seqdpo.report.words import UNITS


def _margins(cell: Cell) -> Chart:
    edges = [
        {"edge": row.margin_up_to, "name": row.quartile}
        for row in cell.quartiles.as_in_the_study.rows
        if row.margin_up_to is not None
    ]
    caption = (
        f"Below the grey diagonal a pair lost {cell.measure.replace('_', ' ')}. Dashed: quartile edges of the "
        f"{cell.measure.replace('_', ' ')} when {cell.objective} was taught. Drag to choose pairs, and the table "
        f"follows; a click opens a pair. n = {cell.n:,} pairs."
    )
    ends = (f"after {cell.from_}", f"after {cell.to}")
    change, unit = cell.change.margin_change.value, UNITS[cell.measure]
    title = f"Every pair: on average {cell.objective} {moved(change)} {unit}"
    scatter = pair_scatter(title, caption, *ends, edges, cell.measure, cell.change.flips)
    return replace(scatter, alt=f"Mean {cell.measure} change {shown(change)} {unit} over {cell.n:,} pairs.")


def pair_scatter(
    title: str,
    caption: str,
    before: str,
    after: str,
    edges: Sequence[Mapping[str, Any]] = (),
    measure: PairMeasure = "margin",
    flips: Flips | None = None,
) -> Chart:
    """A point for each row of the dataset `pairs`; `before` and `after` say of what their margins are.

    `flips` counts what became of them, where that is known.
    """
    x, y = (f"{measure.replace('_', ' ')} {end}, {UNITS[measure]}" for end in (before, after))
    points: Spec = {
        "data": {"name": "pairs"},
        "params": [{"name": "brush", "select": {"type": "interval", "encodings": ["x", "y"]}}],
        "mark": {"type": "point", "filled": True, "size": 28, "opacity": 0.6, "cursor": "pointer"},
        "encoding": {
            "x": axis("before", x),
            "y": axis("after", y),
            **flip_channels("outcome", flips),
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
