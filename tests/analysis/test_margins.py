"""Every margin of a pair by hand, from -8 and -15 under the policy against -10 and -12 under the base."""

import math

import pyarrow as pa
import pytest

from seqdpo.analysis.margins import MEASURES, measure, pair_scores
from seqdpo.errors import DataError


def scores(chosen=-8.0, rejected=-15.0, base_chosen=-10.0, base_rejected=-12.0, chosen_tokens=2, rejected_tokens=4):
    return pair_scores(
        pa.table(
            {
                "chosen_logp": [chosen],
                "rejected_logp": [rejected],
                "base_chosen_logp": [base_chosen],
                "base_rejected_logp": [base_rejected],
                "chosen_tokens": [chosen_tokens],
                "rejected_tokens": [rejected_tokens],
            }
        )
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("margin", (-8 + 10) - (-15 + 12)),  # 2 + 3 = 5
        ("reward_margin", 0.3 * 5),
        ("ln_margin", -8 / 2 + 15 / 4),  # -0.25
        ("ln_margin_base_corrected", -0.25 - (-10 / 2 + 12 / 4)),  # -0.25 + 2 = 1.75
        ("accuracy", 1),
        ("ranking_accuracy", 1),
    ],
)
def test_every_measure_of_a_pair_by_hand(name, expected):
    assert measure(scores(), name, beta=0.3)[0] == pytest.approx(expected)


def test_the_base_itself_ties_with_the_base_and_a_tie_is_half():
    base = scores(-10.0, -12.0)
    assert base.margin[0] == 0
    assert base.accuracy[0] == 0.5
    assert base.ranking_accuracy[0] == 1  # the base prefers chosen by itself: -10 > -12


def test_swapping_chosen_and_rejected_turns_every_margin_round():
    straight, swapped = scores(), scores(-15.0, -8.0, -12.0, -10.0, 4, 2)
    for name in ("margin", "reward_margin", "ln_margin", "ln_margin_base_corrected"):
        assert measure(swapped, name, 0.3)[0] == -measure(straight, name, 0.3)[0]
    assert swapped.accuracy[0] == 1 - straight.accuracy[0]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_log_probability_that_is_not_finite_makes_its_measures_undefined(broken):
    assert all(math.isnan(measure(scores(chosen=broken), name, 0.3)[0]) for name in MEASURES)


def test_a_missing_column_and_an_empty_response_are_refused():
    with pytest.raises(DataError, match="no column 'chosen_logp'; found pair_id"):
        pair_scores(pa.table({"pair_id": ["p"]}))
    with pytest.raises(DataError, match="a response has 0 tokens"):
        scores(chosen_tokens=0)
