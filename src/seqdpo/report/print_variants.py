"""What `run` and `report` print of a study's variants. Everything fits 80 columns."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqdpo.analysis.schema import PathCost, ShareOfPlain, VariantOutcome, Variants
from seqdpo.report.numbers import interval

ABOUT_VARIANTS = (
    "kept: mean margin at the end over that when taught; learned: over what the plain stage learned; with intervals. "
    "*: no other one is better in both. +/-: more or less than plain, shown. passes: pairs trained from the base on, "
    "over those of the plain order."
)


def print_variants(console: Console, found: Sequence[Variants]) -> None:
    for of in found:
        console.print("", variants_table(of), "")
        for line in (of.sentence, of.projection):
            if line:
                console.print(f"- {line}", highlight=False, markup=False)
    if found:
        console.print(ABOUT_VARIANTS, style="dim", highlight=False, markup=False)


def variants_table(of: Variants) -> Table:
    """A row for each variant of an order."""
    table = Table(title=f"Variants of {of.order}", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("variant", overflow="ellipsis", no_wrap=True, max_width=18)
    plain = of.outcomes[0]
    for name in (*(f"{share.objective} kept" for share in plain.kept), f"{plain.learned.objective} learned"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    table.add_column("passes", justify="right", no_wrap=True)
    for one in of.outcomes:
        shares = [Text(_share(share)) for share in (*one.kept, one.learned)]
        table.add_row(Text(_name(one)), *shares, Text(passes(one.cost, plain.cost)), style="" if one.chosen else "dim")
    return table


def _name(one: VariantOutcome) -> str:
    return f"{one.variant}{' *' if one.on_front else ''}{' (ceiling)' if one.joint else ''}"


def _share(share: ShareOfPlain) -> str:
    return interval(share, ".0%") + {"more": " +", "less": " -"}.get(share.than_plain or "", "")


def passes(cost: PathCost | None, of_plain: PathCost | None) -> str:
    """Pairs trained, as times those of the plain order."""
    if cost is None or of_plain is None or cost.trained_pairs is None or not of_plain.trained_pairs:
        return "–"
    return f"{cost.trained_pairs / of_plain.trained_pairs:.2f}x"
