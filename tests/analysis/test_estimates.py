"""Clustered means against hand arithmetic, statsmodels and the bootstrap."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from seqdpo.analysis.estimates import mean, ratio

RNG = np.random.default_rng(0)
PROMPTS = np.sort(RNG.integers(0, 60, 200))
CLUSTERS = np.unique(PROMPTS, return_inverse=True)[1]
VALUES = RNG.normal(1.0, 2.0, 200) + RNG.normal(0, 1.5, 60)[PROMPTS]


def test_a_clustered_mean_by_hand():
    """Prompts (1, 3) and (5,) and (7,): mean 4, residual sums -4, 1, 3: SE^2 = (16 + 1 + 9) / 16 * 3/2."""
    found = mean(np.array([1.0, 3.0, 5.0, 7.0]), np.array([0, 0, 1, 2]))
    assert found.value == 4
    assert found.se == pytest.approx(math.sqrt(26 / 16 * 1.5))
    assert (found.n, found.n_prompts) == (4, 3)
    low, high = found.interval(0.95)
    assert high - 4 == pytest.approx(4.302653 * found.se)  # t of 2 degrees of freedom, from a printed table
    assert 4 - low == pytest.approx(high - 4)


def test_a_clustered_mean_is_that_of_statsmodels():
    fit = sm.OLS(VALUES, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": CLUSTERS}, use_t=True)
    found = mean(VALUES, CLUSTERS)
    assert found.value == pytest.approx(fit.params[0])
    assert found.se == pytest.approx(fit.bse[0])
    np.testing.assert_allclose(found.interval(0.9), fit.conf_int(0.1)[0])


def test_pairs_of_their_own_prompts_give_the_textbook_t_interval():
    found = mean(VALUES, np.arange(200))
    expected = stats.t.interval(0.95, 199, VALUES.mean(), stats.sem(VALUES))
    np.testing.assert_allclose(found.interval(0.95), expected)
    test = stats.ttest_1samp(VALUES, 0.8, alternative="greater")
    assert found.p_above(0.8) == pytest.approx(test.pvalue)
    assert found.p_below(0.8) == pytest.approx(1 - test.pvalue)


def test_a_ratio_agrees_with_the_bootstrap_over_prompts():
    bottoms = 3 + RNG.normal(0, 1, 200) + RNG.normal(0, 0.5, 60)[PROMPTS]
    tops = 0.6 * bottoms + RNG.normal(0, 1, 200)
    found = ratio(tops, bottoms, CLUSTERS)
    top_sums, bottom_sums = np.bincount(CLUSTERS, tops), np.bincount(CLUSTERS, bottoms)
    drawn = RNG.integers(0, len(top_sums), (20_000, len(top_sums)))
    ratios = top_sums[drawn].sum(1) / bottom_sums[drawn].sum(1)
    assert found.value == pytest.approx(tops.sum() / bottoms.sum())
    # the bootstrap's SE has an error of 1/sqrt(2 * 20,000) = 0.5%, linearising and G/(G-1) about 2% at 60 prompts
    assert found.se == pytest.approx(ratios.std(), rel=0.05)


@pytest.mark.parametrize("factor", [2.0, 0.1])
def test_scaling_scales_and_shifting_shifts(factor):
    before, after = mean(VALUES, CLUSTERS), mean(factor * VALUES + 3, CLUSTERS)
    assert after.value == pytest.approx(factor * before.value + 3)
    assert after.se == pytest.approx(factor * before.se)


def test_the_order_of_the_pairs_and_the_numbers_of_the_prompts_do_not_matter():
    order = RNG.permutation(200)
    renamed = RNG.permutation(CLUSTERS.max() + 1)[CLUSTERS]
    assert mean(VALUES[order], renamed[order]).se == pytest.approx(mean(VALUES, CLUSTERS).se)


def test_what_is_undefined_is_null_and_supports_no_claim():
    for found in (mean(np.array([]), np.array([], dtype=int)), mean(np.array([1.0, math.nan]), np.array([0, 1]))):
        record = found.record(0.95)
        assert (record.value, record.low, record.high) == (None, None, None)
        assert found.p_above(0) == found.p_below(0) == 1
    one_prompt = mean(np.array([1.0, 3.0]), np.array([0, 0])).record(0.95)
    assert (one_prompt.value, one_prompt.low, one_prompt.n_prompts) == (2, None, 1)
    assert ratio(np.array([1.0]), np.array([0.0]), np.array([0])).record(0.95).value is None


def test_values_that_are_all_the_same_leave_no_doubt():
    found = mean(np.full(5, 0.3), np.arange(5))
    assert found.p_above(0.2) == 0
    assert found.p_above(0.4) == found.p_below(0.2) == 1
