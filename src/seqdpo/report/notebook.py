"""What a notebook shows of a run and of two: small tables, every text escaped."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from seqdpo.analysis.comparison import Comparison
from seqdpo.analysis.schema import Findings
from seqdpo.report.numbers import interval, number, percent
from seqdpo.report.words import VERDICTS


def verdicts_html(name: str, findings: Findings) -> str:
    """A row for each earlier objective and later stage: verdict, numbers with their intervals, n."""
    heads = "objective|after|seed|verdict|margin kept|margin change, nats|accuracy change|recipe|n".split("|")
    rows = [
        (
            cell.objective,
            cell.to,
            cell.seed,
            " + ".join([f"{VERDICTS[cell.verdict.verdict].icon} {cell.verdict.words}", *cell.verdict.tags]),
            "–" if cell.verdict.retention is None else interval(cell.verdict.retention, ".0%"),
            interval(cell.change.margin_change),
            interval(cell.change.accuracy_change, "+.3f"),
            "–" if cell.recipe.read is None else f"{cell.recipe.read.statement} ({cell.recipe.quantity})",
            f"{cell.n:,}",
        )
        for cell in findings.cells
    ]
    note = f"Intervals: {findings.method.intervals}. A verdict speaks of this checkpoint, on pairs like these."
    return _table(f"{name}: what later stages did", heads, rows, note)


def comparison_html(comparison: Comparison) -> str:
    """A row for each checkpoint that both runs have."""
    heads = "checkpoint|objective|seed|margin A|margin B|B − A, nats|accuracy A|accuracy B|B − A|n".split("|")
    rows = [
        (
            one.checkpoint,
            one.objective,
            one.seed,
            number(one.margin_a),
            number(one.margin_b),
            interval(one.margin_difference),
            percent(one.accuracy_a),
            percent(one.accuracy_b),
            interval(one.accuracy_difference, "+.3f"),
            f"{one.n:,}",
        )
        for one in comparison.checkpoints
    ]
    keys = ", ".join(one.key for one in comparison.differences) or "nothing"
    note = f"A: {comparison.a}; B: {comparison.b}. Not the same: {keys}. Intervals: {comparison.method}."
    return _table("Two runs on the same pairs", heads, rows, note)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]], note: str) -> str:
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(text) for text in heads)
    body = Markup("").join(Markup("<tr>{}</tr>").format(_cells(row)) for row in rows)
    return str(
        Markup("<table><caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table><p>{}</p>").format(
            title, head, body, escape(note)
        )
    )


def _cells(row: Sequence[object]) -> Markup:
    return Markup("").join(Markup("<td>{}</td>").format(value) for value in row)
