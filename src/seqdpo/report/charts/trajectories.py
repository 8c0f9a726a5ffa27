"""Margin and accuracy of every objective along every order."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from seqdpo.analysis.schema import Bounds, Findings, Score
from seqdpo.report.charts.chart import (
    PALETTE,
    SHAPES,
    Chart,
    RunChart,
    Spec,
    axis,
    counts_of,
    plain,
    scale,
    shown,
    single,
    zero,
)

#: Keys long enough for a dash to show.
LINE_LEGEND = {"symbolType": "stroke", "symbolSize": 900, "symbolStrokeWidth": 2}
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]


def _both(findings: Findings, movement: pa.Table) -> list[Chart]:
    rows = [row for row in findings.score_matrix if not row.placebo and row.split == "eval"]
    confidence = findings.method.tolerances.confidence
    margins, accuracies = ([(row, getattr(row, name)) for row in rows] for name in ("margin", "accuracy"))
    return [
        _trajectories(margins, "margin", "mean margin, nats", confidence),
        _trajectories(accuracies, "accuracy", "accuracy", confidence),
    ]


def _trajectories(scores: Sequence[tuple[Score, Bounds]], measure: str, title: str, confidence: float) -> Chart:
    data = [
        {
            "stage": row.stage,
            "checkpoint": row.checkpoint,
            "objective": row.objective,
            "order": row.order,
            "line": f"{row.objective} {row.order} {row.seed}",
            "n": row.n,
            **plain(score),
        }
        for row, score in scores
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
    ns = counts_of(row for row, _ in scores)
    last = [row for row in data if row["stage"] == max(one["stage"] for one in data)]
    return Chart(
        key=f"trajectories-{measure}",
        title=f"Every objective over the stages: {title}",
        caption=f"Held-out pairs after each stage; {confidence:.0%} intervals, clustered by prompt. {ns}.",
        alt="; ".join(f"{row['objective']} after {row['checkpoint']}: {shown(row['value'])}" for row in last),
        spec=single(layers, data={"name": "scores"}),
        data={"scores": data},
    )


def _half() -> Spec:
    return zero("y") | {"encoding": {"y": {"datum": 0.5}}}


def _of(name: str, title: str) -> dict[str, Any]:
    return axis(name, title, scale={"zero": False})


def _without(encoding: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in encoding.items() if key != name}


ENTRY = RunChart("overview", 1, _both)
