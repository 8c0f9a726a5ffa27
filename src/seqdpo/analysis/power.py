"""What a design can show before anything is trained: the least change that it finds with a chance of 80%."""

import math

from scipy import optimize, special, stats

from seqdpo.analysis.needed import POWER

#: Of the lab, where a mean margin of 0.65 SDs (accuracy 0.74) and a correlation of 0.9 between runs were seen:
#: the SD of a pair's change, beside the tolerance, as a share of what was learned, and the share of pairs that flip.
ASSUMED_SPREAD = 0.67
ASSUMED_FLIPS = 0.116
ASSUMED = "pairs and runs as in the lab: a mean margin of 0.65 SDs, a correlation of 0.9 between two runs"


def smallest_loss(n_effective: float, tolerance: float, level: float) -> float:
    """The least share of what was learned whose loss is found; `n_effective` prompts, one-sided level."""
    return tolerance + _reach(level) * ASSUMED_SPREAD / math.sqrt(n_effective)


def smallest_accuracy_loss(n_effective: float, tolerance: float, level: float) -> float:
    """The least loss of accuracy that is found."""
    return tolerance + _reach(level) * math.sqrt(ASSUMED_FLIPS / n_effective)


def pairs_for_margin_tolerance(tolerance: float, level: float) -> int:
    """Independent pairs at which a margin that did not change is shown to lie within the tolerance, a share of what
    was learned: both one-sided tests at the level reject with a chance of 80%."""
    return math.ceil((_reach_of_both(level) * ASSUMED_SPREAD / tolerance) ** 2)


def pairs_for_accuracy_tolerance(tolerance: float, level: float) -> int:
    """The same of an accuracy."""
    return math.ceil(_reach_of_both(level) ** 2 * ASSUMED_FLIPS / tolerance**2)


def recipe_reach(n_seeds: int, n_controls: int, level: float) -> float | None:
    """The least change, in SDs of run noise, that is put down to the recipe at the two-sided level; None: none is.

    By the noncentral t distribution of the tests of `recipes.separation`; seeds are taken to differ by run noise alone.
    """
    if n_seeds == 1:
        df, se = n_controls - 1, math.sqrt(1 + 1 / n_controls) if n_controls else math.nan
    else:
        df, se = n_seeds - 1, math.sqrt((1 + (1 / n_controls if n_controls else 0.0)) / n_seeds)
    if df < 1 or (not n_controls and n_seeds < 3):
        return None
    limit = float(stats.t.isf(level / 2, df))
    found = optimize.brentq(lambda shift: _beyond(limit, df, shift / se) - POWER, 0.0, 10 * limit * se + 10)
    return float(found)


def _beyond(limit: float, df: int, shift: float) -> float:
    """The chance that a noncentral t lies above the limit."""
    return 1 - float(special.nctdtr(df, shift, limit))


def _reach(level: float) -> float:
    return float(stats.norm.isf(level) + stats.norm.ppf(POWER))


def _reach_of_both(level: float) -> float:
    """Each of two tests misses half as often as both together may."""
    return float(stats.norm.isf(level) + stats.norm.ppf((1 + POWER) / 2))
