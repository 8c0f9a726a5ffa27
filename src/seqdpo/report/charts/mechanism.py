"""Gradients, movement and path of the stages."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.report.charts.chart import BLUE, PALETTE, SHAPES, VERMILLION, Chart, Spec, axis, scale, shown, single, zero


def mechanism_charts(results: Mapping[str, Any], movement: pa.Table) -> list[Chart]:
    """The pictures of every real later stage; none where nothing was measured."""
    mechanism = results.get("mechanism")
    if not mechanism:
        return []
    names = list(dict.fromkeys(row["objective"] for row in results["score_matrix"]))
    charts = [_trace(record) for record in mechanism["gradients"]]
    for record in mechanism["kl_and_path"]:
        if record["from"] != "base" and any(one["path"] for one in record["objectives"]):
            charts.append(_path(record, names))
    for record in mechanism["movement"]:
        if record["from"] != "base" and not record["placebo"]:
            charts.append(_movement(record, movement))
    return charts


def _stage(record: Mapping[str, Any]) -> str:
    return f"{record['to']} (seed {record['seed']})"


def _key(kind: str, record: Mapping[str, Any]) -> str:
    return f"{kind}-{record['to'].replace('>', '-')}-seed{record['seed']}"


def _trace(record: Mapping[str, Any]) -> Chart:
    corrected = record["cosine"]["value"]
    data = [
        {"step": point["step"], "what": what, "value": point[key]}
        for point in record["trace"]
        for what, key in (("one batch", "raw_cosine"), ("corrected", "cosine"))
        # noise alone throws a corrected point far out; where it outweighs the signal of the whole stage none is shown
        if point[key] is not None and abs(point[key]) <= 1.5 and (key == "raw_cosine" or corrected is not None)
    ]
    band = record["point_cosine"]
    kinds = list(dict.fromkeys(row["what"] for row in data))
    layers: list[Spec] = [
        {
            "data": {"values": [{"low": band["low"], "high": band["high"]}] if band["low"] is not None else []},
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
    current, reliability = record["to"].split(">")[-1], record["reliability"]
    caption = (
        f"{record['n_points']} points, two batches of {record['pairs_per_batch']} held-out pairs each. Band: "
        f"{band['confidence']:.0%} interval of the uncorrected mean, noise included ({record['statement']}). "
        f"Reliability of a batch: {current} {shown(reliability['current'])}, {record['objective']} "
        f"{shown(reliability['earlier'])} (1: no noise). Cosine of the stage with the noise taken out: "
        f"{shown(corrected) if corrected is not None else 'undefined, since the noise outweighs the signal'}."
    )
    return Chart(
        key=_key(f"gradients-{record['objective']}", record),
        title=f"Gradients of {current} and {record['objective']} during {_stage(record)}",
        caption=caption,
        alt=caption,
        spec=single(layers, height=220, data={"name": "trace"}),
        data={"trace": data},
    )


def _path(record: Mapping[str, Any], names: Sequence[str]) -> Chart:
    data = [
        {"a": step["a"], "objective": one["objective"], "accuracy": step["accuracy"]["value"], **step["margin"]}
        for one in record["objectives"]
        if one["path"]
        for step in one["path"]["steps"]
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
    words = "; ".join(
        f"{one['objective']}: {one['path']['statement'] or 'undefined'}" for one in record["objectives"] if one["path"]
    )
    ns = ", ".join(f"{one['objective']} n = {one['n']:,}" for one in record["objectives"])
    return Chart(
        key=_key("path", record),
        title=f"On the line to {_stage(record)}",
        caption=(
            f"Mean margin at previous + a (new - previous), with intervals, over some of the held-out pairs: {ns}. "
            f"A straight line is first-order interference, a bent one is not: {words}."
        ),
        alt="; ".join(f"{row['objective']} at {row['a']}: {shown(row['value'])}" for row in data),
        spec=single(layers, height=240, data={"name": "path"}),
        data={"path": data},
    )


def _movement(record: Mapping[str, Any], movement: pa.Table) -> Chart:
    mine = (pc.field("seed") == record["seed"]) & (pc.field("checkpoint") == record["to"]) & (pc.field("placebo") == 0)
    rows = movement.filter(mine & ~pc.is_in(pc.field("module"), value_set=pa.array(["(all)"]))).to_pylist()
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
        key=_key("movement", record),
        title=f"Where {_stage(record)} moved the adapter",
        caption=(
            f"Cosine of each module's update of delta W with the earlier delta W; whole adapter "
            f"{shown(record['cosine'], '+.3f')}, a random update reads 0 with SD "
            f"{shown(record['cosine_null_sd'], '.4f')}. "
            f"The update is {shown(record['relative_update'], '.0%')} as long as the earlier adapter."
        ),
        alt=f"Whole adapter: cosine {shown(record['cosine'])}.",
        spec=single(layers, height=22 * len({row["kind"] for row in data}) + 30, data={"name": "modules"}),
        data={"modules": data},
    )
