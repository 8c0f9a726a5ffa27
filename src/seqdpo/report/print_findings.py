"""What `run`, `demo` and `gate` print of the findings: verdicts and score matrices. Everything fits 80 columns."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqdpo.analysis.gate import Gated, Loss
from seqdpo.analysis.recipes import ATTRIBUTABLE
from seqdpo.analysis.schema import Bounds, Cell, Findings, Reasons, Score
from seqdpo.report.numbers import interval, number
from seqdpo.report.print_variants import print_variants
from seqdpo.report.recipe_line import recipe_line
from seqdpo.report.words import AT_THE_END, GATE, LEARNED, RECIPES, TERMINAL, VERDICTS
from seqdpo.study.checkpoints import BASE, Checkpoint

#: With more cells than this their sentences fill the screen; results.json has them all.
MOST_SENTENCES = 4
ABOUT_VERDICTS = (
    "margin kept: mean margin after over that when taught; the verdict is on this checkpoint, the recipe column on "
    "whether control stages and seeds give such a change by themselves."
)
#: More control stages than this are shown as one row, their mean.
MOST_CONTROLS = 2


def print_results(console: Console, findings: Findings) -> None:
    """R[i, j] of every order and seed, then the verdicts on every earlier objective; variants by themselves."""
    variants, findings = findings.variants, findings.plain()
    for (seed, order), group in groupby(findings.score_matrix, key=lambda score: (score.seed, score.order)):
        console.print(score_table(list(group), f"{order} (seed {seed})"), "")
    console.print(
        "Mean margin against the base in nats, and accuracy (margin > 0, a tie one half), over n held-out pairs.",
        style="dim",
    )
    console.print("", learned_table(findings))
    _print_missed(console, findings)
    if findings.cells:
        print_verdicts(console, findings.cells)
    print_variants(console, variants)


def print_verdicts(console: Console, cells: Sequence[Cell]) -> None:
    console.print("", verdict_table(cells), "")
    if len(cells) <= MOST_SENTENCES:
        for cell in cells:
            lines = (cell.verdict.sentence, recipe_line(cell.recipe), f"Next: {cell.next}")
            console.print("- " + "\n  ".join(filter(None, lines)))
    else:
        for cell in cells:
            console.print(f"- {cell.objective} {_after(cell)}: {cell.next}")
    console.print(ABOUT_VERDICTS, style="dim")


def _print_missed(console: Console, findings: Findings) -> None:
    """A line for every stage that did not teach its objective, with what to do about it."""
    missed = [one for one in findings.learned if one.word == "NOT LEARNED"]
    several = len({one.seed for one in findings.learned}) > 1
    for one in missed[:MOST_SENTENCES]:
        console.print(f"- {one.checkpoint}{f' (seed {one.seed})' if several else ''}: {one.sentence}")
    if len(missed) > MOST_SENTENCES:
        console.print(f"- and {len(missed) - MOST_SENTENCES} more, in the report.")


def in_three_lines(cell: Cell) -> list[str]:
    """Of one cell: what happened, whether the later objective did it, and what another run would show."""
    reasons, of = cell.verdict.reasons, cell.recipe
    later = " and ".join(cell.later)
    if not isinstance(reasons, Reasons):
        return [f"Found: {cell.verdict.sentence}"]
    lines = [
        f"Found: with {later} trained after it, {cell.objective} is {cell.verdict.words}: "
        f"{reasons.accuracy_before:.0%} of its pairs were right before, {reasons.accuracy_after:.0%} are now."
    ]
    if reasons.controls is not None and of.read is not None:
        whose = RECIPES[of.read.statement].meaning
        left = reasons.accuracy_before + reasons.controls.accuracy_change
        lines.append(f"Control stages leave {left:.0%} right; {of.read.statement}: {whose}.")
    if of.margin.next_run_low is not None and of.margin.next_run_high is not None:
        lines.append(
            f"The margin changed by {number(reasons.margin_change.value)} nats; by its control stages, another run of "
            f"this stage is expected between {number(of.margin.next_run_low)} and {number(of.margin.next_run_high)}."
        )
    return lines


def learned_table(findings: Findings) -> Table:
    """A row for each order and objective: whether its stage taught it, and what is there at the end."""
    learned = {(one.seed, one.checkpoint, one.objective, one.split): one.word for one in findings.learned}
    several = len({one.seed for one in findings.at_the_end}) > 1
    table = Table(title="What was learned", title_justify="left", title_style="bold", box=None, pad_edge=False)
    if several:
        table.add_column("seed", justify="right")
    table.add_column("order", overflow="ellipsis", no_wrap=True, max_width=22)
    table.add_column("objective", overflow="ellipsis", no_wrap=True, max_width=12)
    for name in ("by its stage", "at the end", "right at the end"):
        table.add_column(name, no_wrap=True)
    for one in findings.at_the_end:
        end = Checkpoint.parse(one.order)
        stage = end.upto(end.path.index(one.objective) + 1).name if one.objective in end.path else ""
        word = learned.get((one.seed, stage, one.objective, one.split))
        by_stage = Text("–") if word is None else Text(word, style=TERMINAL[LEARNED[word].tone])
        at_the_end = Text(one.word, style=TERMINAL[AT_THE_END[one.word].tone])
        seed = [str(one.seed)] if several else []
        table.add_row(*seed, Text(one.order), Text(one.objective), by_stage, at_the_end, _percent(one.accuracy))
    return table


def verdict_table(cells: Sequence[Cell]) -> Table:
    """A row for each earlier objective and later stage."""
    table = Table(title="What later stages did", title_justify="left", title_style="bold", box=None, pad_edge=False)
    several_seeds = len({cell.seed for cell in cells}) > 1
    if several_seeds:
        table.add_column("seed", justify="right")
    for name, width in (("objective", 12), ("after", 11 if several_seeds else 17)):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=width)
    rows = [(_percent(cell.verdict.retention), _words(cell), _recipe(cell)) for cell in cells]
    for name, column in zip(("margin kept", "verdict", "recipe"), zip(*rows, strict=True), strict=True):
        # these never give way to long names
        table.add_column(name, no_wrap=True, min_width=max(map(len, (name, *_lines(column)))))
    for cell, (kept, words, recipe) in zip(cells, rows, strict=True):
        seed = [str(cell.seed)] if several_seeds else []
        coloured = Text(words, style=TERMINAL[VERDICTS[cell.verdict.verdict].tone])
        table.add_row(*seed, Text(cell.objective), Text(_after(cell)), Text(kept), coloured, recipe)
    return table


def _words(cell: Cell) -> str:
    """The verdict, and on lines of their own what qualifies it and what is true beside it."""
    return "\n  ".join([*cell.verdict.words.split(", "), *cell.verdict.tags])


def _lines(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in text.split("\n")]


def score_table(scores: Sequence[Score], title: str) -> Table:
    """One order: a row for each checkpoint, two columns for each objective; control stages are dim."""
    counts = {score.objective: score.n for score in scores}
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("after", no_wrap=True, overflow="ellipsis", max_width=24)
    for objective, n in counts.items():
        table.add_column(f"{objective}\nmargin", justify="right")
        table.add_column(f"n={n}\naccuracy", justify="right")
    rows = [list(row) for _, row in groupby(scores, key=lambda score: score.checkpoint)]
    for alike in _controls_together(rows):
        of = [[score for score in alike if score.objective == name] for name in counts]
        values = [
            text
            for own in of
            for text in (_mean([s.margin for s in own], "+.2f"), _mean([s.accuracy for s in own], ".3f"))
        ]
        table.add_row(_checkpoint(alike), *values, style="dim" if alike[0].placebo else None)
    return table


def _controls_together(rows: Sequence[list[Score]]) -> list[list[Score]]:
    """The rows as they are, but all control stages of one stage as one where there are more than MOST_CONTROLS."""
    together: list[list[Score]] = []
    for _, group in groupby(rows, key=lambda row: (row[0].stage, row[0].placebo > 0)):
        alike = list(group)
        together += [[score for row in alike for score in row]] if len(alike) > MOST_CONTROLS else alike
    return together


def _checkpoint(scores: Sequence[Score]) -> str:
    """`base`, `+objective` for the stage that was added last, or its control stages."""
    checkpoint = Checkpoint.parse(scores[0].checkpoint)
    controls = {score.placebo for score in scores}
    if len(controls) > 1:
        return f"  ~placebo, mean of {len(controls)}"
    if checkpoint.placebo:
        return f"  ~placebo{checkpoint.placebo}"
    return f"+{checkpoint.path[-1]}" if checkpoint.path else BASE


def print_gate(console: Console, gated: Sequence[Gated]) -> None:
    """A line for each objective that was gated, and why."""
    for one in gated:
        colour = TERMINAL[GATE[one.outcome]]
        where = f" {one.objective} at the end of {one.order} (seed {one.seed}, n={one.n}): {one.reason}."
        looked_at = "; ".join(_lost(loss) for loss in one.losses)
        console.print(Text(one.outcome, style=colour) + Text(f"{where} {looked_at}.", style="default"))


def _lost(one: Loss) -> str:
    """`margin lost 12% [8%, 16%]`."""
    if one.value is None or one.low is None or one.high is None:
        return f"{one.quantity} undefined"
    if one.value < 0:
        return f"{one.quantity} gained {-one.value:.1%} [{-one.high:.1%}, {-one.low:.1%}]"
    return f"{one.quantity} lost {one.value:.1%} [{one.low:.1%}, {one.high:.1%}]"


def _after(cell: Cell) -> str:
    """The stages between the two checkpoints: `+harmless`; of several, those since the objective was taught."""
    return " ".join(f"+{objective}" for objective in cell.later)


def _recipe(cell: Cell) -> str:
    """What stands out most, with its name where another quantity decided the verdict."""
    recipe, read = cell.recipe, cell.recipe.read
    if read is None:
        return "–"
    named = read.statement == ATTRIBUTABLE and recipe.quantity != cell.verdict.decided_by
    return RECIPES[read.statement].short + (f"\n  {recipe.quantity}" if named else "")


def _mean(estimates: Sequence[Bounds], form: str) -> str:
    values = [one.value for one in estimates if one.value is not None]
    return "–" if len(values) < len(estimates) else f"{sum(values) / len(values):{form}}"


def _percent(estimate: Bounds | None) -> str:
    return "–" if estimate is None else interval(estimate, ".0%")
