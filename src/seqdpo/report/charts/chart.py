"""One picture: a Vega-Lite specification with its data, and the words around it; and the entry of a kind of pictures.

Each module of this package that has an `ENTRY` is a kind of pictures; nothing else names it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import pyarrow as pa

from seqdpo.analysis.schema import Cell, Findings, Flips, Record, Score, to_json
from seqdpo.report.words import FLIP_WORDS, UNITS
from seqdpo.study.checkpoints import Checkpoint

Spec: TypeAlias = dict[str, Any]

#: Of a picture outside of the page.
WIDTH = 480
#: Of axes, labels and tooltips: three digits after the point at most.
NUMBERS = ",.3~f"
CONFIG: Spec = {
    "background": "white",
    "numberFormat": NUMBERS,
    "legend": {"orient": "bottom", "labelLimit": 320},
    "view": {"stroke": None},
}
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
#: What every JavaScript object answers to, of the texts that may name an objective.
INHERITED = frozenset(
    "constructor hasOwnProperty isPrototypeOf propertyIsEnumerable toLocaleString toString valueOf".split()
)
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
    needs_pairs: bool = False  # of a cell: its dataset `pairs`, and `identity`, the ends of its diagonal

    def as_dict(self) -> dict[str, Any]:
        made: dict[str, Any] = _for_vega(asdict(self))
        return made

    def filled(self, pairs: Sequence[dict[str, Any]]) -> "Chart":
        """With the rows of `seqdpo.report.pictures.pair_rows`."""
        ends = [row[side] for row in pairs for side in ("before", "after")]
        identity = [{"value": min(ends)}, {"value": max(ends)}] if ends else []
        return replace(self, data=self.data | {"pairs": list(pairs), "identity": identity})

    def vega_lite(self) -> Spec:
        """The whole specification with its data, at a fixed width, for whoever draws it without the page."""
        spec = {key: value for key, value in self.spec.items() if key != "autosize"}
        whole: Spec = _for_vega(spec | {"width": WIDTH, "title": self.title, "datasets": self.data, "config": CONFIG})
        return whole

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """What a notebook draws: the specification, where it knows Vega-Lite, and else the words."""
        spec = self.vega_lite()
        by_version = {f"application/vnd.vegalite.{version}+json": spec for version in ("v6", "v5")}
        return by_version | {"text/plain": f"{self.title}. {self.alt}"}


class CellChart(NamedTuple):
    """The entry of a picture of a cell."""

    place: int  # among the pictures of a cell
    build: Callable[[Cell], Chart | None]  # None: there is nothing to show


class RunTables(NamedTuple):
    """What pictures of a run read beside its findings."""

    movement: pa.Table  # movement.parquet
    steps: pa.Table  # the rows of every stage's train.parquet, with its seed, checkpoint and placebo


class RunChart(NamedTuple):
    """The entry of pictures of a whole run."""

    section: Literal["remedies", "overview", "mechanism", "training"]  # of the page
    place: int
    build: Callable[[Findings, RunTables], Sequence[Chart]]


def _for_vega(value: Any) -> Any:
    """The same with a space behind INHERITED texts, which Vega's expressions take for signals and then lack."""
    if isinstance(value, dict):
        return {key: _for_vega(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_for_vega(one) for one in value]
    return f"{value} " if isinstance(value, str) and value in INHERITED else value


def plain(record: Record) -> dict[str, Any]:
    """The fields of a flat record as a row of a dataset, by their names in results.json."""
    row: dict[str, Any] = to_json(record)
    return row


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


def counted(n: int | None) -> str:
    """A number of pairs in a sentence."""
    return "undefined" if n is None else f"{n:,}"


def flip_channels(title: str, flips: Flips | None = None) -> dict[str, Any]:
    """Colour and shape of what became of a pair; with counts only of what became of some."""
    counts = FLIP_WORDS if flips is None else plain(flips)
    words = {name: word for name, word in FLIP_WORDS.items() if counts[name] != 0}
    colours, shapes = [word.colour for word in words.values()], [word.shape for word in words.values()]
    return {
        "color": axis("flip", title, "nominal", scale={"domain": list(words), "range": colours}),
        "shape": axis("flip", title, "nominal", scale={"domain": list(words), "range": shapes}),
    }


def change_axis(cell: Cell) -> str:
    """The title of an axis for changes of the margin, or of what stands for it."""
    return f"change of the {cell.measure.replace('_', ' ')}, {UNITS[cell.measure]}"


def moved(change: float | None, form: str = ".2f") -> str:
    """`fell by 6.15`; `did not change` where it did by less than is shown."""
    if change is None:
        return "changed by an undefined amount"
    size = format(abs(change), form)
    return "did not change" if float(size) == 0 else f"{'fell' if change < 0 else 'rose'} by {size}"


def counts_of(rows: Iterable[Score]) -> str:
    """How many pairs each objective's numbers are over."""
    ns = {row.objective: row.n for row in rows}
    return ", ".join(f"{name}: n = {n:,} pairs" for name, n in ns.items())


def key_of(kind: str, checkpoint: str, seed: int) -> str:
    """The key of a picture of one stage."""
    of = Checkpoint.parse(checkpoint)
    return "-".join((kind, *of.path, *((of.variant,) if of.variant else ()), f"seed{seed}"))
