"""Which kinds of pairs changed otherwise than the rest."""

import math
from typing import Any

from seqdpo.analysis.schema import Cell, Slice
from seqdpo.analysis.slices import FEWEST_PROMPTS
from seqdpo.report.charts.chart import (
    BLUE,
    GREY,
    CellChart,
    Chart,
    Spec,
    axis,
    change_axis,
    moved,
    plain,
    shown,
    single,
    zero,
)
from seqdpo.report.numbers import interval
from seqdpo.report.words import UNITS
from seqdpo.tables import SLICE_PREFIX

MOST_SLICES = 12
IN_TWO_LINES = "split(datum.label, ' | ')"


def _slices(cell: Cell) -> Chart | None:
    if not cell.slices:
        return None
    known = [one for one in cell.slices if one.n_prompts >= FEWEST_PROMPTS and one.margin_change.value is not None]
    ranked = sorted(known, key=_most_different_first)[:MOST_SLICES]
    data = [_row(one) for one in ranked]
    mean, title = cell.change.margin_change.value, change_axis(cell)
    y = axis("slice", None, "nominal", sort=None, axis={"labelLimit": 240, "labelExpr": IN_TWO_LINES})
    layers: list[Spec] = [
        zero("x"),
        {
            "data": {"values": [] if mean is None else [{"mean": mean}]},
            "mark": {"type": "rule", "strokeDash": [4, 3], "color": GREY, "strokeWidth": 2},
            "encoding": {"x": axis("mean", title), "tooltip": {"field": "mean", "title": "mean of all pairs"}},
        },
        {
            "mark": {"type": "rule", "strokeWidth": 2, "color": BLUE},
            "encoding": {"y": y, "x": axis("low", title), "x2": {"field": "high"}},
            "transform": [{"filter": "isValid(datum.low)"}],
        },
        {
            "mark": {"type": "point", "filled": True, "size": 60, "color": BLUE},
            "encoding": {
                "y": y,
                "x": axis("value", title),
                "tooltip": [{"field": name} for name in ("slice", "value", "low", "high", "n", "from_rest", "q")],
            },
        },
    ]
    few = len(cell.slices) - len(known)
    return Chart(
        key="slices",
        title=_title(ranked, cell),
        caption=(
            "Mean change with its interval, clustered by prompt, those first that differ most clearly from the rest of "
            "the pairs; q: that difference is noise, adjusted for all slices. Dashed: all pairs, "
            f"{shown(mean, '+.2f')}. {len(data)} of {len(cell.slices)} slices"
            f"{f'; {few} have fewer than {FEWEST_PROMPTS} prompts' if few else ''}."
        ),
        alt="; ".join(f"{row['slice']}: {shown(row['value'])}" for row in data),
        spec=single(layers, height=34 * len(data) + 20, data={"name": "slices"}),
        data={"slices": data},
    )


def _row(one: Slice) -> dict[str, Any]:
    q = "" if one.q is None else f", q = {one.q:.2g}"
    named = f"{_name(one)} | n = {one.n:,}{q}"
    return {"slice": named, "from_rest": one.difference_from_rest.value, "q": one.q} | plain(one.margin_change)


def _name(one: Slice) -> str:
    return f"{one.column.removeprefix(SLICE_PREFIX)}: {one.value}"


def _most_different_first(one: Slice) -> tuple[float, float, float, str, str]:
    """By q; where there is none, by the p over the pairs alone; equals by the size of the difference."""
    of, p = one.difference_from_rest, one.difference_from_rest.p
    unknown = math.inf
    size = 0.0 if of.value is None else -abs(of.value)
    return unknown if one.q is None else one.q, unknown if p is None else p, size, one.column, one.value


def _title(ranked: list[Slice], cell: Cell) -> str:
    """The slice that stands out most, if one does at the study's confidence; of gains where everything rose."""
    mean, level = cell.change.margin_change.value, 1 - cell.change.margin_change.confidence
    kind = "Kinds of pairs" if mean is None else f"On average {cell.objective} {moved(mean)}"
    if not ranked or ranked[0].q is None:
        return f"{kind}; no control stage tells which kinds of pairs differ"
    if ranked[0].q > level:
        return f"{kind}; no kind of pairs is shown to differ from the rest"
    one = ranked[0]
    return f"{kind}; against the rest, {_name(one)} by {interval(one.difference_from_rest)} {UNITS[cell.measure]}"


ENTRY = CellChart(5, _slices)
