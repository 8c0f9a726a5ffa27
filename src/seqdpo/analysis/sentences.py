"""Verdicts in words: each with its number, interval and n."""

from collections.abc import Sequence

from seqdpo.analysis.schema import Bounds, Reasons, Verdict


def sentence(verdict: Verdict, reasons: Reasons, objective: str, later: Sequence[str]) -> str:
    """A verdict that was reached for its reasons, in a sentence or two; `later` are the objectives that came after."""
    change, after = reasons.margin_change, " and ".join(later)
    figures = (
        f"mean margin {reasons.margin_before:.2f} to {reasons.margin_after:.2f}, change {_signed(change)}; "
        f"accuracy {reasons.accuracy_before:.3f} to {reasons.accuracy_after:.3f}; "
        f"n = {change.n:,} pairs of {change.n_prompts:,} prompts"
    )
    of = _of_accuracy if verdict.decided_by == "accuracy" else _of_margin
    opening = of(verdict, reasons, objective, after)
    return f"{opening} ({figures}).{_redistribution(verdict, reasons)}{_needed(verdict)}"


def _of_margin(verdict: Verdict, reasons: Reasons, objective: str, after: str) -> str:
    margin, kept = f"the margin that {objective} had learned", _percent(reasons.retention)
    left = f"{kept} of {margin} is left after {after}"
    if _value(reasons.retention) < 0:
        left = f"{margin} turned around after {after}, to {kept} of itself"
    tolerance = f"{reasons.margin_change.tolerance / _value(reasons.gain):.0%} of what was learned"
    openings = {
        "DEGRADED": f"Degraded, {verdict.degree}: {left}",
        "POSITIVE TRANSFER": f"Improved: {margin} grew to {kept} after {after}",
        "MIXED": f"Mixed: margin and accuracy of {objective} moved in opposite directions after {after}",
        "STABLE": f"Stable: no change of {objective}'s mean margin larger than {tolerance} after {after}",
        "REDISTRIBUTED": f"Redistributed: {objective}'s mean margin held after {after}, but more pairs flipped than in "
        "the control stages",
        "INCONCLUSIVE": f"Inconclusive: these pairs cannot tell whether {objective} changed after {after}",
    }
    return openings[verdict.verdict]


def _of_accuracy(verdict: Verdict, reasons: Reasons, objective: str, after: str) -> str:
    openings = {
        "DEGRADED": f"Degraded, {verdict.degree}",
        "POSITIVE TRANSFER": "Improved",
        "INCONCLUSIVE": "Inconclusive",
    }
    return (
        f"{openings[verdict.verdict]}: {objective}'s mean margin held after {after}, its accuracy "
        f"changed by {_signed(reasons.accuracy_change, 3)}"
    )


def _redistribution(verdict: Verdict, reasons: Reasons) -> str:
    if verdict.redistribution == "found" and reasons.excess_flips is not None:
        return f" Beyond the control stages, {_percent(reasons.excess_flips)} of all pairs turned right or wrong."
    if verdict.verdict != "STABLE":
        return ""
    words = {
        "ruled out": "is ruled out",
        "open": "is not ruled out",
        "untested": "was not tested: that takes a control stage",
    }[verdict.redistribution]
    return f" Redistribution between pairs {words}."


def _needed(verdict: Verdict) -> str:
    if verdict.verdict != "INCONCLUSIVE":
        return ""
    if verdict.n_needed is None:
        return " The change lies at the tolerance itself, and no reasonable number of pairs would settle it."
    return f" About {verdict.n_needed:,} pairs would settle it if the change is what it looks like."


def _signed(estimate: Bounds, digits: int = 2) -> str:
    return _with_interval(estimate, f"+.{digits}f")


def _percent(estimate: Bounds) -> str:
    return _with_interval(estimate, ".0%")


def _with_interval(estimate: Bounds, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{_value(estimate):{form}}"
    return f"{_value(estimate):{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _value(estimate: Bounds) -> float:
    assert estimate.value is not None  # what is judged is defined
    return estimate.value
