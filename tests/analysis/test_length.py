"""Length diagnostics: by hand on a few pairs, against statsmodels, and under changes of labels and lengths."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
from scipy import stats

from seqdpo.analysis.association import fit_line
from seqdpo.analysis.length import length_change_record, length_record
from seqdpo.analysis.margins import PairScores
from seqdpo.analysis.panel import At, Panel
from seqdpo.analysis.schema import to_json

CONFIDENCE = 0.95
NAMES = ("seed", "order", "stage", "checkpoint", "objective", "split")


def scores(margin, chosen_tokens, rejected_tokens) -> PairScores:
    """Scores with these margins: the base gives every response 0 nats, the policy the rejected one too."""
    margin = np.asarray(margin, dtype=np.float64)
    zeros = np.zeros(len(margin))
    return PairScores(
        margin, zeros, zeros, zeros, np.asarray(chosen_tokens, dtype=float), np.asarray(rejected_tokens, dtype=float)
    )


def record(s, clusters=None):
    """Without what says which checkpoint it is of."""
    n, at = len(s.chosen_logp), At(0, "a", 1)
    ids = pa.array([f"pair{i}" for i in range(n)])
    panel = Panel("a", "eval", ids, np.arange(n) if clusters is None else clusters, pa.table({}), {at: s}, {at: "a"})
    found = to_json(length_record(panel, at, CONFIDENCE))
    assert [found.pop(name) for name in NAMES] == [0, "a", 1, "a", "a", "eval"]
    return found


def change_record(before, after, clusters=None):
    n = len(before.chosen_logp)
    return to_json(length_change_record(before, after, np.arange(n) if clusters is None else clusters, CONFIDENCE))


def random_scores(seed, n=300) -> tuple[PairScores, np.ndarray]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 30, (2, n)).astype(np.float64)
    chosen = rng.normal(-50, 5, n) + 0.3 * tokens[0]
    clusters = np.unique(rng.integers(0, n // 2, n), return_inverse=True)[1]
    return PairScores(chosen, *rng.normal(-50, 5, (3, n)), *tokens), clusters


def swapped(s: PairScores) -> PairScores:
    return PairScores(
        s.rejected_logp, s.chosen_logp, s.base_rejected_logp, s.base_chosen_logp, s.rejected_tokens, s.chosen_tokens
    )


def leaves(values) -> list[tuple[str, object]]:
    found = []
    for name, value in values.items():
        found += leaves(value) if isinstance(value, dict) else [(name, value)]
    return found


def test_lengths_and_accuracies_by_hand():
    """Six pairs of lengths 5-3, 6-2, 4-1, 2-5, 3-4, 7-7: three times chosen longer, twice rejected longer, once same.

    chosen (5 + 6 + 4 + 2 + 3 + 7)/6 = 27/6, rejected 22/6; the longer is chosen in 3 of 6 and a tie counts half: 3.5/6.
    Accuracies: chosen longer 1, 1, 1/2 (a tie): 2.5/3; rejected longer 0, 1: 1/2; same length 0.
    """
    found = record(scores([2, 1, 0, -1, 3, -2], [5, 6, 4, 2, 3, 7], [3, 2, 1, 5, 4, 7]))
    assert found["n"] == 6
    assert found["chosen_tokens"]["value"] == pytest.approx(27 / 6)
    assert found["rejected_tokens"]["value"] == pytest.approx(22 / 6)
    assert found["length_difference"]["value"] == pytest.approx(5 / 6)
    assert found["longer_wins_accuracy"]["value"] == pytest.approx(3.5 / 6)
    groups = found["accuracy_by_length"]
    assert {name: group["n"] for name, group in groups.items()} == {
        "chosen_longer": 3, "rejected_longer": 2, "same_length": 1,
    }  # fmt: skip
    assert groups["chosen_longer"]["value"] == pytest.approx(2.5 / 3)
    assert groups["rejected_longer"]["value"] == 0.5
    assert groups["same_length"]["value"] == 0
    assert groups["same_length"]["low"] is None  # one prompt has no spread


def test_margin_that_is_a_line_of_length_by_hand():
    """margin = 3 + 0.5 * difference, differences -4, 0, 2, 6: intercept 3 and slope 0.5 without error, ranks alike."""
    difference = np.array([-4, 0, 2, 6])
    found = record(scores(3 + 0.5 * difference, 10 + difference, np.full(4, 10)))
    assert found["margin_at_same_length"]["value"] == pytest.approx(3)
    assert found["margin_length_slope"]["value"] == pytest.approx(0.5)
    # residuals of 1e-15 at most
    assert found["margin_length_slope"]["high"] - found["margin_length_slope"]["low"] < 1e-12
    assert found["spearman_margin_length"] == pytest.approx(1)


def test_length_can_explain_all_of_a_positive_mean_margin():
    """Margins 2, 4, 6 at differences 1, 2, 3: the mean is 4, and 0 at the same length."""
    found = record(scores([2, 4, 6], [2, 3, 4], [1, 1, 1]))
    assert found["margin_at_same_length"]["value"] == pytest.approx(0, abs=1e-12)  # rounding


def test_spearman_of_both_margins_by_hand():
    """Differences 0, 1, 2, 3 and chosen 10, 6, 15, 8 nats over 1, 2, 3, 4 tokens, rejected 0.

    Margin ranks 3 1 4 2 beside 1 2 3 4: squared differences 4 + 1 + 1 + 4 = 10, 1 - 6 * 10 / (4 * 15) = 0.
    Per token 10, 3, 5, 2, ranks 4 2 3 1: 9 + 0 + 0 + 9 = 18, 1 - 6 * 18 / 60 = -0.8.
    """
    found = record(scores([10, 6, 15, 8], [1, 2, 3, 4], [1, 1, 1, 1]))
    assert found["spearman_margin_length"] == pytest.approx(0, abs=1e-12)  # rounding
    assert found["spearman_ln_margin_length"] == pytest.approx(-0.8)


def test_sign_disagreement_by_hand():
    """Policy and base in nats, and tokens, of four pairs:

    1. -4/2 and -9/9, base -5/2 and -9/9: margin 1; per token -2 + 1 = -1, less the base's -2.5 + 1: 0.5
    2. -4/2 and -9/3, base -5/2 and -9/3: margin 1; per token -2 + 3 = 1, less 0.5: 0.5
    3. -6/2 and -4/2, base -6/2 and -4/2: margin 0; per token -3 + 2 = -1; less the same: 0
    4. -2/1 and -6/6, base -4/1 and -9/6: margin 2 - 3 = -1; per token -2 + 1 = -1, less -4 + 1.5: 1.5
    ln_margin disagrees in pair 1 and by half in 3; the base-corrected one in pair 4.
    """
    column = np.array
    found = record(
        PairScores(
            chosen_logp=column([-4.0, -4, -6, -2]),
            rejected_logp=column([-9.0, -9, -4, -6]),
            base_chosen_logp=column([-5.0, -5, -6, -4]),
            base_rejected_logp=column([-9.0, -9, -4, -9]),
            chosen_tokens=column([2.0, 2, 2, 1]),
            rejected_tokens=column([9.0, 3, 2, 6]),
        )
    )
    assert found["sign_disagreement"]["ln_margin"]["value"] == 1.5 / 4
    assert found["sign_disagreement"]["ln_margin_base_corrected"]["value"] == 1 / 4


def test_no_spread_of_length_leaves_slope_and_rank_correlation_undefined():
    found = record(scores([1, 2, 4], [3, 3, 3], [2, 2, 2]))
    assert found["spearman_margin_length"] is None
    assert found["margin_at_same_length"]["value"] is None
    assert found["margin_length_slope"] == {
        "value": None, "low": None, "high": None, "confidence": CONFIDENCE, "n": 3, "n_prompts": 3,
    }  # fmt: skip
    assert found["accuracy_by_length"]["rejected_longer"]["n"] == 0
    assert found["accuracy_by_length"]["rejected_longer"]["value"] is None
    assert found["accuracy_by_length"]["chosen_longer"]["value"] == 1


def test_change_by_hand():
    """Margin changes 1, 2, 6 at differences -1, 0, 1: slope (-1 * 1 + 1 * 6)/2 = 2.5 around the mean 3 at 0."""
    tokens = [2, 3, 4], [3, 3, 3]
    found = change_record(scores([1, 1, 1], *tokens), scores([2, 3, 7], *tokens))
    assert found["spearman_margin_change_length"] == 1
    assert found["margin_change_length_slope"]["value"] == pytest.approx(2.5)
    assert found["margin_change_at_same_length"]["value"] == pytest.approx(3)


def test_an_even_change_does_not_hang_on_length():
    tokens = [2, 3, 4], [3, 3, 3]
    found = change_record(scores([1, 5, 3], *tokens), scores([2, 6, 4], *tokens))
    assert found["spearman_margin_change_length"] is None
    assert found["margin_change_length_slope"]["value"] == pytest.approx(0, abs=1e-12)  # rounding


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_line_equals_clustered_least_squares_of_statsmodels(confidence):
    s, _ = random_scores(0)
    clusters = np.repeat(np.arange(100), 3)  # as many pairs for every prompt: there CR2 is the plain correction
    x = s.chosen_tokens - s.rejected_tokens + 7  # away from 0, so that the intercept's error hangs on the slope's
    fit = sm.OLS(s.margin, sm.add_constant(x)).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    for estimate, value, se, interval in zip(
        fit_line(s.margin, x, clusters), fit.params, fit.bse, fit.conf_int(1 - confidence), strict=True
    ):
        assert estimate.value == pytest.approx(value)
        assert estimate.se == pytest.approx(se)
        assert estimate.interval(confidence) == pytest.approx(tuple(interval))
        assert (estimate.n, estimate.n_prompts) == (300, len(set(clusters)))


def test_line_far_from_zero_loses_no_digits():
    """Differences around a million tokens and margins around a million nats; the slope is that of their deviations."""
    s, clusters = random_scores(1)
    x = s.chosen_tokens - s.rejected_tokens
    near, far = fit_line(s.margin, x, clusters), fit_line(s.margin + 1e6, x + 1e6, clusters)
    # float64 keeps 1e-10 of a nat beside a million
    assert far.slope.value == pytest.approx(near.slope.value, rel=1e-7)
    assert far.slope.se == pytest.approx(near.slope.se, rel=1e-7)


def test_line_through_two_pairs_has_no_interval():
    line = fit_line(np.array([1.0, 3.0]), np.array([0.0, 1.0]), np.arange(2))
    assert (line.at_zero.value, line.slope.value) == pytest.approx((1, 2))
    assert math.isnan(line.slope.se)
    assert math.isnan(line.at_zero.se)


def test_accuracies_by_length_average_to_the_accuracy_weighted_by_n():
    s, clusters = random_scores(2)
    groups = record(s, clusters)["accuracy_by_length"].values()
    assert sum(group["n"] for group in groups) == 300
    assert sum(group["n"] * group["value"] for group in groups) / 300 == pytest.approx(s.accuracy.mean())


def test_accuracy_of_a_group_has_the_clustered_interval_of_its_pairs(slow_cr2):
    s, clusters = random_scores(3)
    group = s.chosen_tokens > s.rejected_tokens
    value, se, df = slow_cr2(s.accuracy[group], clusters[group])
    half = stats.t.ppf((1 + CONFIDENCE) / 2, df) * se
    found = record(s, clusters)["accuracy_by_length"]["chosen_longer"]
    assert [found["low"], found["high"]] == pytest.approx([value - half, value + half])
    assert found["n_prompts"] == len(set(clusters[group]))


def test_turning_the_labels_round_turns_lengths_and_margins_round():
    """Both axes of the line turn: the slope and the rank correlations stay."""
    s, clusters = random_scores(4)
    straight, turned = record(s, clusters), record(swapped(s), clusters)
    assert turned["chosen_tokens"] == straight["rejected_tokens"]
    assert turned["margin_at_same_length"]["value"] == pytest.approx(-straight["margin_at_same_length"]["value"])
    assert turned["margin_length_slope"] == pytest.approx(straight["margin_length_slope"])
    assert turned["spearman_margin_length"] == pytest.approx(straight["spearman_margin_length"])
    assert turned["spearman_ln_margin_length"] == pytest.approx(straight["spearman_ln_margin_length"])
    assert turned["longer_wins_accuracy"]["value"] == pytest.approx(1 - straight["longer_wins_accuracy"]["value"])
    assert turned["accuracy_by_length"]["rejected_longer"]["value"] == pytest.approx(
        1 - straight["accuracy_by_length"]["chosen_longer"]["value"]
    )
    assert turned["sign_disagreement"] == straight["sign_disagreement"]


def test_a_constant_on_every_margin_moves_the_intercept_alone():
    s, clusters = random_scores(5)
    plain, moved = record(s, clusters), record(s._replace(chosen_logp=s.chosen_logp + 2), clusters)
    for key in ("value", "low", "high"):
        assert moved["margin_at_same_length"][key] == pytest.approx(plain["margin_at_same_length"][key] + 2)
        assert moved["margin_length_slope"][key] == pytest.approx(plain["margin_length_slope"][key])


def test_change_of_a_change_is_the_difference_of_the_lines():
    """Least squares is linear in y: the line of after less before is the one's line less the other's."""
    before, clusters = random_scores(6)
    after = before._replace(chosen_logp=before.chosen_logp + np.random.default_rng(7).normal(0, 2, 300))
    found = change_record(before, after, clusters)
    first, second = record(before, clusters), record(after, clusters)
    for change, level in [
        ("margin_change_at_same_length", "margin_at_same_length"),
        ("margin_change_length_slope", "margin_length_slope"),
    ]:
        assert found[change]["value"] == pytest.approx(second[level]["value"] - first[level]["value"])


def test_the_order_of_the_rows_does_not_matter():
    s, clusters = random_scores(8)
    after = s._replace(chosen_logp=s.chosen_logp * 1.1)
    rows = np.random.default_rng(9).permutation(300)
    mixed, mixed_after = (PairScores(*(column[rows] for column in x)) for x in (s, after))
    for straight, other in [
        (record(s, clusters), record(mixed, clusters[rows])),
        (change_record(s, after, clusters), change_record(mixed, mixed_after, clusters[rows])),
    ]:
        assert [value for _, value in leaves(other)] == pytest.approx([value for _, value in leaves(straight)])


def test_one_undefined_number_leaves_only_the_n():
    s, clusters = random_scores(10)
    logps = s.base_rejected_logp.copy()
    logps[5] = math.nan
    broken = s._replace(base_rejected_logp=logps)
    for found in (record(broken, clusters), change_record(s, broken, clusters), change_record(broken, s, clusters)):
        assert found["n"] == 300
        assert {value for name, value in leaves(found) if name not in ("n", "n_prompts", "confidence")} == {None}
    groups = record(broken, clusters)["accuracy_by_length"]
    assert sum(group["n"] for group in groups.values()) == 300


def test_records_have_the_same_keys_and_are_json_for_many_pairs_for_one_and_for_none():
    s, clusters = random_scores(11)
    for make in (record, lambda s, c: change_record(s, s, c)):
        many, one, none = (make(PairScores(*(column[:n] for column in s)), clusters[:n]) for n in (300, 1, 0))
        for found in (many, one, none):
            assert json.loads(json.dumps(found, allow_nan=False)) == found
            assert [name for name, _ in leaves(found)] == [name for name, _ in leaves(many)]
        assert one["n"] == 1
        assert none["n"] == 0
