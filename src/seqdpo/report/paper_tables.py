"""The findings as CSV for other tools and as LaTeX (booktabs) for papers."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
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


def paper_tables(results: Record) -> Iterator[tuple[str, str, str]]:
    """(name, format, text) of the verdicts and the score matrix."""
    for name, caption, rows in (
        ("verdicts", f"What later stages did. {results['method']['intervals']}.", verdict_rows(results["cells"])),
        ("score-matrix", "Mean margin against the base (nats) and accuracy.", score_rows(results["score_matrix"])),
    ):
        if rows:
            yield name, "csv", as_csv(rows)
            yield name, "tex", as_latex(rows, caption)


def verdict_rows(cells: Sequence[Record]) -> list[dict[str, Any]]:
    """One row for each cell; undefined is None."""
    return [
        {
            "objective": cell["objective"],
            "from": cell["from"],
            "to": cell["to"],
            "seed": cell["seed"],
            "verdict": " ".join(filter(None, (cell["verdict"]["verdict"], cell["verdict"]["degree"]))),
            **_bounds("margin kept", cell["verdict"]["reasons"]["retention"]),
            **_bounds("margin change", cell["change"]["margin_change"]),
            **_bounds("accuracy change", cell["change"]["accuracy_change"]),
            "lost": cell["change"]["flips"]["lost"],
            "regained": cell["change"]["flips"]["regained"],
            "recipe": cell["recipe"][cell["recipe"]["quantity"]]["statement"] if cell["recipe"]["quantity"] else None,
            "n": cell["n"],
        }
        for cell in cells
    ]


def score_rows(matrix: Sequence[Record]) -> list[dict[str, Any]]:
    return [
        {
            "order": row["order"],
            "seed": row["seed"],
            "checkpoint": row["checkpoint"],
            "objective": row["objective"],
            **_bounds("margin", row["margin"]),
            **_bounds("accuracy", row["accuracy"]),
            "n": row["n"],
        }
        for row in matrix
    ]


def as_csv(rows: Sequence[Record]) -> str:
    """Numbers in full; undefined is an empty field."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_latex(rows: Sequence[Record], caption: str) -> str:
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


def _cell(row: Record, name: str) -> str:
    value = row[name]
    if value is None:
        return "--"
    if not isinstance(value, float):
        return latex(str(value))
    low, high = row.get(f"{name} low"), row.get(f"{name} high")
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"${value:.3f}${interval}"


def _bounds(name: str, estimate: Record) -> dict[str, Any]:
    return {name: estimate["value"], f"{name} low": estimate["low"], f"{name} high": estimate["high"]}
