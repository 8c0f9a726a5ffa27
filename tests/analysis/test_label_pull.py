"""What new labels ask of a policy: numbers by hand, and a plain grid as the slow oracle."""

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import optimize

from seqdpo.analysis.label_pull import (
    Judged,
    label_conflicts,
    label_slope,
    opposed,
    opposed_by_slice,
    opposition_strength,
)

BETA = 0.3


def test_the_share_opposed_counts_a_tie_as_half_and_the_strength_only_the_opposed() -> None:
    margins = np.array([2.0, -1.0, -3.0, 0.0, 5.0])
    clusters = np.arange(5)
    found = opposed(margins, clusters, 0.95)
    assert found.value == pytest.approx(2.5 / 5)
    assert opposed(np.array([-1.0] * 5), clusters, 0.95).high == pytest.approx(1)  # no share is above one
    assert opposition_strength(margins, clusters).value == pytest.approx((1 + 3) / 2)
    assert math.isnan(opposition_strength(np.array([1.0, 2.0]), np.arange(2)).value)


@pytest.mark.parametrize(("right", "wrong"), [(30, 10), (20, 20), (5, 35)])
def test_the_slope_of_margins_of_one_size_is_the_log_odds_of_agreement(right: int, wrong: int) -> None:
    """All |m| = 2: sigmoid(a beta 2) must be the share that agrees, so a = logit(share) / (2 beta)."""
    margins = np.array([2.0] * right + [-2.0] * wrong)
    found = label_slope(margins, BETA, np.arange(40))
    assert found.value == pytest.approx(math.log(right / wrong) / (2 * BETA), abs=1e-8)
    # information n x^2 p q, squared scores add up to n x^2 p q, too, at the optimum: var = G/(G-1) / (n x^2 p q)
    p = right / 40
    assert found.se == pytest.approx(math.sqrt(40 / 39 / (40 * (2 * BETA) ** 2 * p * (1 - p))))


def test_the_slope_is_the_least_loss_of_a_scaled_policy() -> None:
    margins = np.random.default_rng(1).normal(0.5, 4, 300)
    loss = optimize.minimize_scalar(
        lambda a: np.logaddexp(0, -a * BETA * margins).sum(), bounds=(-9, 9), method="bounded", options={"xatol": 1e-9}
    )
    assert label_slope(margins, BETA, np.arange(300)).value == pytest.approx(loss.x, abs=1e-6)


def test_labels_drawn_as_the_margins_claim_have_slope_one() -> None:
    """A planted truth: the labels that a control stage draws do not pull."""
    draw = np.random.default_rng(0)
    differences = draw.normal(0, 5, 20_000)
    kept = draw.random(20_000) < 1 / (1 + np.exp(-BETA * differences))
    found = label_slope(np.where(kept, differences, -differences), BETA, np.arange(20_000))
    low, high = found.interval(0.99)
    assert low < 1 < high
    assert high - low < 0.2


def test_the_slope_counts_pairs_of_one_prompt_as_one() -> None:
    """Every pair four times under one prompt tells no more than once."""
    margins = np.random.default_rng(2).normal(1, 4, 50)
    once = label_slope(margins, BETA, np.arange(50))
    four = label_slope(np.repeat(margins, 4), BETA, np.repeat(np.arange(50), 4))
    assert four.value == pytest.approx(once.value)
    assert four.se == pytest.approx(once.se)


@pytest.mark.parametrize("margins", [[1.0, 2.0], [-1.0, -2.0], [0.0, 3.0], []])
def test_where_all_labels_agree_there_is_no_slope(margins: list[float]) -> None:
    assert math.isnan(label_slope(np.array(margins), BETA, np.arange(len(margins))).value)


def test_slices_come_with_the_most_opposed_first_and_small_ones_are_left_out() -> None:
    metadata = pa.table(
        {
            "chosen_tokens": [5] * 8,
            "rejected_tokens": [5] * 8,
            "slice_topic": ["tea"] * 3 + ["soup"] * 3 + ["salt"] * 2,
        }
    )
    margins = np.array([-1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0])
    found = opposed_by_slice(metadata, margins, np.arange(8), fewest=3, confidence=0.95)
    assert [(one.column, one.value) for one in found] == [("slice_topic", "tea"), ("slice_topic", "soup")]
    assert [one.opposed.value for one in found] == pytest.approx([2 / 3, 0])


def test_labels_are_compared_where_both_objectives_judge_the_same_two_responses() -> None:
    def judged(prompt: str, chosen: str, rejected: str) -> Judged:
        return Judged(frozenset((chosen, rejected)), chosen, prompt)

    new = [judged("p", "a", "b"), judged("q", "a", "b"), judged("r", "c", "d"), judged("s", "e", "f")]
    earlier = [
        judged("p", "b", "a"),  # the other one
        judged("q", "a", "b"),  # the same
        judged("r", "c", "d"),
        judged("r", "d", "c"),  # both ways: one half
        judged("s", "e", "g"),  # another response: says nothing of s
    ]
    column, prompts = label_conflicts(new, earlier)
    assert column.tolist() == [1, 0, 0.5]
    assert prompts == ["p", "q", "r"]
