"""Shift, scale and scatter: planted ones are found, and run noise in the margins before is not taken for them."""

import math

import numpy as np
import pytest
from scipy import stats

from seqdpo.analysis.cells import cells
from seqdpo.analysis.schema import to_json
from seqdpo.analysis.shape import decomposition, instrumented_line, shape_record, trimmed_mean

N = 4000
RNG = np.random.default_rng(0)
TRUE = 2 + RNG.standard_normal(N)


def run(noise=0.4):
    return TRUE + noise * RNG.standard_normal(N)


BEFORE, CONTROLS = run(), [run() for _ in range(4)]


def of(make_panel, after):
    margins = {(1, 0): BEFORE, (2, 0): after} | {(2, k): one for k, one in enumerate(CONTROLS, 1)}
    (cell,) = cells([make_panel(margins)])
    return cell, decomposition(cell)


def test_no_change_is_a_line_through_zero_though_run_noise_flattens_the_plain_one(make_panel):
    _, found = of(make_panel, run())
    assert found.scale.value == pytest.approx(1, abs=0.03)  # three errors of 0.4 sqrt(1.25) / sqrt(4000)
    assert found.shift.value == pytest.approx(0, abs=0.07)
    # the plain slope is the reliability: 1 / (1 + 0.4^2)
    assert found.of_runs.scale.real[0] == pytest.approx(1 / 1.16, abs=0.03)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 0.7), (-0.5, 1.0), (1.0, 0.5)])
def test_a_planted_line_is_found(make_panel, shift, scale):
    _, found = of(make_panel, shift + scale * run())
    assert found.scale.value == pytest.approx(scale, abs=0.04)
    assert found.shift.value == pytest.approx(shift, abs=0.08)
    low, high = found.scale.interval(0.999)
    assert low < scale < high


def test_more_scatter_than_in_the_control_stages_is_found(make_panel):
    """Residual variance of a run on another: 0.16 (1 + 1 / 1.16); with 0.6^2 on top."""
    cell, found = of(make_panel, run() + 0.6 * RNG.standard_normal(N))
    assert found.scatter == pytest.approx(math.sqrt(0.16 * (1 + 1 / 1.16) + 0.36), rel=0.03)
    assert found.of_runs.p("scatter") < 0.001
    record = to_json(shape_record(cell, found, 0.95))["scatter"]
    assert record["in_controls"] == pytest.approx(math.sqrt(0.16 * (1 + 1 / 1.16)), rel=0.03)
    less = of(make_panel, TRUE)[1].of_runs
    assert less.p("scatter") > 0.9  # less scatter is no shuffling


def test_the_line_by_hand():
    """Instrument -1, 0, 1; y rises by 4 over it, x by 2: slope 2, and mean y 3 - 2 * mean x 1."""
    shift, scale = instrumented_line(
        np.array([1.0, 3.0, 5.0]), np.array([0.0, 1.0, 2.0]), np.array([-1.0, 0.0, 1.0]), np.arange(3)
    )
    assert (shift.value, scale.value) == pytest.approx((1.0, 2.0))


def test_a_trimmed_mean_is_that_of_scipy_and_leaves_out_far_pairs():
    values = np.append(RNG.standard_normal(99), 1e6)
    found = trimmed_mean(values, np.arange(100))
    assert found.value == pytest.approx(stats.trim_mean(values, 0.1))
    # Yuen: SD of the winsorised values over (1 - 2 * 0.1) sqrt(n)
    winsorised = np.asarray(stats.mstats.winsorize(values, (0.1, 0.1)))
    assert found.se == pytest.approx(winsorised.std(ddof=1) / (0.8 * 10))
