"""The gradients of two objectives at the points of a stage."""

from typing import Any

from seqdpo.analysis.schema import Findings, Gradients
from seqdpo.report.charts.chart import (
    BLUE,
    VERMILLION,
    Chart,
    RunChart,
    RunTables,
    Spec,
    axis,
    key_of,
    scale,
    shown,
    single,
    zero,
)
from seqdpo.report.numbers import interval
from seqdpo.study.checkpoints import Checkpoint


def _traces(findings: Findings, tables: RunTables) -> list[Chart]:
    """Of every real later stage."""
    records = findings.mechanism.gradients if findings.mechanism else ()
    return [_trace(record) for record in records if not record.placebo]


def _trace(record: Gradients) -> Chart:
    corrected = record.cosine.value
    data: list[dict[str, Any]] = [
        {"step": point.step, "what": what, "value": value}
        for point in record.trace
        # where the noise outweighs the signal of the whole stage no corrected point is shown
        for what, value in (("one batch", point.raw_cosine), ("corrected", None if corrected is None else point.cosine))
        if value is not None
    ]
    band = record.point_cosine
    kinds = list(dict.fromkeys(row["what"] for row in data))
    layers: list[Spec] = [
        {
            "data": {"values": [{"low": band.low, "high": band.high}] if band.low is not None else []},
            "mark": {"type": "rect", "opacity": 0.15, "color": BLUE},
            "encoding": {"y": axis("low", "cosine of the gradients"), "y2": {"field": "high"}},
        },
        zero("y"),
        {
            "mark": {"type": "point", "size": 50},
            "encoding": {
                "x": axis("step", "step of the stage"),
                "y": axis("value", "cosine of the gradients"),
                "color": axis("what", None, "nominal", scale=scale(kinds, [BLUE, VERMILLION])),
                "shape": axis("what", None, "nominal", scale=scale(kinds, ["circle", "triangle-up"])),
                "tooltip": [{"field": name} for name in ("step", "what", "value")],
            },
        },
    ]
    current, reliability = Checkpoint.parse(record.to).path[-1], record.reliability
    caption = (
        f"{record.n_points} points, two batches of {record.pairs_per_batch} held-out pairs each, from "
        f"{record.n_blocks} blocks of pairs. Band: {band.confidence:.0%} interval of the uncorrected mean, noise "
        f"included ({record.side}). "
        f"Reliability of a batch: {current} {shown(reliability.current)}, {record.objective} "
        f"{shown(reliability.earlier)} (1: no noise). Cosine of the stage with the noise taken out: "
        f"{interval(record.cosine) if corrected is not None else 'undefined, since the noise outweighs the signal'}: "
        f"{record.statement} (bound ±{record.near_orthogonal:g})."
    )
    return Chart(
        key=key_of(f"gradients-{record.objective}", record.to, record.seed),
        title=(
            f"During {record.to} (seed {record.seed}), gradients of {current} and {record.objective}: "
            f"{record.statement}"
        ),
        caption=caption,
        alt=caption,
        spec=single(layers, height=220, data={"name": "trace"}),
        data={"trace": data},
    )


ENTRY = RunChart("mechanism", 1, _traces)
