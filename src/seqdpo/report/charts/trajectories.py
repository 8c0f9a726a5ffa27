"""Margin and accuracy of every objective along every order."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from seqdpo.analysis.schema import Bounds, Findings, Score
from seqdpo.report.charts.chart import (
    GREY,
    PALETTE,
    SHAPES,
    Chart,
    RunChart,
    RunTables,
    Spec,
    axis,
    counts_of,
    moved,
    plain,
    scale,
    shown,
    single,
    zero,
)
from seqdpo.study.checkpoints import Checkpoint

Quantity: TypeAlias = Literal["margin", "accuracy"]
TITLES: dict[Quantity, str] = {"margin": "mean margin, nats", "accuracy": "accuracy"}
#: Keys long enough for a dash to show.
LINE_LEGEND = {"symbolType": "stroke", "symbolSize": 900, "symbolStrokeWidth": 2}
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]


class _Step(NamedTuple):
    """What a later stage did to an objective that was taught before."""

    objective: str
    later: str
    before: float
    after: float
    in_controls: float | None  # mean of the control stages


def _both(findings: Findings, tables: RunTables) -> list[Chart]:
    rows = [row for row in findings.score_matrix if row.split == "eval"]
    confidence = findings.method.tolerances.confidence
    return [_trajectories(rows, quantity, confidence) for quantity in TITLES]


def _trajectories(scores: Sequence[Score], quantity: Quantity, confidence: float) -> Chart:
    score, title = attrgetter(quantity), TITLES[quantity]
    real = [row for row in scores if not row.placebo]
    data = [_row(row, score(row)) for row in real]
    controls = [_row(row, score(row)) for row in scores if row.placebo]
    objectives = list(dict.fromkeys(row.objective for row in real))
    orders = list(dict.fromkeys(row.order for row in real))
    place = {
        "x": axis("stage", "stages trained", "ordinal", axis={"labelAngle": 0}, scale={"padding": 0.7}),
        # side by side, so that orders that agree do not cover each other
        "xOffset": {"field": "order", "scale": {"domain": orders}},
    }
    encoding = place | {
        "color": axis("objective", "objective", "nominal", scale=scale(objectives, PALETTE)),
        "strokeDash": axis("order", "order", "nominal", scale=scale(orders, DASHES), legend=LINE_LEGEND),
        "detail": {"field": "line"},
    }
    y = axis("value", title, scale={"zero": False})
    tooltip = [{"field": name} for name in ("objective", "checkpoint", "value", "low", "high", "n")]
    layers: list[Spec] = [
        zero("y") if quantity == "margin" else _half(),
        {
            "data": {"name": "controls"},
            "mark": {"type": "point", "filled": True, "size": 30, "opacity": 0.8},
            "encoding": place | {"y": y, "color": {"value": GREY}, "shape": {"value": "cross"}, "tooltip": tooltip},
        },
        {"mark": {"type": "line"}, "encoding": encoding | {"y": y}},
        {
            "mark": {"type": "rule"},
            "encoding": _without(encoding, "strokeDash")
            | {"y": axis("low", title, scale={"zero": False}), "y2": {"field": "high"}},
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
    grey = " Grey crosses: control stages." if controls else ""
    last = [row for row in data if row["stage"] == max(one["stage"] for one in data)]
    return Chart(
        key=f"trajectories-{quantity}",
        title=_title(_steps(scores, quantity), quantity),
        caption=(
            f"{quantity.capitalize()} of every objective on held-out pairs after each stage; {confidence:.0%} "
            f"intervals, clustered by prompt.{grey} {counts_of(real)}."
        ),
        alt="; ".join(f"{row['objective']} after {row['checkpoint']}: {shown(row['value'])}" for row in last),
        spec=single(layers, data={"name": "scores"}),
        data={"scores": data, "controls": controls},
    )


def _row(row: Score, score: Bounds) -> dict[str, Any]:
    return {
        "stage": row.stage,
        "checkpoint": row.checkpoint,
        "objective": row.objective,
        "order": row.order,
        "line": f"{row.objective} {row.order} {row.seed}",
        "n": row.n,
        **plain(score),
    }


def _steps(scores: Sequence[Score], quantity: Quantity) -> list[_Step]:
    """Of every later stage and each objective before it; those with an undefined end are left out."""
    values = {(row.seed, row.checkpoint, row.objective): getattr(row, quantity).value for row in scores}
    found = []
    for row in scores:
        now = Checkpoint.parse(row.checkpoint)
        if row.placebo or row.objective not in now.path[:-1]:
            continue
        parent = now._replace(path=now.path[:-1]).name
        before, after = values.get((row.seed, parent, row.objective)), values[row.seed, row.checkpoint, row.objective]
        beside = [
            values[one.seed, one.checkpoint, one.objective]
            for one in scores
            if one.placebo
            and (one.seed, one.objective) == (row.seed, row.objective)
            and Checkpoint.parse(one.checkpoint)._replace(placebo=0) == now
        ]
        if before is not None and after is not None:
            mean = float(np.mean(beside)) if beside and None not in beside else None
            found.append(_Step(row.objective, now.path[-1], before, after, mean))
    return found


def _title(steps: Sequence[_Step], quantity: Quantity) -> str:
    """The step that changed most."""
    if not steps:
        return f"Every objective over the stages: {TITLES[quantity]}"
    most = max(steps, key=lambda one: abs(one.after - one.before))
    change = most.after - most.before
    if quantity == "margin":
        title = f"{most.objective} {moved(change)} nats with {most.later}"
        of_controls = None if most.in_controls is None else moved(most.in_controls - most.before)
        return title if of_controls is None else f"{title}; in control stages it {of_controls}"
    title = f"{most.objective}: {most.before:.0%} right before {most.later}, {most.after:.0%} after it"
    return title if most.in_controls is None else f"{title}; {most.in_controls:.0%} after control stages"


def _half() -> Spec:
    return zero("y") | {"encoding": {"y": {"datum": 0.5}}}


def _without(encoding: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in encoding.items() if key != name}


ENTRY = RunChart("overview", 1, _both)
