"""Where a stage moved the adapter."""

import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analysis.gradients import ALL
from seqdpo.analysis.schema import Findings, Movement
from seqdpo.report.charts.chart import Chart, RunChart, Spec, axis, key_of, shown, single
from seqdpo.study.checkpoints import BASE


def _movements(findings: Findings, movement: pa.Table) -> list[Chart]:
    """Of every real later stage."""
    records = findings.mechanism.movement if findings.mechanism else ()
    return [_movement(one, movement) for one in records if one.from_ != BASE and not one.placebo]


def _movement(record: Movement, movement: pa.Table) -> Chart:
    mine = (pc.field("seed") == record.seed) & (pc.field("checkpoint") == record.to) & (pc.field("placebo") == 0)
    rows = movement.filter(mine & ~pc.is_in(pc.field("module"), value_set=pa.array([ALL]))).to_pylist()
    data = [
        {
            "layer": row["layer"],
            "kind": row["kind"],
            "cosine": row["cosine"],
            "nulls": None if row["cosine"] is None else row["cosine"] / row["cosine_null_sd"],
            "share": row["share_of_update"],
        }
        for row in rows
    ]
    reach = max((abs(row["cosine"]) for row in data if row["cosine"] is not None), default=1.0) or 1.0
    layers: list[Spec] = [
        {
            "mark": {"type": "rect"},
            "encoding": {
                "x": axis("layer", "layer", "ordinal", axis={"labelAngle": 0}),
                "y": axis("kind", None, "nominal"),
                "color": axis(
                    "cosine",
                    "cosine with the earlier adapter",
                    scale={"scheme": "blueorange", "domain": [-reach, reach], "reverse": True},
                ),
                "tooltip": [{"field": name} for name in ("layer", "kind", "cosine", "nulls", "share")],
            },
        }
    ]
    return Chart(
        key=key_of("movement", record.to, record.seed),
        title=f"Where {record.to} (seed {record.seed}) moved the adapter",
        caption=(
            f"Cosine of each module's update of delta W with the earlier delta W; whole adapter "
            f"{shown(record.cosine, '+.3f')}, a random update reads 0 with SD "
            f"{shown(record.cosine_null_sd, '.4f')}. "
            f"The update is {shown(record.relative_update, '.0%')} as long as the earlier adapter."
        ),
        alt=f"Whole adapter: cosine {shown(record.cosine)}.",
        spec=single(layers, height=22 * len({row["kind"] for row in data}) + 30, data={"name": "modules"}),
        data={"modules": data},
    )


ENTRY = RunChart("mechanism", 3, _movements)
