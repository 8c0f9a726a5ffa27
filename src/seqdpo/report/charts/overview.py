"""What happened to every objective over the stages."""

from collections.abc import Mapping, Sequence
from typing import Any

from seqdpo.report.charts.chart import PALETTE, SHAPES, Chart, Row, Spec, axis, scale, shown, single, zero

#: Keys long enough for a dash to show.
LINE_LEGEND = {"symbolType": "stroke", "symbolSize": 900, "symbolStrokeWidth": 2}
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]


def overview_charts(results: Mapping[str, Any]) -> list[Chart]:
    """Margin and accuracy of every objective along every order, and the score matrix."""
    rows = [row for row in results["score_matrix"] if row["placebo"] == 0 and row["split"] == "eval"]
    confidence = results["method"]["tolerances"]["confidence"]
    return [
        _trajectories(rows, "margin", "mean margin, nats", confidence),
        _trajectories(rows, "accuracy", "accuracy", confidence),
        _score_matrix(rows),
    ]


def _trajectories(rows: Sequence[Row], measure: str, title: str, confidence: float) -> Chart:
    data = [
        {
            "stage": row["stage"],
            "checkpoint": row["checkpoint"],
            "objective": row["objective"],
            "order": row["order"],
            "line": f"{row['objective']} {row['order']} {row['seed']}",
            "n": row["n"],
            **row[measure],
        }
        for row in rows
    ]
    objectives = list(dict.fromkeys(row["objective"] for row in data))
    orders = list(dict.fromkeys(row["order"] for row in data))
    encoding = {
        "x": axis("stage", "stages trained", "ordinal", axis={"labelAngle": 0}),
        "color": axis("objective", "objective", "nominal", scale=scale(objectives, PALETTE)),
        "strokeDash": axis("order", "order", "nominal", scale=scale(orders, DASHES), legend=LINE_LEGEND),
        "detail": {"field": "line"},
    }
    y = _of("value", title)
    tooltip = [{"field": name} for name in ("objective", "checkpoint", "value", "low", "high", "n")]
    layers: list[Spec] = [
        zero("y") if measure == "margin" else _half(),
        {"mark": {"type": "line"}, "encoding": encoding | {"y": y}},
        {
            "mark": {"type": "rule"},
            "encoding": _without(encoding, "strokeDash") | {"y": _of("low", title), "y2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 60},
            "encoding": _without(encoding, "strokeDash")
            | {
                "y": y,
                "shape": axis("objective", "objective", "nominal", scale=scale(objectives, SHAPES)),
                "tooltip": tooltip,
            },
        },
    ]
    last = [row for row in data if row["stage"] == max(one["stage"] for one in data)]
    return Chart(
        key=f"trajectories-{measure}",
        title=f"Every objective over the stages: {title}",
        caption=f"Held-out pairs after each stage; {confidence:.0%} intervals, clustered by prompt. {_ns(data)}.",
        alt="; ".join(f"{row['objective']} after {row['checkpoint']}: {shown(row['value'])}" for row in last),
        spec=single(layers, data={"name": "scores"}),
        data={"scores": data},
    )


def _score_matrix(rows: Sequence[Row]) -> Chart:
    data = [
        {
            "where": f"{row['checkpoint']} (seed {row['seed']})",
            "objective": row["objective"],
            "margin": row["margin"]["value"],
            "accuracy": row["accuracy"]["value"],
            "n": row["n"],
        }
        for row in {(r["checkpoint"], r["seed"], r["objective"]): r for r in rows}.values()
    ]
    reach = max((abs(row["margin"]) for row in data if row["margin"] is not None), default=1.0) or 1.0
    y = axis("where", None, "nominal", sort=None, axis={"labelLimit": 260})
    x = axis("objective", None, "nominal", sort=None, axis={"orient": "top", "labelAngle": 0})
    text = {"type": "text", "fontSize": 12}
    layers: list[Spec] = [
        {
            "mark": {"type": "rect"},
            "params": [{"name": "cell", "select": {"type": "point", "fields": ["where", "objective"]}}],
            "encoding": {
                "x": x,
                "y": y,
                "color": axis(
                    "margin",
                    "mean margin, nats",
                    scale={"scheme": "blueorange", "domain": [-reach, reach], "reverse": True},
                ),
            },
        },
        {
            "mark": text,
            "encoding": {
                "x": x,
                "y": y,
                "text": {"field": "label"},
                "color": {"value": "black"},
            },
        },
    ]
    transform = [
        {"calculate": "format(datum.margin, '+.2f') + ' nats, ' + format(datum.accuracy, '.0%')", "as": "label"}
    ]
    return Chart(
        key="score-matrix",
        title="Every objective after every stage",
        caption=f"Mean margin against the base and accuracy (a tie one half) on held-out pairs. {_ns(data)}.",
        alt="; ".join(f"{row['objective']} after {row['where']}: {shown(row['margin'])} nats" for row in data),
        spec=single(
            layers,
            height=max(120, 28 * len({row["where"] for row in data})),
            data={"name": "matrix"},
            transform=transform,
        ),
        data={"matrix": data},
    )


def _half() -> Spec:
    return zero("y") | {"encoding": {"y": {"datum": 0.5}}}


def _of(name: str, title: str) -> dict[str, Any]:
    return axis(name, title, scale={"zero": False})


def _without(encoding: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in encoding.items() if key != name}


def _ns(rows: Sequence[Row]) -> str:
    ns = {row["objective"]: row["n"] for row in rows}
    return ", ".join(f"{name}: n = {n:,} pairs" for name, n in ns.items())
