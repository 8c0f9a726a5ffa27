"""Averages over objectives: every objective counts the same, and shared prompts are not counted twice."""

import math

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
from scipy import stats

from seqdpo.analysis.averages import average, by_split, joint_clusters, worst_objective
from seqdpo.analysis.estimates import Estimate, mean
from seqdpo.analysis.panel import panels
from seqdpo.analysis.schema import to_json

RNG = np.random.default_rng(0)


def test_objectives_count_the_same_whatever_their_size():
    """Means 2 (of three pairs) and 8 (of one)."""
    found = average([np.array([1.0, 2.0, 3.0]), np.array([8.0])], [np.array([0, 1, 2]), np.array([3])])
    assert (found.value, found.n) == (5, 4)
    assert math.isnan(found.se)  # a single prompt says nothing of its objective's spread


def test_without_shared_prompts_the_variances_add_up_by_hand():
    """Of 1, 3: variance of the mean 2 / 2 = 1; of 0, 3, 6: 9 / 3 = 3. Together (1 + 3) / 2^2 = 1."""
    found = average([np.array([1.0, 3.0]), np.array([0.0, 3.0, 6.0])], [np.array([0, 1]), np.array([2, 3, 4])])
    assert found.value == 2.5
    assert found.se == pytest.approx(1)
    low, high = found.interval(0.95)
    assert (high - low) / 2 == pytest.approx(12.706205)  # the smaller objective has 1 degree of freedom


def test_with_all_prompts_shared_it_is_the_mean_of_the_prompts_averages():
    one = RNG.normal(1, 2, 50)
    other = -0.8 * one + RNG.normal(0, 1, 50)
    order = RNG.permutation(50)  # the second objective lists the prompts otherwise
    found = average([one, other[order]], [np.arange(50), order])
    expected = stats.t.interval(0.9, 49, ((one + other) / 2).mean(), stats.sem((one + other) / 2))
    np.testing.assert_allclose(found.interval(0.9), expected)


def test_with_some_prompts_shared_it_is_the_contrast_of_statsmodels():
    """Least squares on a column for each objective, clustered; both have 30 prompts, 10 of them in common."""
    clusters = [np.repeat(np.arange(30), 2), np.repeat(np.arange(20, 50), 3)]
    of_prompt = RNG.normal(0, 2, 50)
    values = [of_prompt[own] + RNG.normal(0, 1, len(own)) for own in clusters]
    design = np.repeat(np.eye(2), [60, 90], axis=0)
    fit = sm.OLS(np.concatenate(values), design).fit(
        cov_type="cluster", cov_kwds={"groups": np.concatenate(clusters), "use_correction": False}
    )
    contrast = fit.t_test([[0.5, 0.5]])
    found = average(values, clusters)
    assert found.value == pytest.approx(contrast.effect[0])
    assert found.se == pytest.approx(contrast.sd.item() * math.sqrt(30 / 29))
    apart = average(values, [clusters[0], clusters[1] + 100])
    assert found.se > 1.1 * apart.se  # what shared prompts have in common does not average out


def test_the_average_of_one_objective_is_its_mean():
    values, clusters = RNG.normal(0, 1, 40), np.repeat(np.arange(20), 2)
    ours, expected = average([values], [clusters]), mean(values, clusters)
    assert (ours.value, ours.n, ours.n_prompts) == (expected.value, 40, 20)
    assert ours.se == pytest.approx(expected.se)


def test_an_undefined_objective_leaves_the_average_undefined():
    found = average([np.array([1.0, math.nan]), np.array([1.0, 2.0])], [np.array([0, 1]), np.array([2, 3])])
    assert math.isnan(found.value)
    assert math.isnan(found.se)


@pytest.mark.parametrize("encoded", [False, True])
def test_prompts_are_numbered_across_objectives(make_scores, score_rows, encoded):
    scores = make_scores(
        score_rows({(1, 0): [1.0, 2.0]}, objective="a"), score_rows({(1, 0): [3.0, 4.0, 5.0]}, objective="b")
    )
    prompts = pa.array(["x", "y", "y", "z", "y"])
    pairs = pa.table(
        {
            "objective": ["a", "a", "b", "b", "b"],
            "split": ["eval"] * 5,
            "pair_id": ["a0", "a1", "b0", "b1", "b2"],
            "prompt_id": prompts.dictionary_encode() if encoded else prompts,
        }
    )
    a, b = joint_clusters(panels(scores, pairs))
    assert a[0] != a[1]
    assert a[1] == b[0] == b[2]
    assert len({*a, *b}) == 3


def test_without_prompts_pairs_of_the_same_id_are_one(make_scores, score_rows):
    both = [score_rows({(1, 0): [1.0, 2.0]}, objective=name) for name in "ab"]
    both[1][0]["pair_id"] = both[1][2]["pair_id"] = "a1"  # at the base and after stage 1
    a, b = joint_clusters(panels(make_scores(*both)))
    assert a[1] == b[0]
    assert len({*a, *b}) == 3


def test_panels_are_grouped_by_split(make_scores, score_rows):
    train = [{**row, "split": "train"} for row in score_rows({(1, 0): [1.0]}, objective="a")]
    scores = make_scores(*(score_rows({(1, 0): [1.0]}, objective=name) for name in "ab"), train)
    assert {split: [panel.objective for panel in group] for split, group in by_split(panels(scores)).items()} == {
        "eval": ["a", "b"],
        "train": ["a"],
    }


def test_the_worst_objective_is_named_with_its_own_interval():
    scores = {"a": Estimate(2.0, 0.5, 40, 30), "b": Estimate(-1.0, 0.25, 8, 2)}
    found = to_json(worst_objective(scores, 0.95))
    expected = {"value": -1, "low": -1 - 0.25 * 12.706205, "high": -1 + 0.25 * 12.706205, "n": 8, "n_prompts": 2}
    assert found.pop("objective") == "b"
    assert found == pytest.approx(expected)


def test_there_is_no_worst_objective_where_one_is_unknown():
    assert (
        to_json(worst_objective({"a": Estimate(2.0, 0.5, 40, 30), "b": Estimate(math.nan, math.nan, 8, 2)}, 0.95))
        is None
    )
    assert to_json(worst_objective({}, 0.95)) is None
