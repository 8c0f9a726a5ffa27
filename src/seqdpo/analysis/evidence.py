"""Everything that the rule of the verdicts looks at, for one cell."""

import math
from dataclasses import dataclass

import numpy as np

from seqdpo.analysis.cells import Cell
from seqdpo.analysis.changes import flipped
from seqdpo.analysis.claims import (
    AccuracyChange,
    ExcessOfFlips,
    MarginChange,
    accuracy_change,
    excess_of_flips,
    margin_change,
)
from seqdpo.analysis.estimates import Estimate, Ratio, mean, ratio
from seqdpo.analysis.margins import Column, PairScores, share_above_zero
from seqdpo.analysis.schema import Tolerances
from seqdpo.analysis.shape import Decomposition, decomposition

#: What the base does counts as something that can be lost where it is above chance at this one-sided level.
LEVEL_OF_BASE = 0.025


@dataclass(frozen=True, slots=True)
class OfBase:
    """What the policy itself prefers, beside what the base did."""

    margin_of_base: Estimate  # mean log-probability of the chosen less that of the rejected response, nats
    ranking_accuracy: AccuracyChange
    margin: MarginChange | None  # that difference; None where the base had none that could be lost

    def p_below(self) -> float:
        """One-sided p of "nothing that the base could do is lost": two tests, so twice the lower p."""
        p_values = [self.ranking_accuracy.p_values()["fell"]]
        if self.margin is not None:
            p_values.append(self.margin.p_values()["fell"])
        return min(1.0, len(p_values) * min(p_values))


@dataclass(frozen=True, slots=True)
class Evidence:
    cell: Cell
    gain: Estimate  # mean margin when taught: what was learned
    accuracy_when_taught: Estimate
    margin: MarginChange
    accuracy: AccuracyChange
    after: Estimate  # mean margin after
    after_beyond_tolerance: Estimate  # that less the tolerance: below 0 where no more than the tolerance is left
    retention: Ratio  # mean margin after / when taught
    flips: ExcessOfFlips | None  # None without control stages
    shape: Decomposition
    base: OfBase

    @property
    def defined(self) -> bool:
        return math.isfinite(self.gain.value) and math.isfinite(self.margin.value.value)

    def claims(self) -> dict[str, float]:
        """The lowest p of each quantity on which something may be claimed: one family for Holm."""
        p_values = {
            "margin": min(self.margin.p_values().values()),
            "accuracy": min(self.accuracy.p_values().values()),
            "base": self.base.p_below(),
        }
        if self.flips is not None:
            p_values["flips"] = min(self.flips.p_values().values())
        of_runs = {name: self.shape.of_runs.p(name) for name in ("scale", "scatter")}
        return p_values | {name: p for name, p in of_runs.items() if not math.isnan(p)}


def evidence(cell: Cell, tolerances: Tolerances) -> Evidence:
    """The estimates of a cell; all of its pairs, clustered by prompt."""
    clusters = cell.panel.clusters
    before, after = cell.before.margin, cell.after.margin
    taught, left = cell.when_taught.learned, cell.after.learned
    tolerance = tolerances.margin * taught
    excess = _excess_flips(cell)
    return Evidence(
        cell=cell,
        gain=mean(taught, clusters),
        accuracy_when_taught=mean(cell.when_taught.accuracy, clusters),
        # the tolerance is a share of a mean over the same pairs, so that its own uncertainty is in the test
        margin=margin_change(after - before, tolerance, cell),
        accuracy=accuracy_change(cell.after.accuracy - cell.before.accuracy, tolerances.accuracy, cell),
        after=mean(left, clusters),
        after_beyond_tolerance=mean(left - tolerance, clusters),
        retention=ratio(left, taught, clusters),
        flips=None if excess is None else excess_of_flips(excess, tolerances.flips, cell),
        shape=decomposition(cell),
        base=_of_base(cell, tolerances),
    )


def ranking_accuracies(scores: PairScores) -> tuple[Column, Column]:
    """Of the policy and of the base: 1 where it prefers the chosen response, 1/2 at a tie, else 0; (n_pairs,) each."""
    return scores.ranking_accuracy, share_above_zero(scores.base_chosen_logp - scores.base_rejected_logp)


def _of_base(cell: Cell, tolerances: Tolerances) -> OfBase:
    after, clusters = PairScores(*cell.after), cell.panel.clusters  # in nats, whatever measure the cell is in
    of_policy, of_base = ranking_accuracies(after)
    base_margin = after.base_chosen_logp - after.base_rejected_logp
    found, accuracy = mean(base_margin, clusters), mean(of_base, clusters)
    can_be_lost = found.p_above(0) <= LEVEL_OF_BASE and accuracy.p_above(0.5) <= LEVEL_OF_BASE
    return OfBase(
        margin_of_base=found,
        ranking_accuracy=accuracy_change(of_policy - of_base, tolerances.accuracy, cell),
        margin=margin_change(after.margin, tolerances.margin * base_margin, cell) if can_be_lost else None,
    )


def _excess_flips(cell: Cell) -> Column | None:
    before, controls = cell.before.margin, cell.controls
    if not controls:
        return None
    in_controls = np.mean([flipped(before, control.margin) for control in controls], axis=0)
    excess: Column = flipped(before, cell.after.margin) - in_controls
    return excess
