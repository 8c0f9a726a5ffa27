"""What `seqdpo generate` prints: answers counted, and a judge's win rates. Everything fits 80 columns."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqdpo.analysis.generations import Answers, WinRate

NAME_WIDTH = 26


def print_answers(console: Console, counted: Sequence[Answers], engines: Sequence[str]) -> None:
    """A row for each objective and checkpoint, and what answered."""
    table = _table("What they answered", "objective", "checkpoint")
    for name in ("n", "mean tokens", "refusal-like", "cut off"):
        table.add_column(name, justify="right")
    for row in counted:
        numbers = str(row.n), f"{row.mean_tokens:.0f}", str(row.refusal_like), str(row.cut_off)
        table.add_row(Text(row.objective), Text(row.checkpoint), *numbers)
    console.print(table)
    console.print(f"Greedy, by {' and '.join(engines)}.", style="dim")
    console.print("refusal-like: begins like a refusal (I'm sorry, I cannot, ...); counted, not judged.", style="dim")


def print_win_rates(console: Console, rates: Sequence[WinRate], confidence: float) -> None:
    """A row for each objective and checkpoint, against the checkpoint before it; a tie is half."""
    table = _table("Win rates", "objective", "checkpoint", "against")
    table.add_column("rate", justify="right")
    table.add_column("n", justify="right")
    for row in rates:
        rate = f"{row.rate:.2f} [{row.low:.2f}, {row.high:.2f}]"
        table.add_row(Text(row.objective), Text(row.later), Text(row.earlier), rate, str(row.n))
    console.print(table)
    console.print(
        f"The judge's share of wins over the checkpoint before, a tie one half; {confidence:.0%} Wilson interval "
        "over prompts.",
        style="dim",
    )


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=NAME_WIDTH if name != "objective" else 12)
    return table
