"""Estimates over points: the jackknife by an explicit loop, means and sums by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from seqdpo.analysis.points import average, jackknife, total
from seqdpo.analysis.schema import to_json


def cosine(dot, one, other):
    both = np.where((one > 0) & (other > 0), one * other, np.nan)
    return dot / np.sqrt(both)


def test_mean_and_sum_by_hand():
    """1, 2, 6: mean 3, SD sqrt((4 + 1 + 9) / 2) = sqrt(7)."""
    values = np.array([[1.0], [2.0], [6.0]])
    reach = stats.t.ppf(0.975, 2)
    found, whole = average(values).record(0, 0.95), total(values).record(0, 0.95)
    assert found.value == 3 and found.n_points == 3
    assert found.high == pytest.approx(3 + reach * math.sqrt(7 / 3))
    assert whole.value == 9
    assert whole.low == pytest.approx(9 - reach * math.sqrt(7 * 3))


def test_one_point_has_no_interval():
    assert to_json(average(np.array([[2.0]])).record(0, 0.95)) == {
        "value": 2.0,
        "low": None,
        "high": None,
        "confidence": 0.95,
        "n_points": 1,
    }


def test_jackknife_equals_an_explicit_loop():
    generator = np.random.default_rng(0)
    dot, one, other = generator.normal(1, 0.3, (3, 7, 2))
    found = jackknife(cosine, dot, one, other)
    for group in (0, 1):
        left_out = []
        for k in range(7):
            kept = [i for i in range(7) if i != k]
            a, b, c = (column[kept, group].sum() for column in (dot, one, other))
            left_out.append(a / math.sqrt(b * c))
        se = math.sqrt(6 / 7 * sum((x - np.mean(left_out)) ** 2 for x in left_out))
        assert found.se[group] == pytest.approx(se)
        a, b, c = (column[:, group].sum() for column in (dot, one, other))
        assert found.value[group] == pytest.approx(a / math.sqrt(b * c))


def test_undefined_without_one_of_the_points_is_undefined():
    """The sum 1 + 1 - 0.5 is above 0, but not without one of the ones and... 1 - 0.5 is; without both it is not asked.

    Here one point carries all: without it the sum is below 0.
    """
    one = np.array([[5.0], [-1.0], [-1.0]])
    found = jackknife(cosine, np.ones((3, 1)), one, np.ones((3, 1))).record(0, 0.95)
    assert (found.value, found.low, found.high) == (None, None, None)
