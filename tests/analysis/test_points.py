"""Estimates over points: means and sums by hand, the jackknife by an explicit loop, the interval by its inequality."""

import math

import numpy as np
import pytest
from scipy import stats

from seqdpo.analysis.points import UNKNOWN, average, cosine, total
from seqdpo.analysis.schema import to_json


def norm(one, other):
    return np.sqrt(np.maximum(one, 0) * np.maximum(other, 0))


def test_mean_and_sum_by_hand():
    """1, 2, 6, each a block: mean 3, SD sqrt((4 + 1 + 9) / 2) = sqrt(7)."""
    values = np.array([[1.0], [2.0], [6.0]])
    reach = stats.t.ppf(0.975, 2)
    found, whole = (of(values, np.arange(3)).record(0, 0.95) for of in (average, total))
    assert found.value == 3 and (found.n_points, found.n_blocks) == (3, 3)
    assert found.high == pytest.approx(3 + reach * math.sqrt(7 / 3))
    assert whole.value == 9
    assert whole.low == pytest.approx(9 - reach * math.sqrt(7 * 3))


def test_points_that_read_the_same_pairs_count_as_one():
    """Twice each of 1, 2, 6: what was read twice tells nothing new, so the mean and its interval are those above."""
    values = np.array([[1.0], [2.0], [6.0], [1.0], [2.0], [6.0]])
    found = average(values, np.array([0, 1, 2, 0, 1, 2])).record(0, 0.95)
    assert (found.value, found.n_points, found.n_blocks) == (3, 6, 3)
    assert found.high == pytest.approx(3 + stats.t.ppf(0.975, 2) * math.sqrt(7 / 3))


@pytest.mark.parametrize(("values", "blocks"), [([[2.0]], [0]), ([[2.0], [2.0]], [0, 0]), ([[2.0], [2.0]], UNKNOWN)])
def test_one_block_and_unknown_blocks_have_no_interval(values, blocks):
    blocks = np.array(blocks, dtype=np.int64)
    one = to_json(average(np.array(values), blocks).record(0, 0.95))
    assert (one["value"], one["low"], one["high"], one["n_points"]) == (2.0, None, None, len(values))
    column = np.array(values)
    both = to_json(cosine(norm, blocks, column / 2, column, column).record(0, 0.95))
    assert (both["value"], both["low"], both["high"]) == (0.5, None, None)


def test_the_interval_holds_what_an_explicit_jackknife_does_not_rule_out():
    """Every cosine of a fine grid, tested by the t of dot - cosine * norm, blocks left out one by one and the rest
    scaled up to five."""
    generator = np.random.default_rng(0)
    dot, one, other = generator.normal([[0.4, -0.2]] * 12, 0.3), *generator.normal(1, 0.3, (2, 12, 2))
    blocks = np.arange(12) % 5
    found = cosine(norm, blocks, dot, one, other)
    for group in (0, 1):
        left_out = []
        for block in range(5):
            a, b, c = (5 / 4 * column[blocks != block, group].sum() for column in (dot, one, other))
            left_out.append((a, math.sqrt(b * c)))
        a, b, c = (column[:, group].sum() for column in (dot, one, other))
        assert found.value[group] == pytest.approx(a / math.sqrt(b * c))
        kept = []
        for rho in np.linspace(-1, 1, 20001):
            each = [d - rho * n for d, n in left_out]
            se = math.sqrt(4 / 5 * sum((x - np.mean(each)) ** 2 for x in each))
            if abs(a - rho * math.sqrt(b * c)) <= stats.t.ppf(0.975, 4) * se:
                kept.append(rho)
        assert found.interval(group, 0.95) == (pytest.approx(min(kept), abs=2e-4), pytest.approx(max(kept), abs=2e-4))


def test_no_cosine_lies_beyond_one():
    """Dots of 3, 3, 3.3 over norms of 2, 2, 2: a ratio of 1.55."""
    found = cosine(norm, np.arange(3), np.array([[3.0], [3.0], [3.3]]), np.full((3, 1), 2.0), np.full((3, 1), 2.0))
    assert (found.value[0], found.interval(0, 0.95)) == (1.0, (1.0, 1.0))


def test_a_norm_that_may_be_none_rules_nothing_out():
    """One block carries all: without it the sum is below 0, and so is it in all."""
    for first, value in ((5.0, 1.0), (1.0, None)):
        one = np.array([[first], [-1.0], [-1.0]])
        found = cosine(norm, np.arange(3), np.full((3, 1), 9.0), one, np.ones((3, 1))).record(0, 0.95)
        assert (found.value, found.low, found.high) == (value, -1.0, 1.0)
