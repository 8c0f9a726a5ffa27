"""Verdicts on a checkpoint: what a later stage did to an earlier objective, by a rule that was fixed before.

The rule, and how often it errs, is in docs/verdicts.md. Classes of a change by its one-sided tests against +-tolerance:
    fell       below -tolerance
    held       within the tolerance (two one-sided tests)
    rose       above +tolerance
    unresolved none of them at this level
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from seqdpo.analysis.cells import Cell
from seqdpo.analysis.changes import flipped
from seqdpo.analysis.estimates import Estimate, mean, ratio
from seqdpo.analysis.margins import Column, PairScores
from seqdpo.analysis.multiplicity import holm_levels
from seqdpo.analysis.schema import (
    Class,
    Excess,
    ExcessFlips,
    Judged,
    NothingLearned,
    Quantity,
    Reasons,
    Tolerances,
    Verdict,
    Word,
    extended,
)
from seqdpo.analysis.sentences import sentence

#: The chance with which a study of the number of pairs that is named as needed would settle the question.
POWER = 0.8
#: Beyond this multiple of the pairs at hand the change lies at the tolerance itself, and no number settles it.
MOST_TIMES_MORE = 100
SCOPE = (
    "this checkpoint, on pairs like these: the interval is over prompts of one training run and says nothing about "
    "another run of the same recipe"
)


class Change(NamedTuple):
    """A change beside its tolerance, which may itself be a mean over the pairs."""

    value: Estimate
    above_lower: Estimate  # the change plus the tolerance: below 0 where it fell
    above_upper: Estimate  # the change less the tolerance: above 0 where it rose

    def p_values(self) -> dict[Class, float]:
        """One-sided p of each class; a claim is made where it is at most the level."""
        return {
            "fell": self.above_lower.p_below(0),
            "held": max(self.above_lower.p_above(0), self.above_upper.p_below(0)),
            "rose": self.above_upper.p_above(0),
        }

    def class_at(self, level: float) -> Class:
        likeliest = min(self.p_values().items(), key=lambda item: item[1])
        return likeliest[0] if likeliest[1] <= level else "unresolved"

    def n_needed(self, level: float) -> int | None:
        """Pairs at which this change, if true, is settled with a chance of POWER; None where no number would."""
        bounds = (self.above_lower, self.above_upper)
        distances = [abs(bound.value) / bound.se if bound.se > 0 else math.inf for bound in bounds]
        distance = min(distances)  # the nearer bound is the one in doubt
        wanted = float(stats.norm.isf(level) + stats.norm.ppf(POWER))
        if not distance > wanted / math.sqrt(MOST_TIMES_MORE):
            return None
        return math.ceil(self.value.n * max(1.0, (wanted / distance) ** 2))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the rule looks at, for one cell."""

    cell: Cell
    gain: Estimate  # mean margin when taught: what was learned
    accuracy_when_taught: Estimate
    margin: Change
    accuracy: Change
    retention: Estimate  # mean margin after / when taught
    excess_flips: Estimate | None  # share of pairs that flipped, less that in the control stages; None without those

    def judgeable(self, confidence: float) -> bool:
        """Whether something was learned, and every pair's change is defined."""
        return self.defined and self.gain.interval(confidence)[0] > 0 and self.accuracy_when_taught.value > 0.5

    @property
    def defined(self) -> bool:
        return math.isfinite(self.gain.value) and math.isfinite(self.margin.value.value)

    def flips_class(self, level: float, tolerance: float) -> Excess:
        if self.excess_flips is None:
            return "untested"
        if self.excess_flips.p_above(tolerance) <= level:
            return "found"
        return "ruled out" if self.excess_flips.p_below(tolerance) <= level else "open"


def evidence(cell: Cell, tolerances: Tolerances) -> Evidence:
    """The estimates of a cell; all of its pairs, clustered by prompt."""
    clusters = cell.panel.clusters
    before, after, taught = cell.before.margin, cell.after.margin, cell.when_taught.learned
    accuracy_change = cell.after.accuracy - cell.before.accuracy
    return Evidence(
        cell=cell,
        gain=mean(taught, clusters),
        accuracy_when_taught=mean(cell.when_taught.accuracy, clusters),
        # the tolerance is a share of a mean over the same pairs, so that its own uncertainty is in the test
        margin=_change(after - before, tolerances.margin * taught, cell),
        accuracy=_change(accuracy_change, np.full(len(before), tolerances.accuracy), cell),
        retention=ratio(cell.after.learned, taught, clusters),
        excess_flips=_excess_flips(before, after, cell.controls, cell),
    )


def _change(change: Column, tolerance: Column, cell: Cell) -> Change:
    clusters = cell.panel.clusters
    return Change(mean(change, clusters), mean(change + tolerance, clusters), mean(change - tolerance, clusters))


def _excess_flips(before: Column, after: Column, controls: Sequence[PairScores], cell: Cell) -> Estimate | None:
    if not controls:
        return None
    in_controls = sum((flipped(before, control.margin) for control in controls), np.zeros(len(before)))
    return mean(flipped(before, after) - in_controls / len(controls), cell.panel.clusters)


def verdicts(cells: Sequence[Cell], tolerances: Tolerances) -> list[Verdict]:
    """The verdict of each cell, with its reasons; the risk of a wrong claim is shared by all cells (Holm).

    Intervals have the confidence at which the cell was judged.
    """
    found = [evidence(cell, tolerances) for cell in cells]
    judged = [e for e in found if e.judgeable(tolerances.confidence)]
    p_values = [min(e.margin.p_values().values()) for e in judged]
    levels = iter(holm_levels(p_values, 1 - tolerances.confidence))
    return [
        _judge(e, next(levels), tolerances) if e.judgeable(tolerances.confidence) else _undefined(e, tolerances)
        for e in found
    ]


def _judge(e: Evidence, level: float, tolerances: Tolerances) -> Verdict:
    classes = e.margin.class_at(level), e.accuracy.class_at(level)
    excess = e.flips_class(level, tolerances.flips)
    crosses_zero = _covers_zero(e.accuracy.value, level)
    word, decided_by = verdict_word(*classes, excess, crosses_zero)
    inconclusive = word == "INCONCLUSIVE"
    open_change = e.accuracy if decided_by == "accuracy" else e.margin
    reasons = _reasons(e, level, tolerances, classes, excess)
    verdict = Verdict(
        verdict=word,
        degree=_degree(e, level) if word == "DEGRADED" else None,
        decided_by=decided_by,
        redistribution=excess,
        n_needed=open_change.n_needed(level) if inconclusive else None,
        level=level,
        reasons=reasons,
        scope=SCOPE,
        sentence="",
    )
    return replace(verdict, sentence=sentence(verdict, reasons, e.cell.objective, e.cell.later))


def verdict_word(margin: Class, accuracy: Class, excess: Excess, accuracy_covers_zero: bool) -> tuple[Word, Quantity]:
    """The verdict, and which quantity decided it: `margin`, `accuracy` or `flips`."""
    moved: dict[Class, Word] = {"fell": "DEGRADED", "rose": "POSITIVE TRANSFER"}
    if margin in moved:
        opposed = accuracy in moved and accuracy != margin
        return ("MIXED" if opposed else moved[margin]), "margin"
    if margin == "unresolved":
        return "INCONCLUSIVE", "margin"
    if excess == "found":
        return "REDISTRIBUTED", "flips"
    if accuracy in moved:
        return moved[accuracy], "accuracy"
    if accuracy == "held" or accuracy_covers_zero:
        return "STABLE", "margin"
    return "INCONCLUSIVE", "accuracy"


def _covers_zero(change: Estimate, level: float) -> bool:
    low, high = change.interval(1 - 2 * level)
    return low <= 0 <= high


def _degree(e: Evidence, level: float) -> Literal["partial", "lost"]:
    return "partial" if e.retention.p_above(0) <= level else "lost"


def _reasons(
    e: Evidence, level: float, tolerances: Tolerances, classes: tuple[Class, Class], excess: Excess
) -> Reasons:
    confidence = 1 - 2 * level  # of the two-sided interval that agrees with one-sided tests at the level
    before, after, clusters = e.cell.before, e.cell.after, e.cell.panel.clusters
    margin_tolerance = tolerances.margin * e.gain.value
    return Reasons(
        gain=e.gain.record(tolerances.confidence),
        margin_before=mean(before.margin, clusters).value,
        margin_after=mean(after.margin, clusters).value,
        margin_change=_judged(e.margin, confidence, margin_tolerance, classes[0]),
        retention=e.retention.record(confidence),
        accuracy_before=mean(before.accuracy, clusters).value,
        accuracy_after=mean(after.accuracy, clusters).value,
        accuracy_change=_judged(e.accuracy, confidence, tolerances.accuracy, classes[1]),
        excess_flips=_excess_record(e, confidence, tolerances.flips, excess),
    )


def _judged(change: Change, confidence: float, tolerance: float, found: Class) -> Judged:
    return extended(change.value.record(confidence), Judged, tolerance=tolerance, class_=found)


def _excess_record(e: Evidence, confidence: float, tolerance: float, found: Excess) -> ExcessFlips | None:
    if e.excess_flips is None:
        return None
    more = {"tolerance": tolerance, "class_": found, "n_controls": len(e.cell.controls)}
    return extended(e.excess_flips.record(confidence), ExcessFlips, **more)


def _undefined(e: Evidence, tolerances: Tolerances) -> Verdict:
    why = (
        "nothing was learned that could be lost: the margin when taught is not above 0 with confidence, "
        "or its accuracy is not above one half"
        if e.defined
        else "some of the pairs have no finite log-probability"
    )
    return Verdict(
        verdict="UNDEFINED",
        degree=None,
        decided_by=None,
        redistribution="untested",
        n_needed=None,
        level=None,
        reasons=NothingLearned(
            gain=e.gain.record(tolerances.confidence),
            accuracy_when_taught=e.accuracy_when_taught.record(tolerances.confidence),
        ),
        scope=SCOPE,
        sentence=f"No verdict on {e.cell.objective}: {why}.",
    )
