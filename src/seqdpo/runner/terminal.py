"""What `plan`, `check` and `env` print. Everything fits 80 columns."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from seqdpo.preferences.drops import LIMITS, left_out
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.runner.plan import WORKERS, Plan, StagePlan
from seqdpo.runner.study import Checked
from seqdpo.study.checkpoints import BASE
from seqdpo.study.keys import InputKeys


def print_plan(console: Console, keys: InputKeys, preferences: Preferences, plan: Plan) -> None:
    count, where = plan.parameters, "this machine" if plan.assumed is None else f"one {plan.assumed.upper()} (assumed)"
    console.print(
        f"{keys.setting or 'study'}: {len(plan.stages) - 1} stages, "
        f"about {duration(plan.seconds)} and {plan.memory_bytes / 2**30:.1f} GiB on {where}",
        style="bold",
        highlight=False,
    )
    console.print(
        f"trainable parameters: {count.trainable:,} of {count.total:,} ({count.percent:.2f}%)", highlight=False
    )
    console.print(f"reference: {keys.reference}, adapter_mode: {keys.adapter_mode}", highlight=False)
    console.print(_accounts_table(preferences))
    base, *stages = plan.stages
    tree = Tree(_stage_line(BASE, base), guide_style="dim")
    branches: dict[Any, Tree] = {}
    for stage in stages:
        assert stage.node is not None
        parent = branches.get(stage.node.parent, tree)
        name = f"placebo {stage.node.placebo} of {stage.node.objective}" if stage.node.placebo else stage.node.objective
        name += f"@{stage.node.variant}" if stage.node.variant else ""
        seed = f" (seed {stage.node.seed})" if stage.node.stage == 1 else ""
        line = _stage_line(name + seed, stage)
        branches[stage.node] = parent.add(line, style="dim" if stage.node.placebo else "")
    console.print(tree)
    _print_shares(console, plan)
    for note in dict.fromkeys(note for stage in stages for note in stage.notes):
        console.print(f"note: {note}", highlight=False)
    console.print(
        f"Times are estimates: {plan.rates.how}. Memory is a rough upper estimate.",
        style="dim",
        highlight=False,
    )


def _print_shares(console: Console, plan: Plan) -> None:
    parts = {"control stages": plan.placebo_seconds, "mechanism of the others": plan.mechanism_seconds}
    shares = [f"{name} {seconds / plan.seconds:.0%}" for name, seconds in parts.items() if seconds]
    if shares:
        console.print(f"of the time: {', '.join(shares)}", highlight=False)
    times, fewer = [], plan.seconds
    for workers in WORKERS:
        seconds = plan.makespan(workers)
        if seconds < 0.95 * fewer:
            times.append(f"{workers}: {duration(seconds)}")
        fewer = seconds
    if times:
        which = "this machine" if plan.assumed is None else "that"
        console.print(f"with several workers like {which}: {', '.join(times)}", highlight=False)


def print_check(console: Console, checked: Checked, show: int) -> None:
    preferences, tokeniser, notes = checked
    console.print(_accounts_table(preferences))
    for name, objective in preferences.objectives.items():
        for reason, n in objective.dropped.items():
            done = "over limits" if reason in LIMITS else "dropped"
            console.print(f"{name}: {n:,} {done}: {reason}", highlight=False)
    for note, n in preferences.notes.items():
        console.print(f"note: {n} pairs: {note}", highlight=False, markup=False)
    for text in notes:
        console.print(f"note: {text}", highlight=False, markup=False)
    if preferences.chat_template_hash is None:
        console.print("chat template: none; plain text only", highlight=False)
    else:
        console.print(f"chat template: sha256 {preferences.chat_template_hash[:16]}", highlight=False)
        if not tokeniser.has_generation_prompt():
            console.print(
                "note: the template adds nothing for the generation prompt. Where it does not mark the assistant's "
                "turn otherwise, its header counts as part of every response.",
                highlight=False,
            )
    for name, objective in preferences.objectives.items():
        for prepared in [*objective.train, *objective.eval][:show]:
            _print_pair(console, name, prepared, tokeniser)
    console.print("No problems found.", style="green")


def print_environment(console: Console, environment: Mapping[str, Any]) -> None:
    for name, value in environment.items():
        if isinstance(value, dict):
            console.print(f"{name}:", highlight=False)
            for inner, text in value.items():
                console.print(f"  {inner}: {text}", highlight=False, markup=False)
        else:
            console.print(f"{name}: {value}", highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for size, unit in ((86_400, "days"), (3_600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _accounts_table(preferences: Preferences) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("objective")
    for name in ("read", "over limits", "dropped", "train", "eval", "tokens/pair", "truncated"):
        table.add_column(name, justify="right")
    for name, objective in preferences.objectives.items():
        pairs = [*objective.train, *objective.eval]
        tokens = sum(pair.tokens.n_tokens for pair in pairs) / len(pairs)
        table.add_row(
            name,
            f"{objective.read:,}",
            *(f"{n:,}" for n in left_out(objective.dropped)),
            f"{len(objective.train):,}",
            f"{len(objective.eval):,}",
            f"{tokens:.0f}",
            f"{sum(pair.tokens.truncated for pair in pairs):,}",
        )
    return table


def _stage_line(name: str, stage: StagePlan) -> str:
    trained = f"{stage.work.trained:,} pairs in {stage.steps:,} steps, " if stage.steps else ""
    return f"{name}: {trained}{stage.work.scored:,} scored, {stage.tokens:,} tokens, ~{duration(stage.seconds)}"


def _print_pair(console: Console, objective: str, prepared: PreparedPair, tokeniser: Tokeniser) -> None:
    """A rendered pair, a bar between tokens, the prompt once and both responses."""
    pair, tokens = prepared
    console.print(f"\n{objective}, pair {pair.pair_id}", style="bold", highlight=False)
    for name, ids, style in (
        ("prompt", tokens.prompt, "cyan"),
        ("chosen", tokens.chosen, "green"),
        ("rejected", tokens.rejected, "red"),
    ):
        pieces = [tokeniser.tokenizer.decode([i]) for i in ids.tolist()]
        text = Text(f"{name} ({len(ids)} tokens): ", style="bold")
        console.print(text + Text("|".join(pieces), style=style), highlight=False)
