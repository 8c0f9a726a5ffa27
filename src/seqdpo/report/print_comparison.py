"""What `seqdpo compare` prints of two runs. Everything fits 80 columns."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqdpo.analysis.comparison import ComparedCheckpoint, Comparison, Difference, PairCount
from seqdpo.analysis.schema import Bounds
from seqdpo.report.numbers import number
from seqdpo.wording import brief

MAX_KEYS = 8
#: Inputs that a run knows by their hashes.
INPUTS = {
    "identity.model": "the base model",
    "identity.data": "the data",
    "identity.chat_template": "the chat template",
}


def print_comparison(console: Console, comparison: Comparison) -> None:
    """What differs between the runs, and a table for each objective."""
    for run, where in (("A", comparison.a), ("B", comparison.b)):
        console.print(f"{run}: {where}", soft_wrap=True)
    if comparison.differences:
        console.print(_warning(comparison.differences), style="yellow")
    for pairs in comparison.pairs:
        console.print()
        console.print(_title(pairs), style="bold")
        records = [
            one for one in comparison.checkpoints if (one.objective, one.split) == (pairs.objective, pairs.split)
        ]
        if records:
            console.print(_table(records))
    console.print()
    console.print(
        "Means over the pairs that both have; B - A pair by pair, its interval clustered by prompt. right alone: "
        "pairs with a margin above 0 in this run and below 0 in the other.",
        style="dim",
    )


def _title(pairs: PairCount) -> str:
    return (
        f"{pairs.objective}: {pairs.n_common:,} pairs in both; {pairs.n_only_a:,} only in A, "
        f"{pairs.n_only_b:,} only in B"
    )


def _table(records: Sequence[ComparedCheckpoint]) -> Table:
    """Three lines for each checkpoint: margin, accuracy, and the pairs that one run alone gets right."""
    several_seeds = len({record.seed for record in records}) > 1
    confidence = records[0].margin_difference.confidence
    table = Table(box=None, pad_edge=False)
    table.add_column("checkpoint", overflow="fold")
    table.add_column("")
    for name in ("A", "B", "B - A", f"{confidence:.0%} interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        name = record.checkpoint + (f" (seed {record.seed})" if several_seeds else "")
        margins = _measure(record.margin_a, record.margin_b, record.margin_difference, "+.2f")
        accuracies = _measure(record.accuracy_a, record.accuracy_b, record.accuracy_difference, ".3f")
        alone = [record.right_only_in_a, record.right_only_in_b]
        table.add_row(Text(name), "margin", *margins)
        table.add_row("", "accuracy", *accuracies)
        table.add_row("", "right alone", *(number(count, ",") for count in alone))
    return table


def _measure(a: float | None, b: float | None, difference: Bounds, form: str) -> list[str | Text]:
    signed = f"+{form.removeprefix('+')}"
    ends = Text(f"[{number(difference.low, signed)}, {number(difference.high, signed)}]")
    return [number(a, form), number(b, form), number(difference.value, signed), ends]


def _warning(differences: Sequence[Difference]) -> str:
    named = [INPUTS.get(one.key) or f"{one.key} ({_short(one.a)}, {_short(one.b)})" for one in differences]
    more = f" and {len(named) - MAX_KEYS} more (--format json has all)" if len(named) > MAX_KEYS else ""
    base = " Each margin is against its own base." if INPUTS["identity.model"] in named else ""
    return f"Not the same: {', '.join(named[:MAX_KEYS])}{more}.{base}"


def _short(value: object) -> str:
    return brief(value, 24) if isinstance(value, str) else str(value)
