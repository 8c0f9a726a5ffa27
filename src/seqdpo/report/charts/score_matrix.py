"""The score matrix in colour: every objective after every stage."""

from collections.abc import Mapping, Sequence
from typing import Any

from seqdpo.analysis.schema import Findings
from seqdpo.report.charts.chart import Chart, RunChart, RunTables, Spec, axis, counts_of, shown, single

#: The colours end that much beyond the largest margin, so that black figures are legible on all of them.
PALER = 1.8


def _score_matrix(findings: Findings, tables: RunTables) -> list[Chart]:
    rows = {
        (row.checkpoint, row.seed, row.objective): row
        for row in findings.score_matrix
        if not row.placebo and row.split == "eval"
    }.values()
    several_seeds = len({row.seed for row in rows}) > 1
    data: list[dict[str, Any]] = [
        {
            "where": f"{row.checkpoint} (seed {row.seed})" if several_seeds else row.checkpoint,
            "checkpoint": row.checkpoint,
            "objective": row.objective,
            "margin": row.margin.value,
            "accuracy": row.accuracy.value,
            "n": row.n,
        }
        for row in rows
    ]
    reach = PALER * (max((abs(row.margin.value) for row in rows if row.margin.value is not None), default=1.0) or 1.0)
    y = axis("where", None, "nominal", sort=None, axis={"labelLimit": 260})
    x = axis("objective", None, "nominal", sort=None, axis={"orient": "top", "labelAngle": 0})
    text = {"type": "text", "fontSize": 12}
    layers: list[Spec] = [
        {
            "mark": {"type": "rect"},
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
    transform = [{"calculate": "format(datum.margin, '+.2f') + ', ' + format(datum.accuracy, '.0%')", "as": "label"}]
    chart = Chart(
        key="score-matrix",
        title=_title(data),
        caption=(
            "Every objective after every stage: mean margin against the base in nats, and accuracy (a tie one half), "
            f"on held-out pairs. {counts_of(rows)}."
        ),
        alt="; ".join(f"{row['objective']} after {row['where']}: {shown(row['margin'])} nats" for row in data),
        spec=single(
            layers,
            height=max(120, 28 * len({row["where"] for row in data})),
            data={"name": "matrix"},
            transform=transform,
        ),
        data={"matrix": data},
    )
    return [chart]


def _title(data: Sequence[Mapping[str, Any]]) -> str:
    """Where a margin is lowest and highest."""
    known = [row for row in data if row["margin"] is not None]
    if not known:
        return "Every objective after every stage"
    ends = [end(known, key=lambda row: float(row["margin"])) for end in (min, max)]
    lowest, highest = (f"{row['objective']} after {row['checkpoint']} ({row['margin']:+.2f})" for row in ends)
    return f"Lowest margin: {lowest}; highest: {highest}"


ENTRY = RunChart("overview", 2, _score_matrix)
