"""Did the change depend on how sure the model was of a pair?"""

from typing import Any

from seqdpo.analysis.schema import BeyondControls, BiasedQuartile, Cell, ExcessQuartile, Interval, QuartileFinding
from seqdpo.report.charts.chart import (
    BLUE,
    GREY,
    VERMILLION,
    CellChart,
    Chart,
    Spec,
    axis,
    change_axis,
    plain,
    scale,
    shown,
    single,
    zero,
)

REAL, CONTROLS, OTHER_SEEDS = "this run (biased)", "its control stages", "quartiles of other seeds"


def _quartiles(cell: Cell) -> Chart:
    found = cell.quartiles
    biased = found.as_in_the_study.rows
    data = [_row(row.quartile, REAL, row.margin_change) for row in biased]
    if found.excess_over_placebo is not None:
        rows = zip(biased, found.excess_over_placebo.rows, strict=True)
        data += [_of_controls(real, excess) for real, excess in rows]
    if found.cross_fitted is not None:
        data += [_row(row.quartile, OTHER_SEEDS, row.tested) for row in found.cross_fitted.rows]
    kinds = list(dict.fromkeys(row["what"] for row in data))
    title = change_axis(cell)
    shared = {
        "x": axis("quartile", "quartile when taught (Q1 lowest)", "nominal", axis={"labelAngle": 0}),
        "xOffset": {"field": "what", "scale": {"domain": kinds}},
        "color": axis("what", None, "nominal", scale=scale(kinds, [VERMILLION, GREY, BLUE])),
    }
    layers: list[Spec] = [
        zero("y"),
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": shared | {"y": axis("low", title), "y2": {"field": "high"}},
            "transform": [{"filter": "isValid(datum.low)"}],
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70},
            "encoding": shared
            | {
                "y": axis("value", title),
                "shape": axis("what", None, "nominal", scale=scale(kinds, ["circle", "cross", "square"])),
                "tooltip": [{"field": name} for name in ("quartile", "what", "value", "low", "high", "n")],
            },
        },
    ]
    return Chart(
        key="quartiles",
        title=_title(found.finding, cell.objective),
        caption=(
            f"{found.finding.sentence if found.finding else found.withheld} By its own quartiles a run rises in the "
            "lowest and falls in the highest even where nothing changed (regression to the mean), and its control "
            "stages do likewise: what counts is the gap between the two. Grey: mean of the control stages, with the "
            "range in which one more of them is expected."
        ),
        alt="; ".join(f"{row['quartile']}, {row['what']}: {shown(row['value'])}" for row in data),
        spec=single(layers, data={"name": "quartiles"}),
        data={"quartiles": data},
    )


def _row(quartile: str, what: str, change: Interval) -> dict[str, Any]:
    return {"quartile": quartile, "what": what, **plain(change)}


def _of_controls(real: BiasedQuartile, excess: ExcessQuartile) -> dict[str, Any]:
    """The mean change of the control stages, and where one more of them would lie; without that where there is one."""
    change, beyond = real.margin_change.value, excess.excess_margin_change.value
    mean = None if change is None or beyond is None else change - beyond
    low, high = _range(mean, excess.beyond_controls)
    return {"quartile": real.quartile, "what": CONTROLS, "value": mean, "low": low, "high": high, "n": real.n}


def _range(mean: float | None, beyond: BeyondControls | None) -> tuple[float | None, float | None]:
    if mean is None or beyond is None:
        return None, None
    reach = (beyond.high - beyond.low) / 2
    return mean - reach, mean + reach


def _title(finding: QuartileFinding | None, objective: str) -> str:
    if finding is None:
        return f"Sure and unsure pairs of {objective}: nothing can be said"
    moves = [f"{', '.join(names)} {verb}" for names, verb in ((finding.rose, "rose"), (finding.fell, "fell")) if names]
    if not moves:
        return f"Sure and unsure pairs of {objective}: no quartile differs from control stages"
    return f"Sure and unsure pairs of {objective}: {', '.join(moves)} beyond control stages"


ENTRY = CellChart(3, _quartiles)
