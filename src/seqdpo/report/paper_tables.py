"""The findings as CSV for other tools and as LaTeX (booktabs) for papers."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seqdpo.analysis.schema import Bounds, Cell, Findings, Score
from seqdpo.report.rows import marked
from seqdpo.wording import visible

Row = Mapping[str, Any]
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def paper_tables(findings: Findings) -> Iterator[tuple[str, str, str]]:
    """(name, format, text) of the verdicts and the score matrix."""
    for name, caption, rows in (
        ("verdicts", f"What later stages did. {findings.method.intervals}.", verdict_rows(findings.cells)),
        ("score-matrix", "Mean margin against the base (nats) and accuracy.", score_rows(findings.score_matrix)),
    ):
        if rows:
            yield name, "csv", as_csv(rows)
            yield name, "tex", as_latex(rows, caption)


def verdict_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row for each cell; undefined is None."""
    return [
        {
            "objective": cell.objective,
            "from": cell.from_,
            "to": cell.to,
            "seed": cell.seed,
            "verdict": " ".join([cell.verdict.words.replace(",", ""), *(f"({tag})" for tag in cell.verdict.tags)]),
            **_bounds("margin kept", cell.verdict.retention),
            **_bounds("margin change", cell.change.margin_change),
            **_bounds("accuracy change", cell.change.accuracy_change),
            "lost": cell.change.flips.lost,
            "regained": cell.change.flips.regained,
            "recipe": cell.recipe.read.statement if cell.recipe.read else None,
            "recipe of": cell.recipe.quantity,
            "n": cell.n,
        }
        for cell in cells
    ]


def score_rows(matrix: Sequence[Score]) -> list[dict[str, Any]]:
    return [
        {
            "order": row.order,
            "seed": row.seed,
            "checkpoint": row.checkpoint,
            "objective": row.objective,
            **_bounds("margin", row.margin),
            **_bounds("accuracy", row.accuracy),
            "n": row.n,
        }
        for row in matrix
    ]


def as_csv(rows: Sequence[Row]) -> str:
    """Numbers in full; undefined is an empty field. A spreadsheet runs no text of it, a terminal obeys none."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    return marked(visible(value)) if isinstance(value, str) else value


def as_latex(rows: Sequence[Row], caption: str) -> str:
    """A value and its interval in one column; undefined is a dash."""
    names = [name for name in rows[0] if not name.endswith((" low", " high"))]
    numeric = [name for name in names if any(isinstance(row[name], int | float) for row in rows)]
    lines = [
        r"\begin{table}",
        rf"\caption{{{latex(caption)}}}",
        rf"\begin{{tabular}}{{{''.join('r' if name in numeric else 'l' for name in names)}}}",
        r"\toprule",
        " & ".join(map(latex, names)) + r" \\",
        r"\midrule",
        *(" & ".join(_cell(row, name) for name in names) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Text without meaning to LaTeX."""
    return "".join(_LATEX.get(character, character if character.isprintable() else " ") for character in text)


def _cell(row: Row, name: str) -> str:
    value = row[name]
    if value is None:
        return "--"
    if not isinstance(value, float):
        return latex(str(value))
    low, high = row.get(f"{name} low"), row.get(f"{name} high")
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"${value:.3f}${interval}"


def _bounds(name: str, estimate: Bounds | None) -> dict[str, float | None]:
    """Three columns; of a number that there is none of, empty ones."""
    value, low, high = (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)
    return {name: value, f"{name} low": low, f"{name} high": high}
