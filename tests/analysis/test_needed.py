"""The number of pairs that is asked for settles four studies in five, if the change is what it looks like."""

import math

import numpy as np
import pytest
from scipy import stats

from seqdpo.analysis.claims import AccuracyChange, MarginChange
from seqdpo.analysis.estimates import Estimate
from seqdpo.analysis.needed import needed
from seqdpo.analysis.shares import ShareChange


def margin(change, se=1.0, n=400, tolerance=4.0):
    lower, value, upper = (Estimate(change + shift, se, n, n) for shift in (tolerance, 0.0, -tolerance))
    return MarginChange(value, lower, upper, n)


def accuracy(value=0.0, n=400.0, moved=0.1):
    up, down = (moved + value) / 2, (moved - value) / 2
    return AccuracyChange(ShareChange(value, int(n), int(n), up, down, n, n - 1), 0.02, n)


def test_a_loss_beyond_the_tolerance_by_hand():
    """2 errors beyond it at the one-sided level 0.01: ((2.326 + 0.842) / 2)^2 times as many."""
    found = needed(margin(-6.0), accuracy(), 0.01, 0.0001)
    expected = 400 * ((2.3263 + 0.8416) / 2) ** 2
    assert found.pairs == pytest.approx(expected, rel=0.04)  # 4,096 draws: 0.6% of the share, 2% of the pairs


def test_an_equivalence_has_two_sides_by_hand():
    """No change, tolerance of 1 error: both sides at 0.05 with a power of 80% in all, 90% each: (1.645 + 1.282)^2.

    The accuracy covers 0 in all but 2 * 0.0001 of the studies.
    """
    found = needed(margin(0.0, tolerance=1.0), accuracy(moved=0.3), 0.05, 0.0001)
    assert found.pairs == pytest.approx(400 * (1.6449 + stats.norm.ppf(0.9)) ** 2, rel=0.04)


def test_what_lies_at_the_tolerance_is_settled_by_no_number():
    assert needed(margin(-4.0), accuracy(), 0.01, 0.01) == (None, None)


def test_prompts_are_counted_beside_pairs():
    found = needed(margin(-6.0)._replace(value=Estimate(-6.0, 1.0, 400, 100)), accuracy(), 0.01, 0.0001)
    assert found.prompts == pytest.approx(found.pairs / 4, abs=1)


def test_an_accuracy_that_moved_a_little_has_to_be_settled_as_well():
    """1.5 points up: with ten times the pairs its interval leaves out 0 and not 2 points, and that is INCONCLUSIVE."""
    steady, moving = (needed(margin(0.0, tolerance=2.0), accuracy(value), 0.05, 0.05) for value in (0.0, 0.015))
    assert moving.pairs is None or moving.pairs > 3 * steady.pairs


def test_without_an_error_nothing_is_said():
    assert needed(margin(0.0, se=math.nan), accuracy(), 0.05, 0.05) == (None, None)
    assert np.isfinite(needed(margin(-6.0), accuracy(), 0.01, 0.01).pairs)
