"""Margins on the line between two checkpoints."""

from collections.abc import Sequence

from seqdpo.analysis.schema import Findings, KlAndPath
from seqdpo.report.charts.chart import (
    PALETTE,
    SHAPES,
    Chart,
    RunChart,
    RunTables,
    Spec,
    axis,
    key_of,
    plain,
    scale,
    shown,
    single,
    zero,
)
from seqdpo.study.checkpoints import BASE


def _paths(findings: Findings, tables: RunTables) -> list[Chart]:
    """Of every real later stage."""
    names = list(dict.fromkeys(row.objective for row in findings.score_matrix))
    records = findings.mechanism.kl_and_path if findings.mechanism else ()
    return [_path(one, names) for one in records if one.from_ != BASE and any(of.path for of in one.objectives)]


def _path(record: KlAndPath, names: Sequence[str]) -> Chart:
    paths = [(one.objective, one.path) for one in record.objectives if one.path]
    data = [
        {"a": step.a, "objective": name, "accuracy": step.accuracy.value, **plain(step.margin)}
        for name, path in paths
        for step in path.steps
    ]
    places = {"values": sorted({row["a"] for row in data}), "format": ".2f"}
    shared = {
        "x": axis("a", "a: 0 before the stage, 1 after it", axis=places),
        "color": axis("objective", "objective", "nominal", scale=scale(names, PALETTE)),
    }
    layers: list[Spec] = [
        zero("y"),
        {
            "mark": {"type": "rule"},
            "encoding": shared | {"y": axis("low", "mean margin, nats"), "y2": {"field": "high"}},
        },
        {"mark": {"type": "line"}, "encoding": shared | {"y": axis("value", "mean margin, nats")}},
        {
            "mark": {"type": "point", "filled": True, "size": 55},
            "encoding": shared
            | {
                "y": axis("value", "mean margin, nats"),
                "shape": axis("objective", "objective", "nominal", scale=scale(names, SHAPES)),
                "tooltip": [{"field": name} for name in ("objective", "a", "value", "low", "high", "accuracy")],
            },
        },
    ]
    words = "; ".join(f"{name}: {path.statement or 'undefined'}" for name, path in paths)
    ns = ", ".join(f"{one.objective} n = {one.n:,}" for one in record.objectives)
    return Chart(
        key=key_of("path", record.to, record.seed),
        title=f"On the line to {record.to} (seed {record.seed}): {words}",
        caption=(
            f"Mean margin at previous + a (new - previous), with intervals, over some of the held-out pairs: {ns}. "
            f"A straight line is first-order interference, a bent one is not: {words}."
        ),
        alt="; ".join(f"{row['objective']} at {row['a']}: {shown(row['value'])}" for row in data),
        spec=single(layers, height=240, data={"name": "path"}),
        data={"path": data},
    )


ENTRY = RunChart("mechanism", 2, _paths)
