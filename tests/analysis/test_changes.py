"""Changes pair by pair: by hand on a few pairs, against statsmodels and scipy, and under changes of the labels."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from seqdpo.analysis.association import spearman
from seqdpo.analysis.changes import FLIPS, change_record, flipped, flips, mcnemar_p, pair_changes
from seqdpo.analysis.margins import PairScores
from seqdpo.analysis.schema import to_json

CONFIDENCE = 0.95


def scores(chosen, rejected, chosen_tokens=None, rejected_tokens=None) -> PairScores:
    """Scores over a base that gives every response 0 nats, so that a margin is chosen less rejected."""
    chosen, rejected = np.asarray(chosen, dtype=np.float64), np.asarray(rejected, dtype=np.float64)
    zeros, ones = np.zeros(len(chosen)), np.ones(len(chosen))
    return PairScores(
        chosen,
        rejected,
        zeros,
        zeros,
        ones if chosen_tokens is None else np.asarray(chosen_tokens, dtype=np.float64),
        ones if rejected_tokens is None else np.asarray(rejected_tokens, dtype=np.float64),
    )


def of_margins(before, after) -> tuple[PairScores, PairScores]:
    """Two checkpoints with these margins, the rejected response at 0 nats."""
    return scores(before, np.zeros(len(before))), scores(after, np.zeros(len(after)))


def record(before, after, clusters=None):
    n = len(before.chosen_logp)
    return to_json(change_record(before, after, np.arange(n) if clusters is None else clusters, CONFIDENCE))


def random_checkpoints(seed, n=400) -> tuple[PairScores, PairScores, np.ndarray]:
    """Two checkpoints without ties, and a prompt for about every second pair."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 50, (2, n)).astype(np.float64)
    before = PairScores(*rng.normal(-50, 5, (4, n)), *tokens)
    after = before._replace(
        chosen_logp=before.chosen_logp + rng.normal(1, 3, n), rejected_logp=before.rejected_logp + rng.normal(-2, 3, n)
    )
    clusters = np.unique(rng.integers(0, n // 2, n), return_inverse=True)[1]
    return before, after, clusters


def swapped(s: PairScores) -> PairScores:
    """The labels turned round."""
    return PairScores(
        s.rejected_logp, s.chosen_logp, s.base_rejected_logp, s.base_chosen_logp, s.rejected_tokens, s.chosen_tokens
    )


def leaves(values) -> list[tuple[str, object]]:
    """Every (name, number) of nested records."""
    found = []
    for name, value in values.items():
        found += leaves(value) if isinstance(value, dict) else [(name, value)]
    return found


def names_of(codes) -> list[str]:
    return [FLIPS[code] for code in codes]


# --- flips ---


def test_each_pair_of_signs_has_its_flip():
    before = np.array([2.0, 2.0, -2.0, -2.0, 0.0, 0.0, 0.0, 2.0, -2.0])
    after = np.array([1.0, -1.0, 1.0, -1.0, 0.0, 1.0, -1.0, 0.0, 0.0])
    assert names_of(flips(before, after)) == ["kept", "lost", "regained", "never", *["tied"] * 5]


def test_margins_too_small_to_multiply_still_have_a_sign():
    """1e-200 squared is 0 in float64; the pair is no tie."""
    tiny = np.array([1e-200])
    assert names_of(flips(tiny, -tiny)) == ["lost"]
    assert flipped(tiny, -tiny).tolist() == [1.0]


def test_undefined_margin_has_no_flip_even_beside_a_tie():
    before, after = np.array([math.nan, 1.0, math.nan, 0.0]), np.array([1.0, math.nan, 0.0, math.nan])
    assert flips(before, after).tolist() == [-1] * 4
    assert np.isnan(flipped(before, after)).all()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (1, 1, 0), (1, -1, 1), (-1, 1, 1), (-1, -1, 0), (0, 0, 0), (0, 1, 0.5), (0, -1, 0.5), (1, 0, 0.5), (-1, 0, 0.5),
    ],
)  # fmt: skip
def test_flipped_counts_a_tie_on_one_side_half(before, after, expected):
    assert flipped(np.array([3.0 * before]), np.array([0.1 * after])).tolist() == [expected]


def test_flip_table_and_rates_by_hand():
    """Eight pairs: kept 3, lost 2, regained 1, never 1, tied 1.

    negative 2/8, positive 1/8, net -1/8; accuracy (3 + 2)/8 = 5/8 before, (3 + 1 + 1/2)/8 = 4.5/8 after: -0.5/8.
    """
    found = record(*of_margins([1, 2, 3, 4, 5, -1, -2, -3], [2, 1, 9, -1, -2, 3, -1, 0]))
    assert found["n"] == 8
    assert found["flips"] == {"kept": 3, "lost": 2, "regained": 1, "never": 1, "tied": 1}
    assert found["negative_flip_rate"]["value"] == 2 / 8
    assert found["positive_flip_rate"]["value"] == 1 / 8
    assert found["net_flip_rate"]["value"] == -1 / 8
    assert found["accuracy_change"]["value"] == -0.5 / 8


def test_everything_ties_from_the_base_on_and_nothing_is_lost():
    found = record(*of_margins([0, 0, 0, 0], [1, 2, 3, -4]))
    assert found["flips"] == {"kept": 0, "lost": 0, "regained": 0, "never": 0, "tied": 4}
    assert found["negative_flip_rate"]["value"] == 0
    assert found["accuracy_change"]["value"] == 3 / 4 - 1 / 2
    assert found["spearman_margin_before_after"] is None  # ties alone cannot be ranked


def test_counts_add_to_n_and_the_net_rate_is_the_accuracy_change_without_ties():
    before, after, clusters = random_checkpoints(0)
    found = record(before, after, clusters)
    assert found["flips"]["tied"] == 0
    assert sum(found["flips"].values()) == sum(found["displacement"]["quadrants"].values()) == found["n"] == 400
    for key in ("value", "low", "high"):
        assert found["net_flip_rate"][key] == pytest.approx(found["accuracy_change"][key])


def test_rates_have_the_clustered_interval(slow_cr2):
    before, after, clusters = random_checkpoints(1)
    found = record(before, after, clusters)
    lost = (before.margin > 0) & (after.margin < 0)
    regained = (before.margin < 0) & (after.margin > 0)
    expected = {
        "negative_flip_rate": lost * 1.0,
        "positive_flip_rate": regained * 1.0,
        "net_flip_rate": 1.0 * regained - lost,
        "margin_change": after.margin - before.margin,
    }
    for name, column in expected.items():
        value, se, df = slow_cr2(column, clusters)
        half = stats.t.ppf((1 + CONFIDENCE) / 2, df) * se
        expected = [value, value - half, value + half]
        assert [found[name][key] for key in ("value", "low", "high")] == pytest.approx(expected)


# --- McNemar ---


def counted(lost, regained, kept=3, never=2, tied=2) -> dict:
    before = np.repeat([1.0, 1.0, -1.0, -1.0, 0.0], [kept, lost, regained, never, tied])
    after = np.repeat([1.0, -1.0, 1.0, -1.0, 1.0], [kept, lost, regained, never, tied])
    return record(*of_margins(before, after))["mcnemar"]


def test_mcnemar_is_a_coin_toss_over_the_flipped_pairs():
    """Three lost, none regained: two-sided, 2 * (1/2)^3 = 1/4, whatever was kept or tied."""
    assert counted(3, 0) == {"n": 3, "p": pytest.approx(0.25), "exact": True}
    assert counted(3, 0, kept=0, never=0, tied=5)["p"] == pytest.approx(0.25)


def test_mcnemar_is_exact_below_25_flipped_pairs():
    """18 against 6: the binomial test. 19 against 6: chi-square with continuity correction, (13 - 1)^2 / 25 = 5.76."""
    assert counted(18, 6) == {"n": 24, "p": pytest.approx(stats.binomtest(18, 24).pvalue), "exact": True}
    assert counted(19, 6) == {"n": 25, "p": pytest.approx(stats.chi2.sf(5.76, 1)), "exact": False}


@pytest.mark.parametrize("lost, regained", [(0, 0), (1, 0), (3, 9), (12, 12), (30, 17), (400, 370)])
@pytest.mark.parametrize("exact", [True, False])
def test_mcnemars_p_is_that_of_statsmodels(lost, regained, exact):
    if lost + regained or exact:
        expected = mcnemar([[5, lost], [regained, 7]], exact=exact).pvalue
        assert mcnemar_p(lost, regained, exact) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_sees_nothing_where_nothing_flipped():
    assert counted(0, 0) == {"n": 0, "p": 1.0, "exact": True}


def test_mcnemar_has_no_p_where_prompts_repeat():
    """It would take two pairs of a prompt for two; the interval of the net flip rate does not."""
    scores = of_margins([1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, 1.0, 1.0])[:2]
    assert record(*scores, np.array([0, 0, 1, 2]))["mcnemar"] == {"n": 2, "p": None, "exact": None}


# --- sizes of change ---


def test_changes_of_one_pair_by_hand():
    """Chosen -8 to -6 nats over 4 tokens, rejected -9 to -12 over 2.

    Margin 1 to 6: +5. Per token: chosen +2/4, rejected -3/2; ln_margin -8/4 + 9/2 = 2.5 to -6/4 + 12/2 = 4.5: +2.
    """
    changes = pair_changes(scores([-8], [-9], [4], [2]), scores([-6], [-12], [4], [2]))
    assert changes.margin_change.tolist() == [5]
    assert changes.ln_margin_change.tolist() == [2]
    assert (changes.chosen_change.tolist(), changes.rejected_change.tolist()) == ([2], [-3])
    assert changes.chosen_change_per_token.tolist() == [0.5]
    assert changes.rejected_change_per_token.tolist() == [-1.5]
    assert names_of(changes.flip) == ["kept"]


def test_effect_size_by_hand():
    """Changes 1, 2, 3, 6: mean 3, squares of deviations 4 + 1 + 0 + 9 = 14, SD sqrt(14/3)."""
    found = record(*of_margins([0.5, 1, 2, 3], [1.5, 3, 5, 9]))
    assert found["margin_change"]["value"] == 3
    assert found["d_z"] == pytest.approx(3 / math.sqrt(14 / 3))


def test_effect_size_of_an_even_change_is_undefined():
    found = record(*of_margins([1, 2, 3], [3, 4, 5]))
    assert found["margin_change"]["value"] == 2
    assert found["d_z"] is None


def test_spearman_by_hand():
    """Ranks 1 2 3 4 5 and 2 1 4 3 5: squared differences 1 + 1 + 1 + 1 + 0 = 4; 1 - 6 * 4 / (5 * 24) = 0.8."""
    found = record(*of_margins([1, 2, 3, 4, 5], [20, 10, 400, 30, 5000]))
    assert found["spearman_margin_before_after"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("first", "second"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [5, 5, 5]), ([1, math.nan, 3], [1, 2, 3]), ([], [])]
)
def test_spearman_without_spread_or_with_a_nan_is_undefined(first, second):
    assert spearman(np.array(first, dtype=float), np.array(second, dtype=float)) is None


# --- displacement ---


def moved(chosen, rejected) -> dict:
    """The displacement of pairs whose log-probabilities changed so."""
    n = len(chosen)
    start = scores(np.full(n, -64.0), np.full(n, -32.0), np.full(n, 4), np.full(n, 2))
    after = start._replace(chosen_logp=start.chosen_logp + chosen, rejected_logp=start.rejected_logp + rejected)
    return record(start, after)["displacement"]


def test_quadrants_and_displacement_rate_by_hand():
    """The last three have a side that is exactly as before; only one of them has a chosen one that fell: 3 of 8."""
    found = moved(np.array([1, 2, -1, -2, 3, 0, 0, -1]), np.array([1, -1, 1, -1, -3, 0, 2, 0]))
    assert found["quadrants"] == {
        "chosen_up_rejected_up": 1,
        "chosen_up_rejected_down": 2,
        "chosen_down_rejected_up": 1,
        "chosen_down_rejected_down": 1,
        "either_unchanged": 3,
    }
    assert found["displacement_rate"]["value"] == 3 / 8
    assert found["displacement_rate"]["n"] == 8


def test_sides_by_hand():
    """Chosen +1, +2, +1, +4: mean 2, over 4 tokens 1/2. Rejected -6, -5, -8, -5: mean -6, over 2 tokens -3.

    Margin change 7, 7, 9, 9: mean 8, well away from 0; the chosen side's share of it is 2/8.
    """
    found = moved(np.array([1, 2, 1, 4]), np.array([-6, -5, -8, -5]))
    assert found["chosen_change"]["value"] == 2
    assert found["rejected_change"]["value"] == -6
    assert found["chosen_change_per_token"]["value"] == 0.5
    assert found["rejected_change_per_token"]["value"] == -3
    assert found["chosen_share"]["value"] == pytest.approx(0.25)
    assert found["chosen_share"]["low"] < 0.25 < found["chosen_share"]["high"]


def test_share_is_above_one_where_the_rejected_rose_too_and_negative_where_the_chosen_fell():
    """Chosen +6, rejected +2: 6/4. Chosen -2, rejected -6 : -2/4. The small unevenness leaves the means as they are."""
    uneven = np.array([0.1, -0.1, 0.1, -0.1])
    assert moved(6 + uneven, np.full(4, 2.0))["chosen_share"]["value"] == pytest.approx(1.5)
    assert moved(-2 + uneven, np.full(4, -6.0))["chosen_share"]["value"] == pytest.approx(-0.5)


def test_share_of_a_loss_is_defined_as_well():
    """Chosen -3, rejected +1: of the -4, three quarters."""
    uneven = np.array([0.1, -0.1, 0.1, -0.1])
    assert moved(-3 + uneven, np.full(4, 1.0))["chosen_share"]["value"] == pytest.approx(0.75)


def test_share_of_a_change_that_may_be_nothing_is_undefined():
    found = moved(np.array([5, -4, 6, -5]), np.array([-1, 1, -1, 1]))  # margin change 6, -5, 7, -6: mean 1/2
    assert found["chosen_share"] == {
        "value": None, "low": None, "high": None, "confidence": CONFIDENCE, "n": 4, "n_prompts": 4,
    }  # fmt: skip


# --- properties ---


def test_turning_the_labels_round_turns_every_finding_round():
    before, after, clusters = random_checkpoints(2)
    straight, turned = record(before, after, clusters), record(swapped(before), swapped(after), clusters)
    for name in ("margin_change", "ln_margin_change", "accuracy_change", "net_flip_rate"):
        assert turned[name]["value"] == pytest.approx(-straight[name]["value"])
        assert turned[name]["low"] == pytest.approx(-straight[name]["high"])
    assert turned["negative_flip_rate"] == pytest.approx(straight["positive_flip_rate"])
    assert turned["d_z"] == pytest.approx(-straight["d_z"])
    assert turned["spearman_margin_before_after"] == pytest.approx(straight["spearman_margin_before_after"])
    assert [turned["flips"][name] for name in ("never", "regained", "lost", "kept")] == [
        straight["flips"][name] for name in ("kept", "lost", "regained", "never")
    ]
    assert turned["displacement"]["chosen_change"] == straight["displacement"]["rejected_change"]
    # margin = chosen - rejected: what is not the chosen side's share is the rejected side's
    assert turned["displacement"]["chosen_share"]["value"] == pytest.approx(
        1 - straight["displacement"]["chosen_share"]["value"]
    )


def test_going_back_undoes_the_change():
    before, after, clusters = random_checkpoints(3)
    there, back = record(before, after, clusters), record(after, before, clusters)
    assert back["margin_change"]["value"] == pytest.approx(-there["margin_change"]["value"])
    assert back["negative_flip_rate"] == there["positive_flip_rate"]
    assert back["mcnemar"] == there["mcnemar"]
    assert back["displacement"]["displacement_rate"]["value"] == pytest.approx(
        1 - there["displacement"]["displacement_rate"]["value"]  # no pair is exactly as before
    )


def test_findings_without_a_unit_do_not_depend_on_it():
    before, after, clusters = random_checkpoints(4)
    in_bits = [s._replace(**{name: getattr(s, name) / math.log(2) for name in s._fields[:4]}) for s in (before, after)]
    in_nats, scaled = record(before, after, clusters), record(*in_bits, clusters)
    assert scaled["margin_change"]["value"] == pytest.approx(in_nats["margin_change"]["value"] / math.log(2))
    assert scaled["d_z"] == pytest.approx(in_nats["d_z"])
    for name in ("flips", "mcnemar", "spearman_margin_before_after"):
        assert scaled[name] == in_nats[name]
    assert scaled["displacement"]["chosen_share"] == pytest.approx(in_nats["displacement"]["chosen_share"])


def test_the_order_of_the_rows_and_the_numbers_of_the_prompts_do_not_matter():
    before, after, clusters = random_checkpoints(5)
    rows = np.random.default_rng(6).permutation(len(clusters))
    shuffled = [PairScores(*(column[rows] for column in s)) for s in (before, after)]
    straight = leaves(record(before, after, clusters))
    other = leaves(record(*shuffled, (clusters.max() - clusters)[rows]))
    assert [name for name, _ in other] == [name for name, _ in straight]
    assert [value for _, value in other] == pytest.approx([value for _, value in straight])


@pytest.mark.parametrize("column", ["chosen_logp", "rejected_logp", "base_chosen_logp"])
@pytest.mark.parametrize("side", [0, 1])
def test_one_undefined_number_leaves_only_the_n(column, side):
    """Even the change of the other response: a mean over all pairs beside one over fewer could not be compared."""
    checkpoints = list(random_checkpoints(7)[:2])
    values = getattr(checkpoints[side], column).copy()
    values[3] = math.nan
    checkpoints[side] = checkpoints[side]._replace(**{column: values})
    found = record(*checkpoints)
    assert found["n"] == found["margin_change"]["n"] == 400
    assert {value for name, value in leaves(found) if name not in ("n", "n_prompts", "confidence")} == {None}


def test_record_has_the_same_keys_and_is_json_for_many_pairs_for_one_and_for_none():
    before, after, clusters = random_checkpoints(8)
    many = record(before, after, clusters)
    one, none = (record(*(PairScores(*(c[:n] for c in s)) for s in (before, after)), clusters[:n]) for n in (1, 0))
    for found in (many, one, none):
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert [name for name, _ in leaves(found)] == [name for name, _ in leaves(many)]
    assert one["margin_change"]["value"] is not None
    assert one["margin_change"]["low"] is None
    assert one["displacement"]["chosen_share"]["value"] is None  # without an interval nothing excludes 0
    assert none["n"] == 0
    assert none["margin_change"]["value"] is None
