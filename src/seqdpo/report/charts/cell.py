"""What a later stage did to the pairs of an earlier objective."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seqdpo.report.charts.chart import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILLION,
    Chart,
    Spec,
    axis,
    scale,
    shown,
    single,
    zero,
)

FLIPS = ["kept", "lost", "regained", "never", "tied"]
FLIP_COLOURS = scale(FLIPS, [BLUE, VERMILLION, GREEN, GREY, PURPLE])
FLIP_SHAPES = scale(FLIPS, ["circle", "triangle-down", "triangle-up", "cross", "diamond"])
MOST_SLICES = 12


def cell_charts(cell: Mapping[str, Any]) -> list[Chart]:
    """The pictures of one record of `cells`; "margins" and "displacement" need the dataset `pairs`.

    Its rows: row, before, after, change, flip, quartile, chosen_change, rejected_change.
    """
    charts = [_margins(cell), _flips(cell), _quartiles(cell), _displacement(cell)]
    return [*charts, *([_slices(cell)] if cell["slices"] else [])]


def _margins(cell: Mapping[str, Any]) -> Chart:
    edges = [
        {"edge": row["margin_up_to"], "name": row["quartile"]}
        for row in cell["quartiles"]["as_in_the_study"]["rows"]
        if row["margin_up_to"] is not None
    ]
    caption = (
        "Below the grey diagonal a pair lost margin. Dashed: quartile edges of the margin when "
        f"{cell['objective']} was taught. Drag to choose pairs; the table follows. n = {cell['n']:,} pairs."
    )
    ends = (f"after {cell['from']}", f"after {cell['to']}")
    scatter = pair_scatter("Every pair, before and after", caption, *ends, edges)
    change = cell["change"]["margin_change"]["value"]
    return replace(scatter, alt=f"Mean margin change {shown(change)} nats over {cell['n']:,} pairs.")


def pair_scatter(title: str, caption: str, before: str, after: str, edges: Sequence[Mapping[str, Any]] = ()) -> Chart:
    """A point for each row of the dataset `pairs`; `before` and `after` say of what their margins are."""
    x, y = f"margin {before}, nats", f"margin {after}, nats"
    points: Spec = {
        "data": {"name": "pairs"},
        "params": [{"name": "brush", "select": {"type": "interval", "encodings": ["x", "y"]}}],
        "mark": {"type": "point", "filled": True, "size": 28, "opacity": 0.6},
        "encoding": {
            "x": axis("before", x),
            "y": axis("after", y),
            "color": axis("flip", "outcome", "nominal", scale=FLIP_COLOURS),
            "shape": axis("flip", "outcome", "nominal", scale=FLIP_SHAPES),
            "tooltip": [{"field": name} for name in ("before", "after", "change", "flip", "quartile")],
        },
    }
    bands: Spec = {
        "data": {"name": "edges"},
        "mark": {"type": "rule", "strokeDash": [3, 3], "opacity": 0.6},
        "encoding": {"x": axis("edge", x), "tooltip": {"field": "name"}},
    }
    identity: Spec = {
        "data": {"name": "identity"},
        "mark": {"type": "line", "opacity": 0.7, "color": GREY},
        "encoding": {"x": axis("value", x), "y": axis("value", y)},
    }
    layers = [bands, identity, points]
    return Chart("margins", title, caption, caption, single(layers, height=340), {"edges": [dict(e) for e in edges]})


def _flips(cell: Mapping[str, Any]) -> Chart:
    flips = cell["change"]["flips"]
    data = [
        {"before": "right" if name in ("kept", "lost") else "wrong", "flip": name, "place": place, "pairs": flips[name]}
        for place, name in enumerate(("kept", "lost", "regained", "never"))
    ]
    bars: Spec = {
        "mark": {"type": "bar"},
        "encoding": {
            "y": axis("before", "before", "nominal", sort=["right", "wrong"]),
            "x": axis("pairs", "pairs"),
            "color": axis("flip", "after", "nominal", scale=FLIP_COLOURS),
            "order": {"field": "place"},
            "tooltip": [{"field": "flip"}, {"field": "pairs"}],
        },
    }
    labels: Spec = {
        "mark": {"type": "text", "color": "#FFFFFF", "fontWeight": "bold"},
        "transform": [{"filter": "datum.pairs > 0"}],
        "encoding": {
            "y": axis("before", "before", "nominal", sort=["right", "wrong"]),
            "x": axis("pairs", "pairs", stack="zero", bandPosition=0.5),
            "detail": {"field": "flip"},
            "order": {"field": "place"},
            "text": {"field": "pairs"},
        },
    }
    tied = f" {flips['tied']:,} pairs with a margin of exactly 0 are left out." if flips["tied"] else ""
    return Chart(
        key="flips",
        title="Which pairs flipped",
        caption=(
            "Right: margin above 0. kept stays right, lost turns wrong, regained turns right, never stays wrong. "
            f"n = {cell['n']:,} pairs.{tied}"
        ),
        alt=", ".join(f"{name} {flips[name]:,}" for name in FLIPS),
        spec=single([bars, labels], height=110, data={"name": "flips"}),
        data={"flips": data},
    )


def _quartiles(cell: Mapping[str, Any]) -> Chart:
    found = cell["quartiles"]
    data = [
        {"quartile": row["quartile"], "what": "this run (biased)", "n": row["n"], **row["margin_change"]}
        for row in found["as_in_the_study"]["rows"]
    ]
    for basis, what, key in (
        ("cross_fitted", "quartiles of other seeds", "margin_change"),
        ("excess_over_placebo", "beyond the control stages", "excess_margin_change"),
    ):
        if found[basis] is not None:
            data += [
                {"quartile": row["quartile"], "what": what, "n": row["n"], **row[key]} for row in found[basis]["rows"]
            ]
    kinds = list(dict.fromkeys(row["what"] for row in data))
    shared = {
        "x": axis("quartile", "quartile of the margin when taught (Q1 lowest)", "nominal", axis={"labelAngle": 0}),
        "xOffset": {"field": "what"},
        "color": axis("what", None, "nominal", scale=scale(kinds, [GREY, BLUE, VERMILLION])),
    }
    layers: list[Spec] = [
        zero("y"),
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": shared | {"y": axis("low", "change of the margin, nats"), "y2": {"field": "high"}},
            "transform": [{"filter": "isValid(datum.low)"}],
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70},
            "encoding": shared
            | {
                "y": axis("value", "change of the margin, nats"),
                "shape": axis("what", None, "nominal", scale=scale(kinds, ["cross", "circle", "square"])),
                "tooltip": [{"field": name} for name in ("quartile", "what", "value", "low", "high", "n")],
            },
        },
    ]
    finding = found["finding"]["sentence"] if found["finding"] else found["withheld"]
    return Chart(
        key="quartiles",
        title="Did it depend on how sure the model was?",
        caption=(
            f"{finding} The grey marks show regression to the mean as well: the lowest rise and the highest fall even "
            "where nothing changed."
        ),
        alt="; ".join(f"{row['quartile']}, {row['what']}: {shown(row['value'])}" for row in data),
        spec=single(layers, data={"name": "quartiles"}),
        data={"quartiles": data},
    )


def _displacement(cell: Mapping[str, Any]) -> Chart:
    quadrants = cell["change"]["displacement"]["quadrants"]
    points: Spec = {
        "data": {"name": "pairs"},
        "mark": {"type": "point", "filled": True, "size": 24, "opacity": 0.5},
        "encoding": {
            "x": axis("rejected_change", "change of the rejected log-probability, nats"),
            "y": axis("chosen_change", "change of the chosen one, nats"),
            "color": axis("flip", "outcome", "nominal", scale=FLIP_COLOURS),
            "shape": axis("flip", "outcome", "nominal", scale=FLIP_SHAPES),
        },
    }
    counts = ", ".join(f"{name.replace('_', ' ')}: {n:,}" for name, n in quadrants.items())
    return Chart(
        key="displacement",
        title="Which response moved",
        caption=f"A margin can fall because the chosen response fell or the rejected one rose. {counts}.",
        alt=counts,
        spec=single([zero("x"), zero("y"), points], height=300),
    )


def _slices(cell: Mapping[str, Any]) -> Chart:
    ranked = sorted(
        (row for row in cell["slices"] if row["margin_change"]["value"] is not None),
        key=lambda row: row["margin_change"]["value"],
    )[:MOST_SLICES]
    data = [
        {
            "slice": f"{row['column'].removeprefix('slice_')}: {row['value']} (n = {row['n']:,})",
            "n": row["n"],
            **row["margin_change"],
        }
        for row in ranked
    ]
    y = axis("slice", None, "nominal", sort=None, axis={"labelLimit": 240})
    layers: list[Spec] = [
        zero("x"),
        {
            "mark": {"type": "rule", "strokeWidth": 2, "color": BLUE},
            "encoding": {"y": y, "x": axis("low", "change of the margin, nats"), "x2": {"field": "high"}},
            "transform": [{"filter": "isValid(datum.low)"}],
        },
        {
            "mark": {"type": "point", "filled": True, "size": 60, "color": BLUE},
            "encoding": {
                "y": y,
                "x": axis("value", "change of the margin, nats"),
                "tooltip": [{"field": name} for name in ("slice", "value", "low", "high", "n")],
            },
        },
    ]
    more = f" The {MOST_SLICES} that lost most of {len(cell['slices'])}." if len(cell["slices"]) > MOST_SLICES else ""
    return Chart(
        key="slices",
        title="Which kinds of pairs lost most",
        caption=f"Mean change with its interval, clustered by prompt, not adjusted for many slices.{more}",
        alt="; ".join(f"{row['slice']}: {shown(row['value'])} (n = {row['n']:,})" for row in data),
        spec=single(layers, height=24 * len(data) + 20, data={"name": "slices"}),
        data={"slices": data},
    )
