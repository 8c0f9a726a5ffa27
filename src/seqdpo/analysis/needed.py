"""How many pairs would settle an open verdict, if the changes are what they look like."""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from seqdpo.analysis.claims import FEWEST_PROMPTS, AccuracyChange, MarginChange
from seqdpo.analysis.margins import Column

#: The chance with which that many pairs would settle the question.
POWER = 0.8
#: Beyond this multiple of the pairs at hand the change lies at the tolerance itself, and no number settles it.
MOST_TIMES_MORE = 100.0
#: Studies that are drawn for each number of pairs: the share has an error of 0.6%.
DRAWS = 4096


class Needed(NamedTuple):
    """With as many pairs for every prompt as now; None where no reasonable number would do."""

    pairs: int | None
    prompts: int | None


def needed(margin: MarginChange, accuracy: AccuracyChange, level: float, accuracy_level: float) -> Needed:
    """The least number of pairs at which the rule, by normal draws around the changes as they are, says something.

    All of it is asked: both sides of an equivalence, and that an accuracy which is left open covers 0.
    """
    n, prompts = margin.value.n, margin.value.n_prompts
    least = max(1.0, FEWEST_PROMPTS / max(margin.n_effective, 1e-9))
    if not (math.isfinite(margin.value.se) and accuracy.value.n_effective > 0):
        return Needed(None, None)
    if _settled(margin, accuracy, level, accuracy_level, least * MOST_TIMES_MORE) < POWER:
        return Needed(None, None)
    low, high = math.log(least), math.log(least * MOST_TIMES_MORE)
    while high - low > 0.005:  # half a percent of the pairs
        middle = (low + high) / 2
        enough = _settled(margin, accuracy, level, accuracy_level, math.exp(middle)) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return Needed(math.ceil(n * math.exp(high)), math.ceil(prompts * math.exp(high)))


def _settled(
    margin: MarginChange, accuracy: AccuracyChange, level: float, accuracy_level: float, times: float
) -> float:
    """The share of studies with `times` as many prompts in which the verdict would not be INCONCLUSIVE."""
    of_margin, of_accuracy = _draws() / math.sqrt(times)
    reach, reach_of_accuracy = -float(special.ndtri(level)), -float(special.ndtri(accuracy_level))
    lower, upper = (one.value / one.se + of_margin if one.se > 0 else _sure(one.value) for one in margin[1:3])
    limit = reach / math.sqrt(times)
    moved = (lower < -limit) | (upper > limit)
    held = (lower > limit) & (upper < -limit)
    value, tolerance, se = accuracy.value.value, accuracy.tolerance, _share_error(accuracy)
    found = value + se * of_accuracy
    beyond = reach_of_accuracy * se / math.sqrt(times)
    accuracy_moved = (np.abs(found) - tolerance) > beyond
    accuracy_steady = (np.abs(found) <= beyond) | (np.abs(found) + beyond < tolerance)
    return float(np.mean(moved | accuracy_moved | (held & accuracy_steady)))


def _share_error(accuracy: AccuracyChange) -> float:
    """Of the change of accuracy as it is; where no pair changed, that of one pair that would."""
    value = accuracy.value
    moved = max(value.up + value.down, 1 / value.n)
    return math.sqrt(max(moved - value.value**2, 0.0) / value.n_effective)


def _sure(value: float) -> float:
    return math.copysign(math.inf, value) if value else 0.0


@cache
def _draws() -> NDArray[np.float64]:
    """Standard normal numbers for margin and accuracy, which are drawn as if they had nothing to do with each other."""
    drawn: Column = np.random.default_rng(0).standard_normal((2, DRAWS))
    return drawn
