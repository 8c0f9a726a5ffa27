"""What to do next about a cell, in one sentence: settle it, change the recipe, or leave it."""

from collections.abc import Sequence

from seqdpo.analysis.cells import Cell
from seqdpo.analysis.claims import FEWEST_PROMPTS, nothing
from seqdpo.analysis.recipes import ATTRIBUTABLE
from seqdpo.analysis.schema import BestPlace, FirstMinusLast, KlAndPath, NothingLearned, Orders, Recipe, Verdict
from seqdpo.study.checkpoints import order_name, parse_order, variant_of

LOST = ("DEGRADED", "MIXED", "BELOW BASE", "REDISTRIBUTED")
#: Where controls are added until the change is attributable, it is so by chance in 14% of studies, and not in 5%.
DECIDE_NOW = "decide on the number now: looking after each one more than doubles the risk of a false claim"


def next_step(
    cell: Cell,
    verdict: Verdict,
    recipe: Recipe,
    orders: Sequence[Orders] = (),
    paths: Sequence[KlAndPath] = (),
    is_audit: bool = False,
) -> str:
    """One sentence; what it costs is in pairs, stages and seeds."""
    if verdict.verdict == "UNDEFINED":
        return _to_judge(cell, verdict)
    if verdict.verdict == "INCONCLUSIVE":
        return _to_settle(cell, verdict)
    if verdict.verdict not in LOST:
        if "redistributed" in verdict.tags:
            look = f"seqdpo pairs RUN --objective {cell.objective} --flips lost"
            return f"Leave it, but look at the pairs that turned wrong on the way ({look})."
        only = verdict.degree == "margin only"
        return "Leave it." if not only else "Leave it; more held-out pairs would show whether its accuracy holds, too."
    if recipe.read is None or recipe.read.statement != ATTRIBUTABLE:
        return _to_attribute(cell, recipe, is_audit)
    return _to_change(cell, orders, paths)


def _to_judge(cell: Cell, verdict: Verdict) -> str:
    if nothing(cell.panel.clusters):
        return (
            f"Settle it: hold out more prompts, {FEWEST_PROMPTS} at the very least and 1,000 for a verdict on a tenth."
        )
    if isinstance(verdict.reasons, NothingLearned) and verdict.reasons.gain.value is None:
        return "Score it again: some log-probabilities are not finite, often for want of range in the dtype."
    return (
        f"Change the recipe: {cell.objective} was not learned, so train its own stage longer or with a higher learning "
        "rate, or check its labels, before asking what came after."
    )


def _to_settle(cell: Cell, verdict: Verdict) -> str:
    if verdict.n_needed is None:
        return "Leave it: the change is as large as the tolerance, and no number of pairs tells which is larger."
    n = len(cell.panel.pair_ids)
    return (
        f"Settle it: score about {verdict.n_needed:,} held-out pairs, {verdict.n_needed / n:.1f} times those here; the "
        f"checkpoints are there, nothing is trained (seqdpo rescore RUN --max-eval-pairs {verdict.n_needed})."
    )


def _to_attribute(cell: Cell, recipe: Recipe, is_audit: bool) -> str:
    """How to tell whether the later objective did it, or any training would have."""
    read = recipe.read or recipe.margin
    did_it = f"Settle whether {' and '.join(cell.later)} did it"
    if len(cell.later) > 1:
        did_it += " (control stages stand beside one stage, so over several it takes seeds)"
    ways = []
    if read.draws_needed:
        more = read.draws_needed - len(cell.controls)
        ways.append(f"{more} more control stages, each as long as the stage (--placebo {read.draws_needed})")
    if read.seeds_needed:
        ways.append(f"{read.seeds_needed} seeds in all, each with all its stages (--seeds)")
    if not ways:
        return "Leave it: any training changes as much by itself; a lower learning rate would move everything less."
    if is_audit:
        did_it += ": an audit has no control stages, so train the stages again with seqdpo run"
        return f"{did_it} and {', or '.join(ways)}."
    return f"{did_it}: {', or '.join(ways)}; {DECIDE_NOW}."


def _to_change(cell: Cell, orders: Sequence[Orders], paths: Sequence[KlAndPath]) -> str:
    ways = [way for way in (_other_order(cell, orders), _earlier_on_the_path(cell, paths)) if way]
    ways.append(
        f"mix pairs of {cell.objective} into the later stage, or take fewer steps or a lower learning rate there"
    )
    return f"Change the recipe: {'; or '.join(ways)}."


def _other_order(cell: Cell, orders: Sequence[Orders]) -> str:
    """What training the objective last was seen to give, where it is shown to give more."""
    compared = {
        one.objective: one
        for record in orders
        for one in record.first_minus_last
        if (record.split, one.measure) == (cell.panel.split, "accuracy")
        and variant_of(record.orders[0]) == variant_of(cell.order)
    }
    if cell.objective in compared:
        return _gain_of_last(cell, compared[cell.objective], compared.get(parse_order(cell.order)[-1]))
    if len(parse_order(cell.order)) == 2:
        return f"try the other order, {order_name(tuple(reversed(parse_order(cell.order))))}"
    return ""


def _gain_of_last(cell: Cell, one: FirstMinusLast, of_last: FirstMinusLast | None) -> str:
    """Of the objective, and what it costs the one that is now last."""
    seed = next((seed for seed in one.seeds if seed.seed == cell.seed), None)
    if seed is None or cell.order not in seed.first or seed.value is None or seed.low is None or seed.high is None:
        return ""
    if not seed.high < 0:
        return ""
    cost = ""
    if of_last is not None and of_last.over_seeds.value is not None:
        change = 100 * of_last.over_seeds.value
        cost = f", that of {of_last.objective} {abs(change):.1f} points {'lower' if change < 0 else 'higher'}"
    return (
        f"train {cell.objective} last ({seed.last[0]}): its accuracy ends {-100 * seed.value:.1f} points "
        f"[{-100 * seed.high:.1f}, {-100 * seed.low:.1f}] higher there{cost} (n = {one.n:,} pairs, this seed)"
    )


def _earlier_on_the_path(cell: Cell, paths: Sequence[KlAndPath]) -> str:
    """A point between the checkpoints where the worst objective is better off, where there is one."""
    for record in paths:
        names = (record.seed, record.from_, record.to, record.placebo)
        if names == (cell.seed, cell.name(cell.start), cell.name(cell.end), 0) and record.best_for_worst_objective:
            return _place(record.best_for_worst_objective.accuracy)
    return ""


def _place(best: BestPlace | None) -> str:
    if best is None or best.a >= 1 or best.low is None or best.value is None or best.at_one.high is None:
        return ""
    if not best.low > best.at_one.high or best.at_one.value is None:
        return ""
    return (
        f"go {best.a:.0%} of the way only: there the worst objective has an accuracy of {best.value:.3f}, and "
        f"{best.at_one.value:.3f} at the end"
    )
