"""The same objectives in different order, by hand on a few pairs."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from seqdpo.analysis.orders import ORDER_MEASURES, order_records
from seqdpo.analysis.panel import panels
from seqdpo.analysis.schema import to_json


@pytest.fixture
def study(make_scores, score_rows):
    """`study({(seed, order): {objective: final margins}})`: the panels; earlier checkpoints have margins of 99."""

    def make(finals):
        return panels(
            make_scores(
                *(
                    score_rows(
                        {(stage, 0): [99.0] * len(margins) for stage in range(1, order.count(">") + 1)}
                        | {(order.count(">") + 1, 0): margins},
                        objective=name,
                        order=order,
                        seed=seed,
                    )
                    for (seed, order), of in finals.items()
                    for name, margins in of.items()
                )
            )
        )

    return make


def compare(panel_list, confidence=0.95):
    return to_json(order_records(panel_list, 0.3, confidence))


def first_minus_last(record, objective, measure="margin"):
    (found,) = (one for one in record["first_minus_last"] if (one["objective"], one["measure"]) == (objective, measure))
    return found


#: a is better off when it comes last, b when it comes first.
TWO_ORDERS = {
    (0, "a>b"): {"a": [1.0, 2.0, -1.0], "b": [2.0, 4.0]},
    (0, "b>a"): {"a": [2.0, 5.0, 1.0], "b": [3.0, 6.0]},
}


def test_first_minus_last_by_hand(study):
    """a: -1, -3, -2, mean -2, SE 1 / sqrt(3), t of 2 degrees of freedom 4.302653. b: 1, 2."""
    (record,) = compare(study(TWO_ORDERS))
    assert (record["split"], record["objectives"], record["orders"]) == ("eval", ["a", "b"], ["a>b", "b>a"])
    found = first_minus_last(record, "a")
    half = 4.302653 / math.sqrt(3)
    assert (found["n"], found["n_prompts"]) == (3, 3)
    (seed,) = found["seeds"]
    assert (seed.pop("seed"), seed.pop("first"), seed.pop("last")) == (0, ["a>b"], ["b>a"])
    assert seed == pytest.approx({"value": -2, "low": -2 - half, "high": -2 + half})
    assert found["over_seeds"] == {"value": -2, "low": None, "high": None, "n_seeds": 1}
    assert first_minus_last(record, "b")["seeds"][0]["value"] == 1.5


def test_the_other_measures_by_hand(study):
    """a: accuracy (1, 1, 0) - (1, 1, 1); conftest's chosen responses have 5 tokens."""
    (record,) = compare(study(TWO_ORDERS))
    assert first_minus_last(record, "a", "accuracy")["seeds"][0]["value"] == pytest.approx(-1 / 3)
    assert first_minus_last(record, "a", "ln_margin")["seeds"][0]["value"] == pytest.approx(-2 / 5)
    assert len(record["first_minus_last"]) == 2 * len(ORDER_MEASURES)


def test_several_orders_on_a_side_are_averaged_pair_by_pair(study):
    """Of three objectives: a is first in two orders, last in two, and in the middle of two, which do not count."""
    final = {"a>b>c": 1.0, "a>c>b": 2.0, "b>a>c": 50.0, "c>a>b": 60.0, "b>c>a": 5.0, "c>b>a": 8.0}
    (record,) = compare(study({(0, order): {"a": [m, m + 7]} for order, m in final.items()}))
    (seed,) = first_minus_last(record, "a")["seeds"]
    assert (seed["first"], seed["last"]) == (["a>b>c", "a>c>b"], ["b>c>a", "c>b>a"])
    # every pair has the same difference, whatever its margins
    assert (seed["value"], seed["low"], seed["high"]) == pytest.approx((-5, -5, -5))


def test_an_objective_that_is_never_last_is_not_compared(study):
    margins = {name: [1.0, 2.0] for name in "abc"}
    (record,) = compare(study({(0, order): margins for order in ("a>b>c", "b>a>c")}))
    assert record["first_minus_last"] == []
    assert record["final_accuracy"] is not None


def test_only_orders_over_the_same_objectives_are_compared(study):
    names = ("a>b", "b>a", "a>b>c", "c>b>a", "a>c", "a", "b")
    margins = {name: [1.0, 2.0] for name in "abc"}
    found = compare(study({(0, order): margins for order in names}))
    assert [(record["objectives"], record["orders"]) for record in found] == [
        (["a", "b"], ["a>b", "b>a"]),
        (["a", "b", "c"], ["a>b>c", "c>b>a"]),
    ]


def test_unfinished_orders_and_control_stages_are_left_out(make_scores, score_rows):
    """Of a>b only control stages are there at the end, b>a has its first stage alone."""
    finished = score_rows({(1, 0): [1.0], (2, 0): [5.0]}, order="b>a", seed=1)
    control = score_rows({(1, 0): [1.0], (2, 1): [5.0]}, order="a>b")
    unfinished = score_rows({(1, 0): [1.0]}, order="b>a")
    assert compare(panels(make_scores(finished, control, unfinished))) == []


def test_intervals_are_clustered_by_prompt(make_scores, score_rows, make_panel):
    first = make_panel({(1, 0): [99.0] * 4, (2, 0): [1.0, 2.0, 3.0, 4.0]}, prompts="ppqr", order="a>b")
    last = make_panel({(1, 0): [99.0] * 4, (2, 0): [0.0, 0.0, 0.0, 0.0]}, prompts="ppqr", order="b>a")
    both = type(first)(
        *(first.objective, first.split, first.pair_ids, first.clusters, first.metadata),
        *(first.checkpoints | last.checkpoints, first.names | last.names),
    )
    (record,) = compare([both])
    (seed,) = first_minus_last(record, "a")["seeds"]
    # residuals by prompt: -1.5 - .5, .5, 1.5; CR2 divides their squares by 1/2, 3/4 and 3/4 .
    # Satterthwaite: n^2 = 16; sum n_g^2 = 6; q = n_g^2 / those = 8, 4/3, 4/3
    df = 16 / (6 + ((8 + 8 / 3) ** 2 - (64 + 32 / 9)) / 16)
    half = stats.t.ppf(0.975, df) * math.sqrt((2**2 / 0.5 + (0.5**2 + 1.5**2) / 0.75) / 16)
    assert (seed["low"], seed["high"]) == pytest.approx((2.5 - half, 2.5 + half))


def test_over_seeds_the_interval_is_that_of_their_differences(study):
    """Differences of 1, 2 and 6: mean 3, SD sqrt(7); t of 2 degrees of freedom."""
    finals = {}
    for seed, difference in enumerate([1.0, 2.0, 6.0]):
        finals[seed, "a>b"] = {"a": [5.0 + difference, 5.0 + difference]}
        finals[seed, "b>a"] = {"a": [5.0, 5.0]}
    (record,) = compare(study(finals), confidence=0.9)
    found = first_minus_last(record, "a")
    assert [one["value"] for one in found["seeds"]] == [1, 2, 6]
    low, high = stats.t.interval(0.9, 2, 3, math.sqrt(7 / 3))
    assert found["over_seeds"] == pytest.approx({"value": 3, "low": low, "high": high, "n_seeds": 3})


def test_turning_every_order_round_turns_the_sign(study):
    rng = np.random.default_rng(0)
    orders = [">".join(names) for names in itertools.permutations("abc")]
    finals = {order: {name: rng.normal(0, 1, 5).tolist() for name in "abc"} for order in orders}
    (straight,) = compare(study({(0, order): of for order, of in finals.items()}))
    (turned,) = compare(study({(0, order[::-1]): of for order, of in finals.items()}))
    for name, measure in itertools.product("abc", ORDER_MEASURES):
        one, other = (first_minus_last(record, name, measure)["seeds"][0] for record in (straight, turned))
        assert (one["value"], one["low"], one["high"]) == pytest.approx(
            (-other["value"], -other["high"], -other["low"])
        )
        assert abs(one["value"]) > 1e-6


def test_undefined_margins_give_null(study):
    (record,) = compare(study({(0, "a>b"): {"a": [1.0, math.nan]}, (0, "b>a"): {"a": [1.0, 2.0]}}))
    (seed,) = first_minus_last(record, "a")["seeds"]
    assert (seed["value"], seed["low"]) == (None, None)
    assert record["final_accuracy"] is None


#: Final accuracies. a>b: a 1, b 1/4, mean 5/8. b>a: both 1/2.
UNEVEN = {
    (0, "b>a"): {"a": [1.0, 1.0, -1.0, -1.0], "b": [1.0, -1.0, 1.0, -1.0]},
    (0, "a>b"): {"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, -2.0, -2.0, -2.0]},
}


def test_the_best_order_by_mean_and_by_worst_objective(study):
    (record,) = compare(study(UNEVEN))
    found = record["final_accuracy"]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (found["best"], found["best_by_worst_objective"]) == ("a>b", "b>a")
    assert (found["seeds"], found["n"], found["n_objectives"]) == ([0], 8, 2)
    other, best = found["orders"]
    assert (other["order"], best["order"]) == ("b>a", "a>b")
    assert (other["average"]["value"], best["average"]["value"]) == (0.5, 0.625)
    assert (best["worst_objective"]["objective"], best["worst_objective"]["value"]) == ("b", 0.25)
    assert best["best_minus_this"] is None


def test_the_distance_to_the_best_order_is_paired_by_hand(study):
    """a: 0, 0, 1, 1 and b: 0, 0, -1, 0 by pair: means 1/2 and -1/4, variances of the means 1/12 and 1/16.

    Together 1/8 with a variance of (1/12 + 1/16) / 4, the objectives having no pair in common; 3 degrees of freedom.
    """
    (record,) = compare(study(UNEVEN))
    found = record["final_accuracy"]["orders"][0]["best_minus_this"]
    half = 3.182446 * math.sqrt((1 / 12 + 1 / 16) / 4)
    assert (found["value"], found["low"], found["high"]) == pytest.approx((1 / 8, 1 / 8 - half, 1 / 8 + half))
    assert found["over_seeds"] == {"value": 0.125, "low": None, "high": None, "n_seeds": 1}


def test_final_accuracies_are_averaged_over_seeds(study):
    """In seed 1 both orders get everything right: a>b leads by 1/8 and by 0."""
    right = {"a": [1.0] * 4, "b": [1.0] * 4}
    (record,) = compare(study(UNEVEN | {(1, "b>a"): right, (1, "a>b"): right}))
    found = record["final_accuracy"]
    assert found["seeds"] == [0, 1]
    other, best = found["orders"]
    assert (other["average"]["value"], best["average"]["value"]) == (0.75, 0.8125)
    assert other["best_minus_this"]["value"] == pytest.approx(1 / 16)
    # values 1/8 and 0: SE 1/16, t of 1 degree of freedom
    half = 12.706205 / 16
    assert other["best_minus_this"]["over_seeds"] == pytest.approx(
        {"value": 1 / 16, "low": 1 / 16 - half, "high": 1 / 16 + half, "n_seeds": 2}
    )


def test_a_seed_that_lacks_an_order_does_not_count(study):
    (record,) = compare(study(UNEVEN | {(1, "b>a"): {"a": [1.0] * 4, "b": [1.0] * 4}}))
    assert record["final_accuracy"]["seeds"] == [0]
    assert [one["average"]["value"] for one in record["final_accuracy"]["orders"]] == [0.5, 0.625]
    assert [one["seed"] for one in first_minus_last(record, "a")["seeds"]] == [0]


def test_without_a_seed_that_has_every_order_there_is_no_best_one(study):
    seeds = {(seed, order): of for seed, ((_, order), of) in enumerate(UNEVEN.items())}
    (record,) = compare(study(seeds))
    assert record["final_accuracy"] is None
    assert record["first_minus_last"] == []


def test_splits_are_kept_apart(make_scores, score_rows):
    rows = [
        {**row, "split": split}
        for split, shift in (("eval", 0), ("train", 3))
        for order, margin in (("a>b", 1.0), ("b>a", 5.0 + shift))
        for row in score_rows({(1, 0): [0.0], (2, 0): [margin]}, order=order)
    ]
    found = {
        record["split"]: first_minus_last(record, "a")["seeds"][0]["value"]
        for record in compare(panels(make_scores(rows)))
    }
    assert found == {"eval": -4, "train": -7}
