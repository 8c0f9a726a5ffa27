"""Verdicts in words: each with its number, interval and n."""

import numpy as np

from seqdpo.analysis.cells import Cell
from seqdpo.analysis.claims import FEWEST_PROMPTS
from seqdpo.analysis.estimates import effective_prompts
from seqdpo.analysis.schema import AgainstBase, Bounds, NothingLearned, Reasons, Tag, Verdict


def sentence(verdict: Verdict, reasons: Reasons, cell: Cell) -> str:
    """A verdict that was reached for its reasons, in a few sentences."""
    objective, after = cell.objective, _after(cell)
    figures = (
        f"mean margin {reasons.margin_before:.2f} to {reasons.margin_after:.2f}, change "
        f"{_signed(reasons.margin_change)}; accuracy {reasons.accuracy_before:.3f} to {reasons.accuracy_after:.3f}, "
        f"change {_signed(reasons.accuracy_change, 3)}; {counted(cell)}"
    )
    of = _of_accuracy if verdict.decided_by == "accuracy" else _of_margin
    more = (
        _redistribution(verdict, reasons),
        *_tagged(verdict, reasons),
        _of_controls(reasons),
        _needed(verdict),
    )
    return f"{of(verdict, reasons, objective, after)} ({figures})." + "".join(f" {text}" for text in more if text)


def undefined_sentence(verdict: Verdict, reasons: NothingLearned, cell: Cell, is_defined: bool) -> str:
    """Why there is no verdict on what was learned, and whether what the base could do is lost."""
    objective, n = cell.objective, counted(cell)
    if not is_defined:
        return f"No verdict on {objective}: some of the pairs have no finite log-probability ({n})."
    if (found := effective_prompts(cell.panel.clusters)) < FEWEST_PROMPTS:
        return (
            f"No verdict on {objective}: it has {found:.3g} prompts, and nothing is claimed of fewer than "
            f"{FEWEST_PROMPTS} ({n})."
        )
    if verdict.verdict == "BELOW BASE":
        return (
            f"Below the base, after {_after(cell)}: {objective}'s {_against_base(reasons.base)}; nothing is shown to "
            f"have been learned on top of what the base could do ({n})."
        )
    return (
        f"No verdict on {objective}: nothing is shown to have been learned: margin when taught "
        f"{_signed(reasons.gain)}, accuracy {_percent(reasons.accuracy_when_taught)} ({n})."
    )


def counted(cell: Cell) -> str:
    """`n = 1,000 pairs of 640 prompts`, and how many prompts of equal size those are worth, where that is less."""
    clusters = cell.panel.clusters
    n, prompts, effective = len(clusters), len(np.unique(clusters)), effective_prompts(clusters)
    worth = f", worth {effective:,.0f} of equal size" if effective < 0.995 * prompts else ""
    return f"n = {n:,} pairs of {prompts:,} prompts{worth}"


def _after(cell: Cell) -> str:
    return " and ".join(cell.later)


def _of_margin(verdict: Verdict, reasons: Reasons, objective: str, after: str) -> str:
    margin, kept = f"the margin that {objective} had learned", _percent(reasons.retention)
    left = f"{kept} of {margin} is left after {after}"
    if _value(reasons.retention) < 0:
        left = f"nothing is shown to be left of {margin} after {after} ({kept})"
    if reasons.retention.high is not None and reasons.retention.high < 0:
        left = f"{margin} turned around after {after}, to {kept} of itself"
    tolerance = _tolerance(reasons)
    how_far = {"partial": "partial", "lost": "lost", "extent open": "how far is open"}.get(str(verdict.degree), "")
    only = "; its accuracy is neither shown to hold nor to have moved" if verdict.degree == "margin only" else ""
    openings = {
        "DEGRADED": f"Degraded, {how_far}: {left}",
        "POSITIVE TRANSFER": f"Improved: {margin} grew to {kept} after {after}",
        "MIXED": f"Mixed: margin and accuracy of {objective} moved in opposite directions after {after}",
        "STABLE": f"Stable: no change of {objective}'s mean margin larger than {tolerance} after {after}{only}",
        "REDISTRIBUTED": f"Redistributed: {objective}'s mean margin held after {after}, but {_found_by(verdict)}",
        "INCONCLUSIVE": _inconclusive(reasons, objective, after),
    }
    return openings[verdict.verdict]


def _inconclusive(reasons: Reasons, objective: str, after: str) -> str:
    if _left_zero(reasons.margin_change):
        return f"Inconclusive: {objective}'s mean margin {_margin_open(reasons)} (after {after})"
    return f"Inconclusive: these pairs cannot tell whether {objective} changed after {after}"


def _margin_open(reasons: Reasons) -> str:
    change = reasons.margin_change
    if not _left_zero(change):
        return "is not shown to have moved"
    return f"{'rose' if _value(change) > 0 else 'fell'}; whether by more than {_tolerance(reasons)} is open"


def _left_zero(change: Bounds) -> bool:
    return change.low is not None and change.high is not None and (change.low > 0 or change.high < 0)


def _of_accuracy(verdict: Verdict, reasons: Reasons, objective: str, after: str) -> str:
    margin = "held" if reasons.margin_change.class_ == "held" else _margin_open(reasons)
    change = f"{_signed(reasons.accuracy_change, 3)} after {after}"
    openings = {
        "DEGRADED": f"Degraded, by its accuracy: {objective}'s changed by {change}",
        "POSITIVE TRANSFER": f"Improved, by its accuracy: {objective}'s changed by {change}",
        "INCONCLUSIVE": f"Inconclusive: {objective}'s accuracy changed by {change}; whether by more than "
        f"{reasons.accuracy_change.tolerance:.0%} is open",
    }
    return f"{openings[verdict.verdict]}; its mean margin {margin}"


def _found_by(verdict: Verdict) -> str:
    return {
        "scale": "its margins lie closer together or further apart than in the control stages",
        "scatter": "the pairs changed places more than in the control stages",
    }.get(str(verdict.decided_by), "more pairs flipped than in the control stages")


def _redistribution(verdict: Verdict, reasons: Reasons) -> str:
    flips = reasons.excess_flips
    if flips is not None and _flips_found(reasons):
        return f"Beyond the control stages, {_percent(flips)} of all pairs turned right or wrong."
    if verdict.verdict != "STABLE" or verdict.redistribution == "found":
        return ""
    words = {
        "ruled out": "No excess of sign flips over the control stages.",
        "open": "An excess of sign flips is not ruled out.",
        "untested": "Redistribution between pairs was not tested: that takes a control stage.",
    }
    return words[verdict.redistribution]


def _flips_found(reasons: Reasons) -> bool:
    return reasons.excess_flips is not None and reasons.excess_flips.class_ == "found"


def _tagged(verdict: Verdict, reasons: Reasons) -> list[str]:
    scale = reasons.shape.scale
    texts: dict[Tag, str] = {
        "redistributed": ""
        if _flips_found(reasons)
        else "The pairs also changed places more than in the control stages.",
        "scale only": f"Scale only: all margins were multiplied by {_with_interval(scale, '.2f')}; nothing else shows.",
        "below base": f"Now below the base: {_against_base(reasons.base)}.",
    }
    return [texts[tag] for tag in verdict.tags]


def _against_base(base: AgainstBase) -> str:
    """What the policy itself prefers, beside the base."""
    change = base.ranking_accuracy_change
    text = (
        f"ranking accuracy {base.ranking_accuracy_of_base:.3f} of the base, {base.ranking_accuracy_when_taught:.3f} "
        f"when taught, {base.ranking_accuracy_after:.3f} now, change {_signed(change, 3)}"
    )
    if change.class_ != "fell" and base.margin_change is not None:
        text += (
            f"; of the {_value(base.margin_of_base):.2f} nats by which the base preferred the chosen responses, "
            f"{_signed(base.margin_change)}"
        )
    return text


def _of_controls(reasons: Reasons) -> str:
    """The part of a change that comes with any training on these pairs."""
    controls = reasons.controls
    if controls is None:
        return ""
    stages = f"{controls.n_controls} control stage{'s' if controls.n_controls > 1 else ''}"
    return (
        f"Any training on these pairs changes the margin by {controls.margin_change:+.2f} "
        f"({controls.share_of_gain:+.0%} of what was learned) and the accuracy by {controls.accuracy_change:+.3f} "
        f"({stages})."
    )


def _needed(verdict: Verdict) -> str:
    if verdict.verdict != "INCONCLUSIVE":
        return ""
    if verdict.n_needed is None:
        return "The change lies at the tolerance itself, and no reasonable number of pairs would settle it."
    prompts = "" if verdict.n_needed == verdict.prompts_needed else f" of {verdict.prompts_needed:,} prompts"
    return f"About {verdict.n_needed:,} pairs{prompts} would settle it if the change is what it looks like."


def _tolerance(reasons: Reasons) -> str:
    return f"{reasons.margin_change.tolerance / _value(reasons.gain):.0%} of what was learned"


def _signed(estimate: Bounds, digits: int = 2) -> str:
    return _with_interval(estimate, f"+.{digits}f")


def _percent(estimate: Bounds) -> str:
    return _with_interval(estimate, ".0%")


def _with_interval(estimate: Bounds, form: str) -> str:
    if estimate.value is None:
        return "undefined"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _value(estimate: Bounds) -> float:
    assert estimate.value is not None  # what is judged is defined
    return estimate.value
