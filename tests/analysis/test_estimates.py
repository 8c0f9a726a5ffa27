"""Clustered means against hand arithmetic, statsmodels and the bootstrap."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from seqdpo.analysis.estimates import effective_prompts, mean, ratio

RNG = np.random.default_rng(0)
PROMPTS = np.sort(RNG.integers(0, 60, 200))
CLUSTERS = np.unique(PROMPTS, return_inverse=True)[1]
VALUES = RNG.normal(1.0, 2.0, 200) + RNG.normal(0, 1.5, 60)[PROMPTS]


def test_a_clustered_mean_by_hand():
    """Prompts (1, 3) and (5, 3) and (7, 5): mean 4, residual sums -4, 0, 4: SE^2 = 32 / 36 * 3/2."""
    found = mean(np.array([1.0, 3.0, 5.0, 3.0, 7.0, 5.0]), np.array([0, 0, 1, 1, 2, 2]))
    assert found.value == 4
    assert found.se == pytest.approx(math.sqrt(32 / 36 * 1.5))
    assert (found.n, found.n_prompts) == (6, 3)
    low, high = found.interval(0.95)
    assert high - 4 == pytest.approx(4.302653 * found.se)  # t of 2 degrees of freedom, from a printed table
    assert 4 - low == pytest.approx(high - 4)


def test_unequal_prompts_by_hand():
    """Prompts (1, 3) and (5,) and (7,): residual sums -4, 1, 3, over 1 - n_g/n = 1/2, 3/4, 3/4 before they are added.

    Degrees of freedom: n^2 / (sum n_g^2 + ((sum q)^2 - sum q^2) / n^2) with q = 4/(1/2), 1/(3/4), 1/(3/4).
    """
    found = mean(np.array([1.0, 3.0, 5.0, 7.0]), np.array([0, 0, 1, 2]))
    assert found.se == pytest.approx(math.sqrt((16 / 0.5 + 1 / 0.75 + 9 / 0.75) / 16))
    assert found.df == pytest.approx(16 / (6 + ((8 + 8 / 3) ** 2 - (64 + 32 / 9)) / 16))
    assert effective_prompts(np.array([0, 0, 1, 2])) == pytest.approx(16 / 6)


def test_unequal_prompts_are_the_matrices_of_bell_and_mccaffrey(slow_cr2):
    found = mean(VALUES, CLUSTERS)
    assert (found.value, found.se, found.df) == pytest.approx(slow_cr2(VALUES, CLUSTERS))
    assert found.df < len(set(CLUSTERS)) - 1


def test_intervals_over_few_unequal_prompts_hold_what_they_promise():
    """8 prompts of 1 to 30 pairs that are correlated by 0.5: 95% of 2,000 intervals, +- 3 errors of 0.5%."""
    generator = np.random.default_rng(1)
    covered = []
    for _ in range(2000):
        clusters = np.repeat(np.arange(8), generator.integers(1, 31, 8))
        values = generator.standard_normal(8)[clusters] + generator.standard_normal(len(clusters))
        low, high = mean(values, clusters).interval(0.95)
        covered.append(low <= 0 <= high)
    assert 0.93 < np.mean(covered) < 0.97


def test_a_mean_over_equal_prompts_is_that_of_statsmodels():
    clusters = np.repeat(np.arange(50), 4)
    fit = sm.OLS(VALUES, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    found = mean(VALUES, clusters)
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
    # the bootstrap's ends have an error of about 2% of the width, and it takes no t but normal quantiles: 4% at 60
    low, high = found.interval(0.95)
    assert high - low == pytest.approx(np.diff(np.quantile(ratios, [0.025, 0.975]))[0], rel=0.1)


def test_fieller_by_hand():
    """Tops 1, 2, 3 and bottoms 4, 5, 6 move together: all ratios r with (2 - 5 r)^2 <= t^2 (1 - r)^2 / 3."""
    found = ratio(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]), np.arange(3))
    c = 4.302653 / math.sqrt(3)  # t of 2 degrees of freedom
    assert found.interval(0.95) == pytest.approx(((2 - c) / (5 - c), (2 + c) / (5 + c)))


def test_a_ratio_to_what_may_be_nothing_has_no_interval():
    """Bottoms of mean 5 and SD 20: t = 5 / (20 / sqrt(3)) < 4.3."""
    found = ratio(np.array([1.0, 2.0, 3.0]), np.array([-15.0, 5.0, 25.0]), np.arange(3))
    assert found.value == pytest.approx(0.4)
    assert np.isnan(found.interval(0.95)).all()


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
