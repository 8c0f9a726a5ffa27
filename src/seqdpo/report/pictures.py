"""Every picture of a run under the name of its file; the rows of pairs that some of them need."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from seqdpo.analysis.cells import Cell, cells
from seqdpo.analysis.changes import FLIPS, pair_changes
from seqdpo.analysis.panel import Panel
from seqdpo.analysis.quartiles import QUARTILES, quartiles
from seqdpo.analysis.schema import Findings
from seqdpo.report.charts import (
    Chart,
    RunTables,
    cell_charts,
    mechanism_charts,
    overview_charts,
    remedy_charts,
    training_charts,
)


class Picture(NamedTuple):
    name: str  # unique in a run, safe on every file system
    chart: Chart
    cell: Cell | None  # whose pairs it may need

    def filled(self) -> Chart:
        """With the rows of its pairs, where it needs them."""
        return self.chart.filled(pair_rows(self.cell)) if self.cell and self.chart.needs_pairs else self.chart


def pictures(findings: Findings, panels: Sequence[Panel], tables: RunTables) -> Iterator[Picture]:
    """Those of the page: variants and the overview, cell by cell, the mechanism, the training."""
    for chart in [*remedy_charts(findings, tables), *overview_charts(findings, tables)]:
        yield Picture(file_name(chart.key), chart, None)
    for cell, record in zip(cells(panels), findings.cells, strict=True):
        where = file_name(f"{record.objective} {record.from_} to {record.to} seed{record.seed}")
        for chart in cell_charts(record):
            yield Picture(f"{where}.{chart.key}", chart, cell)
    for chart in [*mechanism_charts(findings, tables), *training_charts(findings, tables)]:
        yield Picture(file_name(chart.key), chart, None)


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
