"""Two runs on the pairs that both have: joined by id, averaged over the same pairs, differences pair by pair."""

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from seqdpo.analysis.comparison import common_pairs, comparisons
from seqdpo.analysis.panel import panels
from seqdpo.analysis.schema import to_json
from seqdpo.tables import SCORES_SCHEMA

CONFIDENCE = 0.95


def scores(ids, margins, objective="a", order="a>b", seed=0, placebos=()):
    """A score table: `margins` by stage, the whole of each on the chosen side; control stages as the real ones."""
    rows = [
        {
            "seed": seed,
            "order": order,
            "stage": stage,
            "placebo": placebo,
            "objective": objective,
            "checkpoint": ">".join(order.split(">")[:stage]) + (f"~placebo{placebo}" if placebo else ""),
            "split": "eval",
            "pair_id": pair_id,
            "chosen_logp": margin - 10,
            "rejected_logp": -10,
            "base_chosen_logp": -10,
            "base_rejected_logp": -10,
            "chosen_tokens": 5,
            "rejected_tokens": 4,
        }
        for stage, values in margins.items()
        for placebo in (0, *placebos)
        for pair_id, margin in zip(ids, values, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def compared(first, second, pairs=None):
    """(the accounts, the records) of two score tables, or lists of them."""
    tables = [pa.concat_tables(some) if isinstance(some, list) else some for some in (first, second)]
    common = common_pairs(*(panels(table, pairs) for table in tables))
    records = [record for one in common for record in comparisons(one, CONFIDENCE)]
    return to_json([one.record() for one in common]), to_json(records)


def test_means_and_differences_over_the_common_pairs_by_hand():
    # common: p1 and p2 and p3; A says 1, -1, 2 and B, in another order of rows, -2, 1, 2
    a = scores(["p0", "p1", "p2", "p3"], {1: [50, 1, -1, 2]})
    b = scores(["p3", "p4", "p2", "p1", "p5"], {1: [2, -50, 1, -2, -50]})
    [account], [record] = compared(a, b)
    assert account == {"objective": "a", "split": "eval", "n_common": 3, "n_only_a": 1, "n_only_b": 2}
    assert (record["objective"], record["seed"], record["checkpoint"], record["n"]) == ("a", 0, "a", 3)
    assert record["margin_a"] == pytest.approx(2 / 3)
    assert record["margin_b"] == pytest.approx(1 / 3)
    assert record["margin_difference"]["value"] == pytest.approx((-3 + 2 + 0) / 3)
    assert record["margin_difference"]["n"] == record["margin_difference"]["n_prompts"] == 3
    assert (record["accuracy_a"], record["accuracy_b"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert record["accuracy_difference"]["value"] == pytest.approx(0)
    assert (record["right_only_in_a"], record["right_only_in_b"]) == (1, 1)  # p1, p2


def test_the_interval_is_clustered_by_prompt(slow_cr2):
    generator = np.random.default_rng(0)
    ids = [f"p{i}" for i in range(10)]
    prompts = [f"q{i // 3}" for i in range(10)]
    of_a, of_b = generator.normal(1, 2, 10), generator.normal(0, 2, 10)
    columns = {"pair_id": ids, "prompt_id": prompts, "objective": ["a"] * 10, "split": ["eval"] * 10}
    _, [record] = compared(scores(ids, {1: of_a}), scores(ids, {1: of_b}), pa.table(columns))
    value, se, df = slow_cr2(of_b - of_a, np.unique(prompts, return_inverse=True)[1])
    half = stats.t.ppf((1 + CONFIDENCE) / 2, df) * se
    found = record["margin_difference"]
    assert (found["low"], found["high"]) == pytest.approx((value - half, value + half))
    assert found["n_prompts"] == 4


def test_exchanged_runs_give_the_opposite_difference():
    a = scores(["p0", "p1", "p2"], {1: [1, -1, 2], 2: [3, 0, 1]})
    b = scores(["p1", "p2", "p3"], {1: [2, -3, 1], 2: [-1, 1, 1]})
    for one, other in zip(compared(a, b)[1], compared(b, a)[1], strict=True):
        for name in ("margin", "accuracy"):
            there, back = one[f"{name}_difference"], other[f"{name}_difference"]
            assert there["value"] == pytest.approx(-back["value"])
            assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]))
            assert (one[f"{name}_a"], one[f"{name}_b"]) == (other[f"{name}_b"], other[f"{name}_a"])
        assert one["right_only_in_a"] == other["right_only_in_b"]


def test_a_tie_is_half_an_accuracy_and_right_in_neither():
    _, [record] = compared(scores(["p0", "p1"], {1: [0, 1]}), scores(["p0", "p1"], {1: [1, 0]}))
    assert (record["accuracy_a"], record["accuracy_b"]) == (0.75, 0.75)
    assert (record["right_only_in_a"], record["right_only_in_b"]) == (0, 0)


def test_a_run_beside_itself_differs_in_nothing():
    a = scores(["p0", "p1", "p2"], {1: [1, -1, 2]})
    _, [record] = compared(a, a)
    assert [record["margin_difference"][end] for end in ("value", "low", "high")] == [0, 0, 0]
    assert record["right_only_in_a"] == record["right_only_in_b"] == 0


def test_undefined_numbers_are_null():
    _, [record] = compared(scores(["p0", "p1"], {1: [1, math.nan]}), scores(["p0", "p1"], {1: [1, 2]}))
    assert record["n"] == 2
    assert record["margin_a"] is None
    assert record["margin_b"] == 1.5
    assert record["margin_difference"]["value"] is None
    assert record["right_only_in_a"] is None


def test_one_common_pair_has_a_difference_and_no_interval():
    _, [record] = compared(scores(["p0"], {1: [1]}), scores(["p0"], {1: [3]}))
    assert [record["margin_difference"][end] for end in ("value", "low", "high")] == [2, None, None]


def test_checkpoints_are_those_that_taught_the_objective_or_end_an_order():
    ids, margins = ["p0", "p1"], {1: [1, 2], 2: [1, 2], 3: [1, 2]}
    a = [scores(ids, margins, name, "a>b>c", placebos=[1]) for name in "abc"]
    b = [scores(ids, margins, name, "a>b>c", placebos=[1]) for name in "abc"]
    _, records = compared(a, b)
    assert [(record["objective"], record["checkpoint"]) for record in records] == [
        ("a", "a"),
        ("a", "a>b>c"),
        ("b", "a>b"),
        ("b", "a>b>c"),
        ("c", "a>b>c"),  # taught by the end of the order
    ]


def test_an_order_that_ends_earlier_in_one_run_is_compared_there():
    ids = ["p0", "p1"]
    a = scores(ids, {1: [1, 2], 2: [1, 2], 3: [1, 2]}, order="a>b>c")
    b = scores(ids, {1: [1, 2], 2: [3, 4]}, order="a>b")
    _, records = compared(a, b)
    assert [(record["checkpoint"], record["margin_difference"]["value"]) for record in records] == [
        ("a", 0),
        ("a>b", 2),
    ]


def test_only_the_same_seed_is_compared():
    ids = ["p0", "p1"]
    a = [scores(ids, {1: [1, 2]}, seed=seed) for seed in (0, 1)]
    b = [scores(ids, {1: [3, 4]}, seed=seed) for seed in (1, 2)]
    _, records = compared(a, b)
    assert [record["seed"] for record in records] == [1]


def test_objectives_that_only_one_run_has_are_counted():
    ids = ["p0", "p1"]
    a = [scores(ids, {1: [1, 2]}, name) for name in ("a", "old")]
    b = [scores(ids, {1: [1, 2]}, name) for name in ("a", "new")]
    accounts, records = compared(a, b)
    assert {one["objective"]: (one["n_common"], one["n_only_a"], one["n_only_b"]) for one in accounts} == {
        "a": (2, 0, 0),
        "old": (0, 2, 0),
        "new": (0, 0, 2),
    }
    assert {record["objective"] for record in records} == {"a"}
