"""What each variant kept of an earlier objective against what it learned of the new one, and the front."""

from typing import Any

from seqdpo.analysis.schema import Findings, ShareOfPlain, VariantOutcome, Variants
from seqdpo.report.charts.chart import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILLION,
    Chart,
    RunChart,
    RunTables,
    Spec,
    axis,
    key_of,
    shown,
    single,
)

#: Kinds of points, each with its colour and shape.
KINDS = {
    "plain": (VERMILLION, "square"),
    "variant": (BLUE, "circle"),
    "another strength": (PURPLE, "circle"),
    "joint: the ceiling": (GREEN, "diamond"),
    "control stage": (GREY, "cross"),
}


def _kept_and_learned(findings: Findings, tables: RunTables) -> list[Chart]:
    """One for each order and earlier objective."""
    return [_chart(of, place) for of in findings.variants for place in range(len(of.outcomes[0].kept))]


def _chart(of: Variants, place: int) -> Chart:
    earlier, new = of.outcomes[0].kept[place].objective, of.outcomes[0].learned.objective
    points = [_point(one, one.kept[place]) for one in of.outcomes]
    controls = [
        {"variant": one.variant, "kind": "control stage", "kept": control.kept[place], "learned": control.learned}
        for one in of.outcomes
        for control in one.controls
    ]
    front = [row for row, one in zip(points, of.outcomes, strict=True) if one.on_front]
    x = axis("learned", f"{new} learned, of what plain training learned", axis={"format": ".0%"}, scale={"zero": False})
    y = axis("kept", f"{earlier} kept", axis={"format": ".0%"}, scale={"zero": False})
    colour = {"domain": list(KINDS), "range": [colour for colour, _ in KINDS.values()]}
    shape = {"domain": list(KINDS), "range": [shape for _, shape in KINDS.values()]}
    kind = axis("kind", None, "nominal", scale=colour)
    only: Spec = {"data": {"name": "variants"}}
    layers: list[Spec] = [
        {
            "data": {"name": "controls"},
            "mark": {"type": "point", "opacity": 0.6, "size": 30},
            "encoding": {"x": x, "y": y, "color": kind, "shape": axis("kind", None, "nominal", scale=shape)},
        },
        {
            "data": {"name": "front"},
            "mark": {"type": "line", "strokeDash": [4, 3], "color": GREY},
            "encoding": {"x": x, "y": y, "order": {"field": "learned", "type": "quantitative"}},
        },
        only
        | {
            "mark": {"type": "rule", "opacity": 0.5},
            "encoding": {"x": x, "y": axis("kept_low", None), "y2": {"field": "kept_high"}, "color": kind},
        },
        only
        | {
            "mark": {"type": "rule", "opacity": 0.5},
            "encoding": {"y": y, "x": axis("learned_low", None), "x2": {"field": "learned_high"}, "color": kind},
        },
        only
        | {
            "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
            "encoding": {
                "x": x,
                "y": y,
                "color": kind,
                "shape": axis("kind", None, "nominal", scale=shape),
                "tooltip": [{"field": name} for name in points[0]],
            },
        },
        only
        | {
            "mark": {"type": "text", "align": "left", "dx": 7, "dy": -7},
            "encoding": {"x": x, "y": y, "text": {"field": "variant"}},
        },
    ]
    words = "; ".join(
        f"{row['variant']} kept {shown(row['kept'], '.0%')}, learned {shown(row['learned'], '.0%')}" for row in points
    )
    share = of.outcomes[0].kept[place]
    return Chart(
        key=f"{key_of('kept-and-learned', of.order, of.seeds[0])}-{earlier}",
        title=f"{of.order}: {earlier} kept, {new} learned",
        caption=(
            f"Right and up is better. Shares of the mean margin with {of.confidence:.0%} intervals, "
            f"n = {share.n:,} held-out pairs of {share.n_prompts:,} prompts ({of.pairs}), {len(of.seeds)} "
            f"seed{'s' * (len(of.seeds) > 1)}. The dashed line joins the variants that no other one beats in both; "
            "joint training is the ceiling. In grey: control stages, whose labels say nothing new."
        ),
        alt=words,
        spec=single(layers, height=320),
        data={"variants": points, "controls": controls, "front": front},
    )


def _point(one: VariantOutcome, kept: ShareOfPlain) -> dict[str, Any]:
    return {
        "variant": one.variant,
        "kind": _kind(one),
        "kept": kept.value,
        "kept_low": kept.low,
        "kept_high": kept.high,
        "learned": one.learned.value,
        "learned_low": one.learned.low,
        "learned_high": one.learned.high,
    }


def _kind(one: VariantOutcome) -> str:
    if one.joint:
        return "joint: the ceiling"
    if one.variant == "plain":
        return "plain"
    return "variant" if one.chosen else "another strength"


ENTRY = RunChart("remedies", 0, _kept_and_learned)
