"""What `seqdpo pairs` prints: a line for each pair, or one pair in full. Everything fits 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from seqdpo.analysis.changes import FLIPS
from seqdpo.analysis.pair_query import Listing, Visit
from seqdpo.report.numbers import number
from seqdpo.report.words import FLIP_WORDS, SIDES, UNITS
from seqdpo.tables import SLICE_PREFIX
from seqdpo.wording import visible

#: From this width on there is room for what each response did.
WIDE = 100
SHORTEST_ID = 8


def print_pairs(console: Console, rows: pa.Table, listing: Listing) -> None:
    """A table of the pairs, and below it how many there are."""
    console.print(_title(listing), style="bold")
    if rows.num_rows:
        console.print(_pairs_table(rows.to_pylist(), wide=console.width >= WIDE))
    for line in _footer(listing, rows.num_rows):
        console.print(line, style="dim")


def print_pair(console: Console, row: Mapping[str, Any], trajectory: Sequence[Visit]) -> None:
    """One pair: what it is, its texts, and every checkpoint of `trajectory`."""
    console.print(Text(visible(f"{row['objective']}, pair {row['pair_id']}"), style="bold"))
    console.print(Text(visible(_facts(row)), style="dim"))
    for message in row["prompt"]:
        _print_text(console, message["role"], message["content"], "cyan")
    for side, colour in (("chosen", "green"), ("rejected", "red")):
        _print_text(console, f"{side} ({row[f'{side}_tokens']} tokens)", row[side], colour)
    console.print("", _trajectory_table(trajectory))
    console.print(f"margin = chosen - rejected: {SIDES[row['measure']]}.", style="dim")


def _title(listing: Listing) -> str:
    measure = "" if listing.measure == "margin" else f", in {listing.measure}"
    return f"{listing.objective}, from {listing.start} to {listing.end} (seed {listing.seed}){measure}"


def _pairs_table(rows: Sequence[Mapping[str, Any]], wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("pair", no_wrap=True)
    sides = ("chosen", "rejected") if wide else ()
    for name in ("before", "after", "change", *(f"of {side}" for side in sides)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("flip", no_wrap=True)
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", ratio=1)
    for short, row in zip(_short_ids([row["pair_id"] for row in rows]), rows, strict=True):
        numbers = [row[name] for name in ("margin_before", "margin_after", "change")]
        numbers += [row[f"{side}_logp_change"] for side in sides]
        flip, colour = (row["flip"], FLIP_WORDS[row["flip"]].terminal) if row["flip"] else ("–", "")
        asked = " ".join(last_question(row["prompt"]).split())
        table.add_row(Text(visible(short)), *map(number, numbers), Text(flip, colour), Text(visible(asked)))
    return table


def last_question(prompt: Sequence[Mapping[str, str]]) -> str:
    """The user's last turn; of a prompt without one, the last."""
    asked = [message["content"] for message in prompt if message["role"] == "user"]
    return asked[-1] if asked else prompt[-1]["content"] if prompt else ""


def _footer(listing: Listing, shown: int) -> list[str]:
    matched = f"{listing.n_matched:,} of {listing.n:,} pairs"
    if not shown:
        return [f"{matched} match."]
    counts = ", ".join(f"{listing.flips[name]:,} {name}" for name in FLIPS if listing.flips.get(name))
    first = {"change": "lowest change first", "margin": "lowest margin after first"}[listing.sort]
    rest = " More: --limit N." if shown < listing.n_matched else ""
    return [
        f"{matched}, mean change {number(listing.mean_change)} {UNITS[listing.measure]}: {counts}.",
        f"{shown:,} shown, {first}.{rest} One in full: --pair ID.",
    ]


def _short_ids(ids: Sequence[str]) -> list[str]:
    """The shortest beginnings that still tell these ids apart."""
    length = SHORTEST_ID
    while len({name[:length] for name in ids}) < len(set(ids)):
        length += 1
    return [name[:length] for name in ids]


def _facts(row: Mapping[str, Any]) -> str:
    """What else is known of the pair, as `--where` takes it."""
    known = [name for name in row if name.startswith(SLICE_PREFIX) or name in ("prompt_id", "strength", "truncated")]
    facts = [f"{name.removeprefix(SLICE_PREFIX)}={_plain(row[name])}" for name in known if row[name] is not None]
    return ", ".join(facts)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _print_text(console: Console, title: str, content: str, colour: str) -> None:
    console.print()
    console.print(Text(visible(title), style=f"bold {colour}"))
    console.print(Padding(Text(visible(content), tab_size=4), (0, 0, 0, 2), expand=False))


def _trajectory_table(trajectory: Sequence[Visit]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("after", no_wrap=True, overflow="ellipsis")
    for name in ("margin", "chosen", "rejected"):
        table.add_column(name, justify="right", no_wrap=True)
    for visit in trajectory:
        numbers = map(number, (visit.margin, visit.chosen, visit.rejected))
        table.add_row(Text(visit.checkpoint), *numbers, style="dim" if visit.placebo else None)
    return table
