"""Did the change depend on how sure the model was of a pair?"""

from typing import Any

from seqdpo.analysis.schema import Cell, Interval
from seqdpo.report.charts.chart import (
    BLUE,
    GREY,
    VERMILLION,
    CellChart,
    Chart,
    Spec,
    axis,
    plain,
    scale,
    shown,
    single,
    zero,
)


def _quartiles(cell: Cell) -> Chart:
    found = cell.quartiles
    data = [_row(row.quartile, "this run (biased)", row.margin_change) for row in found.as_in_the_study.rows]
    if found.cross_fitted is not None:
        data += [_row(row.quartile, "quartiles of other seeds", row.tested) for row in found.cross_fitted.rows]
    if found.excess_over_placebo is not None:
        data += [_row(row.quartile, "beyond the control stages", row.tested) for row in found.excess_over_placebo.rows]
    kinds = list(dict.fromkeys(row["what"] for row in data))
    shared = {
        "x": axis("quartile", "quartile of the margin when taught (Q1 lowest)", "nominal", axis={"labelAngle": 0}),
        "xOffset": {"field": "what"},
        "color": axis("what", None, "nominal", scale=scale(kinds, [GREY, BLUE, VERMILLION])),
    }
    layers: list[Spec] = [
        zero("y"),
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": shared | {"y": axis("low", "change of the margin, nats"), "y2": {"field": "high"}},
            "transform": [{"filter": "isValid(datum.low)"}],
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70},
            "encoding": shared
            | {
                "y": axis("value", "change of the margin, nats"),
                "shape": axis("what", None, "nominal", scale=scale(kinds, ["cross", "circle", "square"])),
                "tooltip": [{"field": name} for name in ("quartile", "what", "value", "low", "high", "n")],
            },
        },
    ]
    finding = found.finding.sentence if found.finding else found.withheld
    return Chart(
        key="quartiles",
        title="Did it depend on how sure the model was?",
        caption=(
            f"{finding} The grey marks show regression to the mean as well: the lowest rise and the highest fall even "
            "where nothing changed."
        ),
        alt="; ".join(f"{row['quartile']}, {row['what']}: {shown(row['value'])}" for row in data),
        spec=single(layers, data={"name": "quartiles"}),
        data={"quartiles": data},
    )


def _row(quartile: str, what: str, change: Interval) -> dict[str, Any]:
    return {"quartile": quartile, "what": what, **plain(change)}


ENTRY = CellChart(3, _quartiles)
