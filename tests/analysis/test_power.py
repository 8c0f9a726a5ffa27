"""What a design can show, against draws of the very tests."""

import numpy as np
import pytest

from seqdpo.analysis.power import recipe_reach, smallest_accuracy_loss, smallest_loss
from seqdpo.analysis.recipes import Runs, separation


@pytest.mark.parametrize(("n_seeds", "n_controls"), [(1, 4), (1, 8), (3, 1), (5, 0)])
def test_the_reach_of_a_design_is_found_in_four_of_five_draws(n_seeds, n_controls):
    generator = np.random.default_rng(0)
    shift, found = recipe_reach(n_seeds, n_controls, 0.05), 0
    for _ in range(2000):
        real = shift + generator.standard_normal(n_seeds)
        controls = generator.standard_normal((n_seeds, n_controls))
        found += separation(Runs(list(real), [list(one) for one in controls])).p <= 0.05
    assert found / 2000 == pytest.approx(0.8, abs=0.027)  # three errors of 0.9%


@pytest.mark.parametrize(("n_seeds", "n_controls"), [(1, 0), (1, 1), (2, 0)])
def test_a_design_that_tests_nothing_reaches_nothing(n_seeds, n_controls):
    assert recipe_reach(n_seeds, n_controls, 0.05) is None


def test_the_smallest_losses_by_hand():
    """(1.645 + 0.842) * 0.67 / sqrt(400) = 0.0833, and (1.645 + 0.842) * sqrt(0.116 / 400) = 0.0423."""
    assert smallest_loss(400, 0.1, 0.05) == pytest.approx(0.1833, abs=1e-4)
    assert smallest_accuracy_loss(400, 0.02, 0.05) == pytest.approx(0.0623, abs=1e-4)
