"""How each stage's training went: what train.parquet has of its steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analysis.schema import Findings
from seqdpo.report.charts.chart import GREY, PALETTE, Chart, RunChart, RunTables, Spec, axis, scale, shown, single

#: Of a stage's curve; each point is the mean of as many steps in a row as it takes.
MOST_POINTS = 60
#: A column of train.parquet, and how it is named.
CURVES = {
    "loss": "loss",
    "accuracy": "accuracy on the pairs of a step",
    "reward_margin": "reward margin (the loss's own)",
    "grad_norm": "gradient norm before clipping",
}


def _curves(findings: Findings, tables: RunTables) -> list[Chart]:
    steps = tables.steps
    if not steps.num_rows:
        return []
    return [_curve(name, title, steps) for name, title in CURVES.items()]


def _curve(name: str, title: str, steps: pa.Table) -> Chart:
    stages = pc.unique(pc.binary_join_element_wise(pc.cast(steps["seed"], pa.string()), steps["checkpoint"], "|"))
    data: list[dict[str, Any]] = []
    for stage in stages.to_pylist():
        seed, checkpoint = stage.split("|", 1)
        own = steps.filter((pc.field("seed") == int(seed)) & (pc.field("checkpoint") == checkpoint))
        data += _points(stage, checkpoint, own["placebo"][0].as_py() > 0, own["step"].to_numpy(), own[name].to_numpy())
    real = list(dict.fromkeys(row["checkpoint"] for row in data if not row["control"]))
    shared = {
        "x": axis("step", "step of the stage"),
        "y": axis("value", title, scale={"zero": False}),
        "detail": {"field": "stage"},
    }
    tooltip = [{"field": field} for field in ("checkpoint", "step", "value")]
    layers: list[Spec] = [
        {
            "transform": [{"filter": "datum.control"}],
            "mark": {"type": "line", "opacity": 0.5, "strokeWidth": 1},
            "encoding": shared | {"color": {"value": GREY}},
        },
        {
            "transform": [{"filter": "!datum.control"}],
            "mark": {"type": "line", "point": {"size": 14}},
            "encoding": shared
            | {"color": axis("checkpoint", None, "nominal", scale=scale(real, PALETTE)), "tooltip": tooltip},
        },
    ]
    ends = _ends(data)
    grey = " Grey: control stages, whose labels say nothing new." if any(row["control"] for row in data) else ""
    return Chart(
        key=f"training-{name.replace('_', '-')}",
        title=f"{title[0].upper()}{title[1:]}: {ends}",
        caption=f"Training pairs, step by step; a point is the mean of some steps in a row, at most {MOST_POINTS} "
        f"points a stage.{grey}",
        alt=ends,
        spec=single(layers, height=200, data={"name": "steps"}),
        data={"steps": data},
    )


def _points(stage: str, checkpoint: str, control: bool, steps: Any, values: Any) -> list[dict[str, Any]]:
    parts = np.array_split(np.arange(len(steps)), min(MOST_POINTS, len(steps)))
    return [
        {
            "stage": stage,
            "checkpoint": checkpoint,
            "control": control,
            "step": int(steps[part[-1]]),
            "value": float(np.mean(values[part])),
        }
        for part in parts
    ]


def _ends(data: Sequence[dict[str, Any]]) -> str:
    """Where the first real stage began and ended."""
    own = [row for row in data if row["stage"] == next((one["stage"] for one in data if not one["control"]), None)]
    if not own:
        return "control stages only"
    return f"{shown(own[0]['value'])} to {shown(own[-1]['value'])} in {own[0]['checkpoint']}"


ENTRY = RunChart("training", 1, _curves)
