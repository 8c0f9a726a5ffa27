"""One picture: a Vega-Lite specification with its data, and the words around it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
Spec: TypeAlias = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
#: Colours of Okabe and Ito, told apart by colour-blind readers; every use has a shape, a dash or a word beside it.
BLUE, ORANGE, GREEN, SKY, VERMILLION, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#56B4E9",
    "#D55E00",
    "#CC79A7",
    "#8a8a8a",
)
PALETTE = [BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY]
#: Of points, in step with the palette.
SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross"]


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture. Named datasets that are not in `data` are filled by whoever draws it."""

    key: str  # unique in its group, fit for a file name
    title: str
    caption: str  # what, how measured, n
    alt: str  # the same numbers for those who do not see it
    spec: Spec
    data: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def single(layers: Sequence[Spec], height: int = 260, **more: Any) -> Spec:
    """A picture of one frame, as wide as its place."""
    size = {"width": "container", "height": height, "autosize": {"type": "fit-x", "contains": "padding"}}
    return {"$schema": SCHEMA, **size, "layer": list(layers), **more}


def axis(name: str, title: str | None, kind: str = "quantitative", **more: Any) -> dict[str, Any]:
    """One channel of an encoding."""
    return {"field": name, "type": kind, "title": title, **more}


def scale(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Names to colours, shapes or dashes, in this order."""
    return {"domain": list(names), "range": [values[i % len(values)] for i in range(len(names))]}


def zero(channel: str) -> Spec:
    """A thin line at zero."""
    return {"mark": {"type": "rule", "opacity": 0.5}, "data": {"values": [{}]}, "encoding": {channel: {"datum": 0}}}


def shown(value: float | None, form: str = ".2f") -> str:
    """A number in a sentence; undefined is said so."""
    return "undefined" if value is None else format(value, form)
