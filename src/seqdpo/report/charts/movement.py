"""Where a stage moved the adapter."""

import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analysis.gradients import ALL
from seqdpo.analysis.schema import Findings, Movement
from seqdpo.report.charts.chart import Chart, RunChart, RunTables, Spec, axis, key_of, shown, single
from seqdpo.study.checkpoints import BASE, Checkpoint
from seqdpo.study.keys import MOST_CONTROLS


def _movements(findings: Findings, tables: RunTables) -> list[Chart]:
    """Of every real later stage."""
    records = findings.mechanism.movement if findings.mechanism else ()
    return [_movement(one, tables.movement) for one in records if one.from_ != BASE and not one.placebo]


def _movement(record: Movement, movement: pa.Table) -> Chart:
    modules = movement.filter(~pc.is_in(pc.field("module"), value_set=pa.array([ALL])))
    mine = (pc.field("seed") == record.seed) & (pc.field("checkpoint") == record.to) & (pc.field("placebo") == 0)
    rows = modules.filter(mine).to_pylist()
    of_controls = _of_controls(record, modules)
    data = [
        {
            "layer": row["layer"],
            "kind": row["kind"],
            "cosine": row["cosine"],
            "controls": of_controls.get(row["module"]),
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
                "tooltip": [{"field": name} for name in ("layer", "kind", "cosine", "controls", "share")],
            },
        }
    ]
    return Chart(
        key=key_of("movement", record.to, record.seed),
        title=(
            f"{record.to} (seed {record.seed}) moved the adapter "
            f"{shown(record.relative_update, '.0%')} of its length, cosine {shown(record.cosine, '+.2f')}"
        ),
        caption=(
            f"Cosine of each module's update of delta W with the earlier delta W; whole adapter "
            f"{shown(record.cosine, '+.3f')}{_beside(record)}. "
            f"The update is {shown(record.relative_update, '.0%')} as long as the earlier adapter."
        ),
        alt=f"Whole adapter: cosine {shown(record.cosine)}.",
        spec=single(layers, height=22 * len({row["kind"] for row in data}) + 30, data={"name": "modules"}),
        data={"modules": data},
    )


def _of_controls(record: Movement, modules: pa.Table) -> dict[str, float]:
    """The mean cosine of the control stages beside a real one, by module."""
    names = [Checkpoint.parse(record.to)._replace(placebo=k).name for k in range(1, MOST_CONTROLS + 1)]
    beside = (pc.field("seed") == record.seed) & pc.field("checkpoint").isin(names)
    means = modules.filter(beside).group_by("module").aggregate([("cosine", "mean")])
    return dict(zip(means["module"].to_pylist(), means["cosine_mean"].to_pylist(), strict=True))


def _beside(record: Movement) -> str:
    beyond = record.cosine_beyond_controls
    if beyond is None or record.cosine is None:
        return ""
    return f", the mean of its {beyond.n_controls} control stages {shown(record.cosine - beyond.excess, '+.3f')}"


ENTRY = RunChart("mechanism", 3, _movements)
