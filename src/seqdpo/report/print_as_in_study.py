"""The quartile table of the study that seqdpo grew out of, in its own measure, and what it cannot tell."""

from rich.console import Console
from rich.table import Table

from seqdpo.analysis.schema import Cell, Findings, PairMeasure
from seqdpo.report.numbers import number

#: In what "Beyond Uniform Forgetting" (arXiv 2606.19744) counts pairs.
STUDY_MEASURE: PairMeasure = "ln_margin"
CANNOT_TELL = (
    "As in the study: quartiles of each pair's length-normalised policy margin, nats a token, at the checkpoint that "
    "taught the objective. What this table cannot tell: whether anything happened at all. These quartiles are set by "
    "the run's own margins, and regression to the mean alone makes Q1 rise and Q4 fall; the column of the control "
    "stages shows how far, where labels say nothing new. The measure holds what the base could do before, too. No "
    "interval and no p, because none would hold. The findings are in results.json under `quartiles`."
)


def print_as_in_study(console: Console, findings: Findings) -> None:
    """A table for each cell, and the label that belongs to all of them."""
    for cell in findings.in_measure(STUDY_MEASURE).cells:
        console.print(quartile_table(cell), "")
    if not findings.cells:
        console.print("No order has a later stage, so there is nothing to compare.")
    console.print(CANNOT_TELL)


def quartile_table(cell: Cell) -> Table:
    """A row for each quartile of the run's own margins; the mean of the control stages beside the real stage."""
    title = f"{cell.objective}, from {cell.from_} to {cell.to} (seed {cell.seed}), in {cell.measure}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("quartile", "n", "up to", "change", "in controls", "accuracy", "lost", "regained"):
        table.add_column(name, justify="left" if name == "quartile" else "right")
    in_controls = _in_controls(cell)
    for row in cell.quartiles.as_in_the_study.rows:
        table.add_row(
            row.quartile,
            f"{row.n:,}",
            number(row.margin_up_to, "+.3f"),
            number(row.margin_change.value, "+.4f"),
            number(in_controls.get(row.quartile), "+.4f"),
            number(row.accuracy_change.value, "+.3f"),
            f"{row.lost:,}",
            f"{row.regained:,}",
        )
    return table


def _in_controls(cell: Cell) -> dict[str, float]:
    """The mean change of each quartile over the control stages: that of the real stage less its excess."""
    excess = cell.quartiles.excess_over_placebo
    if excess is None:
        return {}
    pairs = zip(cell.quartiles.as_in_the_study.rows, excess.rows, strict=True)
    return {
        biased.quartile: biased.margin_change.value - row.tested.value
        for biased, row in pairs
        if biased.margin_change.value is not None and row.tested.value is not None
    }
