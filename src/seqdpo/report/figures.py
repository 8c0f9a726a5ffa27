"""The report's pictures as files for papers: SVG, PNG and PDF of the same specifications."""

import re
from collections.abc import Iterator
from typing import Any

from seqdpo.analyse.cells import Cell, cells
from seqdpo.analyse.changes import FLIPS, pair_changes
from seqdpo.analyse.panel import panels
from seqdpo.analyse.quartiles import QUARTILES, quartiles
from seqdpo.errors import ConfigError
from seqdpo.report.charts import Chart, cell_charts, mechanism_charts, overview_charts
from seqdpo.report.source import ReportSource

WIDTH = 480
VEGA_LITE = "6.4"
CONFIG = {"background": "white", "legend": {"orient": "bottom"}, "view": {"stroke": None}}
FORMATS = ("svg", "png", "pdf")


def figures(source: ReportSource) -> Iterator[tuple[str, str, bytes]]:
    """(name, format, content) of every picture; the same run gives the same bytes.

    Raises: ConfigError if vl-convert-python is not installed.
    """
    try:
        import vl_convert
    except ImportError:
        raise ConfigError(
            "--figures: vl-convert-python is not installed; expected it, to draw without a browser. "
            "Install it: pip install 'seqdpo[figures]'"
        ) from None
    for name, spec in specifications(source):
        for form in FORMATS:
            drawn = getattr(vl_convert, f"vegalite_to_{form}")(spec, vl_version=VEGA_LITE)
            yield name, form, drawn.encode() if isinstance(drawn, str) else drawn


def specifications(source: ReportSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every picture under its file name, with its data, at a fixed width."""
    for chart in overview_charts(source.results):
        yield chart.key, _whole(chart)
    of = cells(panels(source.scores, source.pairs))
    for cell, record in zip(of, source.results["cells"], strict=True):
        where = file_name(f"{record['objective']} {record['from']} to {record['to']} seed{record['seed']}")
        for chart in cell_charts(record):
            yield f"{where}.{chart.key}", _whole(chart, pair_rows(cell))
    for chart in mechanism_charts(source.results, source.movement):
        yield file_name(chart.key), _whole(chart)


def pair_rows(cell: Cell) -> list[dict[str, Any]]:
    """The dataset `pairs` of a cell's pictures; pairs with an undefined margin are left out."""
    before, after = cell.before.margin, cell.after.margin
    changes = pair_changes(cell.before, cell.after)
    codes = quartiles(cell.when_taught.margin).codes
    return [
        {
            "row": i,
            "before": float(before[i]),
            "after": float(after[i]),
            "change": float(changes.margin_change[i]),
            "flip": FLIPS[changes.flip[i]],
            "quartile": QUARTILES[codes[i]],
            "chosen_change": float(changes.chosen_change[i]),
            "rejected_change": float(changes.rejected_change[i]),
        }
        for i in range(len(before))
        if changes.flip[i] >= 0
    ]


def file_name(text: str) -> str:
    """Safe on every file system."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:120]


def _whole(chart: Chart, pairs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    spec = {key: value for key, value in chart.spec.items() if key != "autosize"}
    datasets: dict[str, Any] = dict(chart.data)
    if pairs is not None:
        ends = [row[side] for row in pairs for side in ("before", "after")]
        identity = [{"value": min(ends)}, {"value": max(ends)}] if ends else []
        datasets |= {"pairs": pairs, "identity": identity}
    return spec | {"width": WIDTH, "title": chart.title, "datasets": datasets, "config": CONFIG}
