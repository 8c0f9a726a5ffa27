"""Score tests of changes of shares: by hand, by the likelihood itself, and where nothing changes."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from seqdpo.analysis.estimates import mean
from seqdpo.analysis.shares import share_change, tango_z


def slow_z(up, down, n, bound):
    """The score statistic with the likeliest share "down" found by maximising the likelihood of the three counts."""

    def surprise(q):
        shares = ((up, q + bound), (down, q), (n - up - down, 1 - 2 * q - bound))
        return -sum(count * math.log(max(share, 1e-300)) for count, share in shares if count)

    inside = (max(0.0, -bound) + 1e-12, (1 - bound) / 2 - 1e-12)
    q = optimize.minimize_scalar(surprise, bounds=inside, method="bounded", options={"xatol": 1e-12}).x
    return (up - down - n * bound) / math.sqrt(n * (2 * q + bound - bound**2))


COUNTS = [(12, 4, 50, 0.02), (0, 0, 200, 0.02), (0, 0, 200, -0.02), (3, 9, 44, -0.3), (5, 0, 30, 0.4), (0, 5, 30, 0.4)]


@pytest.mark.parametrize("counts", COUNTS)
def test_the_statistic_is_that_of_the_likelihood(counts):
    assert tango_z(*counts) == pytest.approx(slow_z(*counts), abs=1e-6)  # the slow one stops at 1e-12 of a share


def test_the_interval_holds_what_the_test_does_not_reject():
    """Of 50 pairs 12 go up and 2 down; at both ends the slow statistic is t of 49 degrees of freedom, 2.0096."""
    change = np.array([1.0] * 12 + [-1.0] * 2 + [0.0] * 36)
    low, high = share_change(change, np.arange(50), change).interval(0.95)
    assert (slow_z(12, 2, 50, low), slow_z(12, 2, 50, high)) == pytest.approx((2.00958, -2.00958), abs=1e-4)
    assert low < 0.2 < high


def test_no_change_at_all_is_no_certainty():
    """Of 30 pairs none changes: z of "2 points more" is sqrt(30 0.02 / 0.98) = 0.78, which rules out nothing."""
    found = share_change(np.zeros(30), np.arange(30), np.zeros(30))
    assert found.p_below(0.02) == pytest.approx(stats.t.sf(math.sqrt(30 * 0.02 / 0.98), 29))
    low, high = found.interval(0.95)
    assert low == pytest.approx(-high) and 0.1 < high < 0.2


def test_many_changes_give_the_clustered_t_interval():
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(1500), 2)
    change = generator.choice([-1.0, 0.0, 1.0], 1500, p=[0.1, 0.7, 0.2])[clusters]
    found, plain = share_change(change, clusters, change), mean(change, clusters)
    assert found.n_effective == pytest.approx(1500, rel=0.01)  # both pairs of a prompt say the same
    assert found.interval(0.9) == pytest.approx(plain.interval(0.9), abs=0.002)  # of order 1/n


def test_where_few_prompts_change_their_pairs_count_as_those_of_the_companion():
    """Three of 50 prompts change, one pair each; the companion is the same in all four pairs of a prompt."""
    clusters = np.repeat(np.arange(50), 4)
    change = np.where(np.isin(np.arange(200), [0, 40, 80]), -1.0, 0.0)
    companion = np.random.default_rng(0).standard_normal(50)[clusters]
    assert share_change(change, clusters, companion).n_effective == pytest.approx(50, rel=0.02)
    assert share_change(change, clusters, np.zeros(200)).n_effective == pytest.approx(50)  # no spread: prompts


def test_parts_of_a_change_count_as_more_than_whole_ones():
    """Half a flip in each of 40 of 100 pairs, over two control stages: (0.2 - 0.04) / (0.1 - 0.04) times as many."""
    change = np.repeat([0.5, 0.0], [40, 60])
    assert share_change(change, np.arange(100), change).n_effective == pytest.approx(100 * 0.16 / 0.06)


def test_what_is_undefined_supports_no_claim():
    found = share_change(np.array([1.0, math.nan]), np.arange(2), np.zeros(2))
    assert found.p_above(0) == found.p_below(0) == 1
    assert np.isnan(found.interval(0.95)).all()
