"""What `run`, `demo` and `gate` print of the findings: verdicts and score matrices. Everything fits 80 columns."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqdpo.analyse.gate import Gated
from seqdpo.report.audit import HOW_TO_TEST

Record = Mapping[str, Any]

#: With more cells than this their sentences fill the screen; results.json has them all.
MOST_SENTENCES = 4
#: More control stages than this are shown as one row, their mean.
MOST_CONTROLS = 2
COLOURS = {
    "DEGRADED": "red",
    "MIXED": "yellow",
    "REDISTRIBUTED": "yellow",
    "STABLE": "green",
    "POSITIVE TRANSFER": "green",
}
RECIPE_WORDS = {
    "ATTRIBUTABLE": "attributable",
    "NOT SEPARABLE FROM RUN NOISE": "not separable",
    "UNTESTED": "untested",
}


def print_results(console: Console, results: Record) -> None:
    """R[i, j] of every order and seed, then the verdicts on every earlier objective."""
    for (seed, order), group in groupby(results["score_matrix"], key=lambda cell: (cell["seed"], cell["order"])):
        console.print(score_table(list(group), f"{order} (seed {seed})"), "")
    console.print(
        "Mean margin against the base in nats, and accuracy (margin > 0, a tie one half), over n held-out pairs.",
        style="dim",
        highlight=False,
    )
    if results["cells"]:
        print_verdicts(console, results)


def print_verdicts(console: Console, results: Record) -> None:
    cells = results["cells"]
    console.print("", verdict_table(cells), "")
    if len(cells) <= MOST_SENTENCES:
        for cell in cells:
            console.print(f"- {cell['verdict']['sentence']}", highlight=False, markup=False)
    for note in _notes(cells, results["study"]):
        console.print(note, style="dim", highlight=False, markup=False)


def verdict_table(cells: Sequence[Record]) -> Table:
    """A row for each earlier objective and later stage."""
    table = Table(title="What later stages did", title_justify="left", title_style="bold", box=None, pad_edge=False)
    several_seeds = len({cell["seed"] for cell in cells}) > 1
    if several_seeds:
        table.add_column("seed", justify="right")
    for name, width in (("objective", 12), ("after", 11 if several_seeds else 17)):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=width)
    rows = [(_percent(cell["verdict"]["reasons"].get("retention")), _words(cell), _recipe(cell)) for cell in cells]
    for name, column in zip(("margin kept", "verdict", "recipe"), zip(*rows, strict=True), strict=True):
        # these never give way to long names
        table.add_column(name, no_wrap=True, min_width=max(map(len, (name, *column))))
    for cell, (kept, words, recipe) in zip(cells, rows, strict=True):
        seed = [str(cell["seed"])] if several_seeds else []
        coloured = Text(words, style=COLOURS.get(cell["verdict"]["verdict"], ""))
        table.add_row(*seed, Text(cell["objective"]), Text(_after(cell)), Text(kept), coloured, recipe)
    return table


def score_table(cells: Sequence[Record], title: str) -> Table:
    """One order: a row for each checkpoint, two columns for each objective; control stages are dim."""
    counts = {cell["objective"]: cell["n"] for cell in cells}
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("after", no_wrap=True, overflow="ellipsis", max_width=24)
    for objective, n in counts.items():
        table.add_column(f"{objective}\nmargin", justify="right")
        table.add_column(f"n={n}\naccuracy", justify="right")
    rows = [list(row) for _, row in groupby(cells, key=lambda cell: cell["checkpoint"])]
    for alike in _controls_together(rows):
        of = {name: [cell for cell in alike if cell["objective"] == name] for name in counts}
        values = [
            text for name in counts for text in (_mean(of[name], "margin", "+.2f"), _mean(of[name], "accuracy", ".3f"))
        ]
        table.add_row(_checkpoint(alike), *values, style="dim" if alike[0]["placebo"] else None)
    return table


def _controls_together(rows: Sequence[list[Record]]) -> list[list[Record]]:
    """The rows as they are, but all control stages of one stage as one where there are more than MOST_CONTROLS."""
    together: list[list[Record]] = []
    for _, group in groupby(rows, key=lambda row: (row[0]["stage"], row[0]["placebo"] > 0)):
        alike = list(group)
        together += [[cell for row in alike for cell in row]] if len(alike) > MOST_CONTROLS else alike
    return together


def _checkpoint(cells: Sequence[Record]) -> str:
    """`base`, `+objective` for the stage that was added last, or its control stages."""
    name, _, control = str(cells[0]["checkpoint"]).partition("~")
    controls = {cell["placebo"] for cell in cells}
    if len(controls) > 1:
        return f"  ~placebo, mean of {len(controls)}"
    return f"  ~{control}" if control else f"+{name.rpartition('>')[2]}" if cells[0]["stage"] else name


def print_gate(console: Console, gated: Sequence[Gated]) -> None:
    """A line for each objective that was gated, and why."""
    for one in gated:
        colour = {"passed": "green", "failed": "red", "open": "yellow"}[one.outcome]
        where = f" {one.objective} at the end of {one.order} (seed {one.seed}, n={one.n}):"
        console.print(Text(one.outcome, style=colour) + Text(f"{where}{_lost(one)} {one.reason}", style="default"))


def _lost(one: Gated) -> str:
    if one.loss is None or one.low is None or one.high is None:
        return ""
    if one.loss < 0:
        return f" gained {-one.loss:.0%} [{-one.high:.0%}, {-one.low:.0%}]:"
    return f" lost {one.loss:.0%} [{one.low:.0%}, {one.high:.0%}]:"


def _after(cell: Record) -> str:
    """The stages between the two checkpoints: `+harmless`; of several, those since the objective was taught."""
    return "+" + str(cell["to"]).removeprefix(f"{cell['from']}>").replace(">", " +")


def _words(cell: Record) -> str:
    verdict = cell["verdict"]
    return str(verdict["verdict"]) + (f", {verdict['degree']}" if verdict["degree"] else "")


def _recipe(cell: Record) -> str:
    quantity = cell["recipe"]["quantity"]
    return "–" if quantity is None else RECIPE_WORDS[cell["recipe"][quantity]["statement"]]


def _notes(cells: Sequence[Record], study: Record) -> list[str]:
    """What the table's words mean, and what to run where something was not tested."""
    notes = [
        "margin kept: mean margin after over that when taught; the verdict is on this checkpoint, the recipe column on "
        "whether control stages and seeds give such a change by themselves."
    ]
    read = [cell["recipe"][cell["recipe"]["quantity"]] for cell in cells if cell["recipe"]["quantity"]]
    for statement, word in RECIPE_WORDS.items():
        draws = [record["draws_needed"] for record in read if record["statement"] == statement]
        if any(draws):
            how = (
                HOW_TO_TEST
                if study.get("kind") == "audit"
                else "run again with --placebo {draws} to tell it from run noise"
            )
            notes.append(f"{word}: {how.format(draws=max(filter(None, draws)))}.")
    return notes


def _mean(cells: Sequence[Record], measure: str, form: str) -> str:
    values = [cell[measure]["value"] for cell in cells]
    return "–" if None in values else f"{sum(values) / len(values):{form}}"


def _percent(estimate: Record | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    if estimate["low"] is None:
        return f"{estimate['value']:.0%}"
    return f"{estimate['value']:.0%} [{estimate['low']:.0%}, {estimate['high']:.0%}]"
