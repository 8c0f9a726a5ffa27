"""Verdicts in words: each with its number, interval and n."""

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]


def sentence(verdict: Record, names: Record) -> str:
    """A verdict that was reached, in a sentence or two; `names` are those of its cell."""
    reasons = verdict["reasons"]
    change = reasons["margin_change"]
    figures = (
        f"mean margin {reasons['margin_before']:.2f} to {reasons['margin_after']:.2f}, change {_signed(change)}; "
        f"accuracy {reasons['accuracy_before']:.3f} to {reasons['accuracy_after']:.3f}; "
        f"n = {change['n']:,} pairs of {change['n_prompts']:,} prompts"
    )
    opening = _of_accuracy(verdict, names) if verdict["decided_by"] == "accuracy" else _of_margin(verdict, names)
    return f"{opening} ({figures}).{_redistribution(verdict)}{_needed(verdict)}"


def _of_margin(verdict: Record, names: Record) -> str:
    reasons, objective, after = verdict["reasons"], names["objective"], _later(names)
    margin, retention = f"the margin that {objective} had learned", reasons["retention"]
    left = f"{_percent(retention)} of {margin} is left after {after}"
    if retention["value"] < 0:
        left = f"{margin} turned around after {after}, to {_percent(retention)} of itself"
    tolerance = f"{reasons['margin_change']['tolerance'] / reasons['gain']['value']:.0%} of what was learned"
    openings = {
        "DEGRADED": f"Degraded, {verdict['degree']}: {left}",
        "POSITIVE TRANSFER": f"Improved: {margin} grew to {_percent(retention)} after {after}",
        "MIXED": f"Mixed: margin and accuracy of {objective} moved in opposite directions after {after}",
        "STABLE": f"Stable: no change of {objective}'s mean margin larger than {tolerance} after {after}",
        "REDISTRIBUTED": f"Redistributed: {objective}'s mean margin held after {after}, but more pairs flipped than in "
        "the control stages",
        "INCONCLUSIVE": f"Inconclusive: these pairs cannot tell whether {objective} changed after {after}",
    }
    return openings[verdict["verdict"]]


def _of_accuracy(verdict: Record, names: Record) -> str:
    openings = {
        "DEGRADED": f"Degraded, {verdict['degree']}",
        "POSITIVE TRANSFER": "Improved",
        "INCONCLUSIVE": "Inconclusive",
    }
    change = _signed(verdict["reasons"]["accuracy_change"], 3)
    return (
        f"{openings[verdict['verdict']]}: {names['objective']}'s mean margin held after {_later(names)}, its accuracy "
        f"changed by {change}"
    )


def _later(names: Record) -> str:
    """The objectives of the stages between the two checkpoints."""
    return str(names["to"]).removeprefix(f"{names['from']}>").replace(">", " and ")


def _redistribution(verdict: Record) -> str:
    excess = verdict["reasons"]["excess_flips"]
    if verdict["redistribution"] == "found":
        return f" Beyond the control stages, {_percent(excess)} of all pairs turned right or wrong."
    if verdict["verdict"] != "STABLE":
        return ""
    words = {
        "ruled out": "is ruled out",
        "open": "is not ruled out",
        "untested": "was not tested: that takes a control stage",
    }[verdict["redistribution"]]
    return f" Redistribution between pairs {words}."


def _needed(verdict: Record) -> str:
    if verdict["verdict"] != "INCONCLUSIVE":
        return ""
    if verdict["n_needed"] is None:
        return " The change lies at the tolerance itself, and no reasonable number of pairs would settle it."
    return f" About {verdict['n_needed']:,} pairs would settle it if the change is what it looks like."


def _signed(estimate: Record, digits: int = 2) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:+.{digits}f}"
    return f"{estimate['value']:+.{digits}f} [{estimate['low']:+.{digits}f}, {estimate['high']:+.{digits}f}]"


def _percent(estimate: Record) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:.0%}"
    return f"{estimate['value']:.0%} [{estimate['low']:.0%}, {estimate['high']:.0%}]"
