"""Claims on one quantity: which of them its change supports, each with its p, before any level is chosen.

Classes of a change by one-sided tests against +-tolerance:
    fell       below -tolerance
    held       within the tolerance (two one-sided tests)
    rose       above +tolerance
    unresolved none of them at this level
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from seqdpo.analysis.cells import Cell
from seqdpo.analysis.estimates import Clusters, Estimate, effective_prompts, mean
from seqdpo.analysis.margins import Column
from seqdpo.analysis.schema import Class, Excess
from seqdpo.analysis.shares import ShareChange, share_change

C = TypeVar("C", Class, Excess)
Average = Callable[[Column, Clusters], Estimate]

#: With fewer prompts of equal size nothing is claimed: a t interval of two or three numbers holds for normal ones only.
FEWEST_PROMPTS = 5


class MarginChange(NamedTuple):
    """A change of a mean beside its tolerance, which may itself be a mean over the pairs."""

    value: Estimate
    above_lower: Estimate  # the change plus the tolerance: below 0 where it fell
    above_upper: Estimate  # the change less the tolerance: above 0 where it rose
    n_effective: float  # prompts

    def p_values(self) -> dict[Class, float]:
        """One-sided p of each class; a claim is made where it is at most the level."""
        least = _least(self.n_effective, self.value.se)
        return {
            "fell": max(least, self.above_lower.p_below(0)),
            "held": max(least, self.above_lower.p_above(0), self.above_upper.p_below(0)),
            "rose": max(least, self.above_upper.p_above(0)),
        }


class AccuracyChange(NamedTuple):
    value: ShareChange
    tolerance: float
    n_effective: float  # prompts

    def p_values(self) -> dict[Class, float]:
        least, value = _least(self.n_effective), self.value
        within = max(value.p_above(-self.tolerance), value.p_below(self.tolerance))
        return {
            "fell": max(least, value.p_below(-self.tolerance)),
            "held": max(least, within, unseen(value.n_effective, self.tolerance)),
            "rose": max(least, value.p_above(self.tolerance)),
        }


class ExcessOfFlips(NamedTuple):
    """Share of pairs that flipped, less that in the control stages."""

    value: ShareChange
    tolerance: float
    n_effective: float  # prompts

    def p_values(self) -> dict[Excess, float]:
        least = _least(self.n_effective)
        ruled_out = max(self.value.p_below(self.tolerance), unseen(self.value.n_effective, self.tolerance))
        return {"found": max(least, self.value.p_above(self.tolerance)), "ruled out": max(least, ruled_out)}


def margin_change(change: Column, tolerance: Column, cell: Cell) -> MarginChange:
    """All columns (n_pairs,)."""
    clusters = cell.panel.clusters
    own, lower, upper = (mean(column, clusters) for column in (change, change + tolerance, change - tolerance))
    return MarginChange(own, lower, upper, effective_prompts(clusters))


def accuracy_change(change: Column, tolerance: float, cell: Cell) -> AccuracyChange:
    return AccuracyChange(_share(change, cell), tolerance, effective_prompts(cell.panel.clusters))


def excess_of_flips(excess: Column, tolerance: float, cell: Cell) -> ExcessOfFlips:
    return ExcessOfFlips(_share(excess, cell), tolerance, effective_prompts(cell.panel.clusters))


def class_at(p_values: Mapping[C, float], level: float, otherwise: C) -> C:
    """The likeliest claim if its p is at most the level."""
    claim, p = min(p_values.items(), key=lambda item: item[1])
    return claim if p <= level else otherwise


def unseen(n_effective: float, tolerance: float) -> float:
    """The chance to see no change in so many prompts though a share `tolerance` of them changes: (1 - tolerance)^n.

    It is the least p that "held" and "ruled out" can have: below n = ln(level) / ln(1 - tolerance) neither is claimed.
    """
    return float((1 - tolerance) ** n_effective)


def _share(change: Column, cell: Cell) -> ShareChange:
    return share_change(change, cell.panel.clusters, cell.after.margin - cell.before.margin)


def _least(n_effective: float, se: float | None = None) -> float:
    """The least p that any claim on so few prompts can have: 1 below FEWEST_PROMPTS.

    `se` of 0: that all pairs agree is no certainty, see `unseen`; of their share that may differ one in fifty is asked.
    """
    if n_effective < FEWEST_PROMPTS - 1e-9:
        return 1.0
    return unseen(n_effective, 0.02) if se is not None and not se > 0 else 0.0


def nothing(clusters: Clusters) -> bool:
    """Whether there are too few prompts to claim anything."""
    return effective_prompts(clusters) < FEWEST_PROMPTS - 1e-9
