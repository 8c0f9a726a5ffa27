"""Holm's procedure and the false discovery rate, by hand and against statsmodels and scipy."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from seqdpo.analysis.multiplicity import benjamini_hochberg, holm, holm_levels


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.03, None, 0.01], [0.03, None, 0.02]),  # the smaller times 2
        ([0.02, 0.03, 0.4], [0.06, 0.06, 0.4]),  # 0.03 * 2, not below the one before: 0.02 * 3 = 0.06
        ([0.02, 0.021], [0.04, 0.04]),  # 0.021 would be below the one before
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.9, 0.8], [1, 1]),
        ([None], [None]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


@pytest.mark.parametrize("seed", range(20))
def test_testing_at_holms_levels_rejects_what_statsmodels_rejects(seed):
    p_values = np.random.default_rng(seed).beta(0.3, 3, 7).tolist()
    rejected = [p <= level for p, level in zip(p_values, holm_levels(p_values, 0.05), strict=True)]
    assert rejected == multipletests(p_values, 0.05, method="holm")[0].tolist()


def test_holms_levels_by_hand():
    """0.01 <= 0.05/3 passes, 0.03 > 0.05/2 fails, and the rest share its level."""
    assert holm_levels([0.2, 0.01, 0.03], 0.05) == pytest.approx([0.025, 0.05 / 3, 0.025])
    assert holm_levels([], 0.05) == []


def test_benjamini_and_hochberg_by_hand():
    """0.04 * 3 / 3 = 0.04, 0.03 * 3 / 2 = 0.045 but not above the next, 0.01 * 3."""
    assert benjamini_hochberg([0.03, None, 0.01, 0.04]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert benjamini_hochberg([0.6, 0.6]) == [0.6, 0.6]
    assert benjamini_hochberg([]) == []
