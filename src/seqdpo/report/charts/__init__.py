"""The pictures of a report as Vega-Lite specifications: the page draws them, and so do figures and notebooks.

A kind of pictures is one module here with its `ENTRY`; whoever draws goes through what this module finds.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from seqdpo.analysis.schema import Cell, Findings
from seqdpo.report.charts.chart import CellChart, Chart, RunChart, RunTables

__all__ = [
    "Chart",
    "RunTables",
    "cell_charts",
    "mechanism_charts",
    "overview_charts",
    "remedy_charts",
    "training_charts",
]


def cell_charts(cell: Cell) -> list[Chart]:
    """The pictures of one record of `cells`."""
    built = (entry.build(cell) for entry in _entries() if isinstance(entry, CellChart))
    return [chart for chart in built if chart is not None]


def remedy_charts(findings: Findings, tables: RunTables) -> list[Chart]:
    """What the variants of a study kept and learned; none where it has none."""
    return _of_run("remedies", findings, tables)


def overview_charts(findings: Findings, tables: RunTables) -> list[Chart]:
    """What happened to every objective over the stages."""
    return _of_run("overview", findings, tables)


def mechanism_charts(findings: Findings, tables: RunTables) -> list[Chart]:
    """Gradients, path and movement of every real later stage; none where nothing was measured."""
    return _of_run("mechanism", findings, tables)


def training_charts(findings: Findings, tables: RunTables) -> list[Chart]:
    """How each stage's training went; none where no stage was trained here."""
    return _of_run("training", findings, tables)


def _of_run(section: str, findings: Findings, tables: RunTables) -> list[Chart]:
    entries = [entry for entry in _entries() if isinstance(entry, RunChart) and entry.section == section]
    return [chart for entry in entries for chart in entry.build(findings.plain(), tables)]


@cache
def _entries() -> list[CellChart | RunChart]:
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    entries = [module.ENTRY for module in modules if hasattr(module, "ENTRY")]
    return sorted(entries, key=lambda entry: entry.place)
