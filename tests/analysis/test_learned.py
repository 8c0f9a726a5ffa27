"""Was each stage's own objective learned, and what is there of every objective at the end?"""

import numpy as np
import pytest

from seqdpo.analysis.learned import learned_records
from seqdpo.analysis.panel import panels
from seqdpo.analysis.schema import Tolerances

NOISE = np.random.default_rng(0).permutation(np.linspace(-1, 1, 400))


def records(make_scores, *rows):
    cards, ends = learned_records(panels(make_scores(*rows)), Tolerances())
    return {(one.checkpoint, one.objective): one for one in cards}, {(one.order, one.objective): one for one in ends}


def test_every_stage_has_a_card_and_every_end_a_state(make_scores, score_rows):
    """a is learned first and turned round by b; b is right in 34% of its pairs, so it was not learned."""
    few = np.where(np.arange(400) < 136, 1.0, -1.0) + 0.5 * NOISE
    cards, ends = records(
        make_scores,
        score_rows({(1, 0): 2 + NOISE, (2, 0): -2 + NOISE}, objective="a"),
        score_rows({(1, 0): NOISE, (2, 0): few}, objective="b"),
    )
    assert {key: card.word for key, card in cards.items()} == {("a", "a"): "LEARNED", ("a>b", "b"): "NOT LEARNED"}
    assert {key: end.word for key, end in ends.items()} == {("a>b", "a"): "BELOW BASE", ("a>b", "b"): "BELOW BASE"}
    assert cards["a>b", "b"].sentence.startswith("b was not learned: 34% [")
    assert "The stage" in cards["a>b", "b"].sentence
    assert cards["a>b", "b"].gain.value == pytest.approx(few.mean())
    low, value, high = (getattr(cards["a>b", "b"].accuracy, name) for name in ("low", "value", "high"))
    assert value == pytest.approx(0.34)
    assert (high - low) / 2 == pytest.approx(1.96 * (0.34 * 0.66 / 400) ** 0.5, rel=0.03)


def test_a_mean_that_a_few_pairs_lift_is_not_learned(make_scores, score_rows):
    cards, _ = records(make_scores, score_rows({(1, 0): np.where(np.arange(400) < 100, 20.0, -0.1)}, order="a"))
    assert cards["a", "a"].word == "NOT LEARNED"


def test_what_cannot_be_told_is_inconclusive(make_scores, score_rows):
    """Half of the pairs are right and the mean is 0; n = 400 leaves 45% to 55% open."""
    cards, ends = records(make_scores, score_rows({(1, 0): NOISE}, order="a"))
    assert (cards["a", "a"].word, ends["a", "a"].word) == ("INCONCLUSIVE", "INCONCLUSIVE")


def test_orders_that_begin_alike_share_a_card(make_scores, score_rows):
    rows = [score_rows({(1, 0): 2 + NOISE, (2, 0): 2 + NOISE}, objective="a", order=f"a>{last}") for last in "bc"]
    cards, ends = records(make_scores, *rows)
    assert list(cards) == [("a", "a")]
    assert {key: end.word for key, end in ends.items()} == {("a>b", "a"): "PRESENT", ("a>c", "a"): "PRESENT"}


def test_two_pairs_say_nothing(make_scores, score_rows):
    cards, _ = records(make_scores, score_rows({(1, 0): [5.0, 5.0]}, order="a"))
    assert cards["a", "a"].word == "INCONCLUSIVE"


def test_a_pair_without_finite_margin_leaves_it_open(make_scores, score_rows):
    cards, _ = records(make_scores, score_rows({(1, 0): [float("nan"), *NOISE]}, order="a"))
    assert (cards["a", "a"].word, cards["a", "a"].margin.value) == ("INCONCLUSIVE", None)
