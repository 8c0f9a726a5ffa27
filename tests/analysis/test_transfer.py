"""The metrics of continual learning on R matrices that are worked out on paper."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from seqdpo.analysis.estimates import mean
from seqdpo.analysis.panel import panels
from seqdpo.analysis.schema import to_json
from seqdpo.analysis.transfer import TRANSFER_MEASURES, transfer_records

METRICS = (
    "final_average",
    "incremental_average",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "plasticity",
    "intransigence",
)

#: R[i, j] of the margin, one pair an objective; the base's row is 0. Stage j of "a>b>c" trains the j-th.
#:            a     b     c
WORKED = [
    [4.0, 1.0, -1.0],
    [3.0, 5.0, 2.0],
    [-2.0, 6.0, 7.0],
]
#: After the first stage of the orders that start with b and with c: R* of b is 6.5, of c 6.
STARTS_WITH_B = [[0.0, 6.5, 0.0], [0.0, 6.0, 3.0], [1.0, 6.0, 3.0]]
STARTS_WITH_C = [[0.0, 0.0, 6.0], [2.0, 0.0, 5.0], [2.0, 4.0, 5.0]]


@pytest.fixture
def study(make_scores, score_rows):
    """`study({"a>b>c": R, ...}, names="abc")`: panels of one pair an objective, R[i - 1][j] after stage i."""

    def make(matrices, names="abc", seed=0):
        return panels(
            make_scores(
                *(
                    score_rows(
                        {(i + 1, 0): [row[j]] for i, row in enumerate(r)}, objective=name, order=order, seed=seed
                    )
                    for order, r in matrices.items()
                    for j, name in enumerate(names)
                )
            )
        )

    return make


def records(panel_list, confidence=0.95):
    return {(r["seed"], r["order"], r["measure"]): r for r in to_json(transfer_records(panel_list, 0.3, confidence))}


def values(record):
    return {name: record[name] and record[name]["value"] for name in METRICS}


def of_objectives(record, name):
    return {one["objective"]: one[name] and one[name]["value"] for one in record["objectives"]}


@pytest.fixture
def worked(study):
    return records(study({"a>b>c": WORKED, "b>c>a": STARTS_WITH_B, "c>a>b": STARTS_WITH_C}))


def test_every_average_of_a_worked_example(worked):
    found = worked[0, "a>b>c", "margin"]
    assert values(found) == pytest.approx(
        {
            "final_average": (-2 + 6 + 7) / 3,
            "incremental_average": (4 + (3 + 5) / 2 + (-2 + 6 + 7) / 3) / 3,
            "backward_transfer": ((-2 - 4) + (6 - 5)) / 2,
            "forgetting": ((4 + 2) + (5 - 6)) / 2,
            "forward_transfer": ((1 - 0) + (2 - 0)) / 2,  # b after stage 1, c after stage 2
            "plasticity": ((4 - 0) + (5 - 1) + (7 - 2)) / 3,
            "intransigence": ((6.5 - 5) + (6 - 7)) / 2,
        }
    )
    assert {name: found[name]["n_objectives"] for name in METRICS} == {
        "final_average": 3,
        "incremental_average": 3,
        "backward_transfer": 2,
        "forgetting": 2,
        "forward_transfer": 2,
        "plasticity": 3,
        "intransigence": 2,
    }
    assert found["worst_objective"]["objective"] == "a"
    assert found["worst_objective"]["value"] == -2


def test_every_number_of_each_objective_of_a_worked_example(worked):
    found = worked[0, "a>b>c", "margin"]
    assert [(one["objective"], one["stage"]) for one in found["objectives"]] == [("a", 1), ("b", 2), ("c", 3)]
    assert of_objectives(found, "final") == {"a": -2, "b": 6, "c": 7}
    assert of_objectives(found, "when_taught") == {"a": 4, "b": 5, "c": 7}
    assert of_objectives(found, "forgetting") == {"a": 6, "b": -1, "c": None}
    assert of_objectives(found, "forward_transfer") == {"a": None, "b": 1, "c": 2}
    assert of_objectives(found, "plasticity") == {"a": 4, "b": 4, "c": 5}
    assert of_objectives(found, "intransigence") == {"a": None, "b": 1.5, "c": -1}
    assert of_objectives(found, "retention") == {"a": None, "b": None, "c": None}  # one pair: nothing sure was learned


def test_stages_are_counted_along_the_order_and_not_along_the_table(worked):
    """b>c>a: b 6.5, 6, 6; c 0, 3, 3; a 0, 0, 1."""
    found = worked[0, "b>c>a", "margin"]
    assert [(one["objective"], one["stage"]) for one in found["objectives"]] == [("b", 1), ("c", 2), ("a", 3)]
    assert values(found) == pytest.approx(
        {
            "final_average": (6 + 3 + 1) / 3,
            "incremental_average": (6.5 + (6 + 3) / 2 + (6 + 3 + 1) / 3) / 3,
            "backward_transfer": ((6 - 6.5) + (3 - 3)) / 2,
            "forgetting": ((6.5 - 6) + (3 - 3)) / 2,
            "forward_transfer": 0,
            "plasticity": (6.5 + 3 + 1) / 3,
            "intransigence": ((6 - 3) + (4 - 1)) / 2,
        }
    )


def test_the_accuracy_of_the_base_is_a_half_and_forward_transfer_starts_there(worked):
    """In the worked example only R[1, c] and R[3, a] are below 0: 0 where the others are 1."""
    found = worked[0, "a>b>c", "accuracy"]
    assert values(found) == pytest.approx(
        {
            "final_average": 2 / 3,
            "incremental_average": (1 + 1 + 2 / 3) / 3,
            "backward_transfer": -1 / 2,
            "forgetting": 1 / 2,
            "forward_transfer": 1 / 2,
            "plasticity": ((1 - 0.5) + 0 + 0) / 3,
            "intransigence": 0,
        }
    )
    # both responses have -10 nats under conftest's base, so the policy alone ranks as the margin does
    assert values(worked[0, "a>b>c", "ranking_accuracy"]) == pytest.approx(values(found))


def test_the_length_normalised_margin_is_here_a_fifth(worked):
    """conftest puts the whole margin on the chosen response, of 5 tokens."""
    margin, ln = (worked[0, "a>b>c", name] for name in ("margin", "ln_margin_base_corrected"))
    assert values(ln) == pytest.approx({name: value / 5 for name, value in values(margin).items()})


def test_every_run_has_a_record_for_each_measure(study):
    both = [*study({"a>b": [[1.0, 0.0], [1.0, 1.0]], "b>a": [[0.0, 1.0], [1.0, 1.0]]}, names="ab", seed=3)]
    found = to_json(transfer_records(both, 0.3, 0.95))
    assert [(r["split"], r["seed"], r["order"], r["measure"]) for r in found] == [
        ("eval", 3, order, name) for order in ("a>b", "b>a") for name in TRANSFER_MEASURES
    ]


def test_an_order_of_one_objective_transfers_nothing(study):
    (found,) = (r for r in records(study({"a": [[2.0]]}, names="a")).values() if r["measure"] == "margin")
    assert values(found) == {
        "final_average": 2,
        "incremental_average": 2,
        "backward_transfer": None,
        "forgetting": None,
        "forward_transfer": None,
        "plasticity": 2,
        "intransigence": None,
    }


def test_an_objective_that_is_never_trained_has_a_score_and_no_more(study):
    """c is in no average; the numbers of a and b are those of the order without it."""
    with_c = records(study({"a>b": [[4.0, 1.0, -9.0], [3.0, 5.0, -8.0]]}))[0, "a>b", "margin"]
    without = records(study({"a>b": [[4.0, 1.0], [3.0, 5.0]]}, names="ab"))[0, "a>b", "margin"]
    assert values(with_c) == values(without)
    assert with_c["worst_objective"]["objective"] == "a"
    *trained, c = with_c["objectives"]
    assert trained == without["objectives"]
    assert {name: value for name, value in c.items() if value is not None} == {
        "objective": "c",
        "n": 1,
        "n_prompts": 1,
        "final": {"value": -8, "low": None, "high": None},
    }


def test_intransigence_needs_an_order_that_starts_with_the_objective(study):
    """No order starts with c: b has its number, c none, and so there is no average."""
    found = records(study({"a>b>c": WORKED, "b>c>a": STARTS_WITH_B}))[0, "a>b>c", "margin"]
    assert of_objectives(found, "intransigence") == {"a": None, "b": 1.5, "c": None}
    assert found["intransigence"] is None


def test_the_order_that_starts_with_an_objective_must_be_of_the_same_seed(study):
    one, other = study({"a>b": [[4.0, 1.0], [3.0, 5.0]]}, "ab"), study({"b>a": [[0.0, 9.0], [1.0, 9.0]]}, "ab", seed=1)
    joined = [
        type(a)(a.objective, a.split, a.pair_ids, a.clusters, a.metadata, a.checkpoints | b.checkpoints, a.names)
        for a, b in zip(one, other, strict=True)
    ]
    assert records(joined)[0, "a>b", "margin"]["intransigence"] is None


def test_an_unfinished_order_ends_with_its_last_checkpoint(study):
    found = records(study({"a>b>c": WORKED[:2]}))[0, "a>b>c", "margin"]
    assert found["final_average"]["value"] == (3 + 5) / 2
    assert found["backward_transfer"]["value"] == 3 - 4
    assert [(one["objective"], one["stage"]) for one in found["objectives"]] == [("a", 1), ("b", 2), ("c", None)]


def test_the_base_alone_makes_no_record(make_panel):
    assert to_json(transfer_records([make_panel({(0, 0): [1.0]})], 0.3, 0.95)) == []


def test_control_stages_do_not_count(make_panel):
    margins = {(1, 0): [4.0, 5.0], (2, 0): [3.0, 1.0]}
    (plain,), (controlled,) = (
        [r for r in to_json(transfer_records([make_panel(m)], 0.3, 0.95)) if r["measure"] == "margin"]
        for m in (margins, margins | {(2, 1): [70.0, 80.0]})
    )
    assert plain == controlled


def test_splits_are_kept_apart(make_scores, score_rows):
    held_out = score_rows({(1, 0): [4.0], (2, 0): [1.0]})
    trained = [{**row, "split": "train"} for row in score_rows({(1, 0): [8.0], (2, 0): [6.0]})]
    found = to_json(transfer_records(panels(make_scores(held_out, trained)), 0.3, 0.95))
    forgetting = {r["split"]: r["objectives"][0]["forgetting"]["value"] for r in found if r["measure"] == "margin"}
    assert forgetting == {"eval": 3, "train": 2}


def test_an_average_over_an_objective_without_scores_is_undefined(make_panel):
    """Only a is there: what concerns a alone has a value."""
    found = records([make_panel({(1, 0): [4.0], (2, 0): [1.0]})])[0, "a>b", "margin"]
    assert {name for name, value in values(found).items() if value is not None} == {"backward_transfer", "forgetting"}
    assert found["worst_objective"] is None


def test_undefined_scores_give_null(make_panel):
    found = records([make_panel({(1, 0): [4.0, math.nan]}, order="a")])[0, "a", "margin"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert values(found) == dict.fromkeys(METRICS)
    assert found["worst_objective"] is None
    (a,) = found["objectives"]
    assert (a["n"], a["final"], a["plasticity"]) == (2, None, None)


TAUGHT = np.array([4.0, 5.0, 6.0, 9.0, 40.0])
FINAL = np.array([1.0, 4.5, 3.0, 2.0, 38.0])
PROMPTS = ["p", "p", "q", "r", "s"]
CLUSTERS = np.array([0, 0, 1, 2, 3])


def only_a(make_panel, taught=TAUGHT, final=FINAL, prompts=PROMPTS, confidence=0.95):
    found = records([make_panel({(1, 0): taught, (2, 0): final}, prompts=prompts)], confidence)
    return found[0, "a>b", "margin"]["objectives"][0]


def test_an_equal_loss_of_every_pair_is_known_exactly(make_panel):
    """Both scores vary widely from pair to pair; their differences do not."""
    found = only_a(make_panel, final=TAUGHT - 3)
    assert found["forgetting"] == pytest.approx({"value": 3, "low": 3, "high": 3})
    assert found["final"]["high"] - found["final"]["low"] > 20


def test_intervals_are_of_the_paired_differences_and_clustered_by_prompt(make_panel):
    """Losses 3, .5, 3, 7, 2: mean 3.1; by prompt the residuals are -2.7, -.1, 3.9, -1.1, the first of two pairs.

    CR2 divides their squares by 1 less the prompt's share: 3/5 and three times 4/5.
    """
    found = only_a(make_panel, confidence=0.9)
    se = math.sqrt((2.7**2 / 0.6 + (0.1**2 + 3.9**2 + 1.1**2) / 0.8) / 5**2)
    q = [4 / 0.6, *[1 / 0.8] * 3]
    half = stats.t.ppf(0.95, 25 / (7 + (sum(q) ** 2 - sum(one**2 for one in q)) / 25)) * se
    assert found["forgetting"] == pytest.approx({"value": 3.1, "low": 3.1 - half, "high": 3.1 + half})
    assert (found["n"], found["n_prompts"]) == (5, 4)


def test_the_average_of_one_objective_has_that_objectives_interval(make_panel):
    found = records([make_panel({(1, 0): TAUGHT, (2, 0): FINAL}, prompts=PROMPTS)])[0, "a>b", "margin"]
    own = found["objectives"][0]["forgetting"]
    assert found["forgetting"] == pytest.approx({**own, "n": 5, "n_objectives": 1})


def test_backward_transfer_is_forgetting_the_other_way_round(make_scores, score_rows):
    rng = np.random.default_rng(0)
    rows = [
        score_rows({(i, 0): rng.normal(0, 1, 6) for i in (1, 2, 3)}, objective=name, order="a>b>c") for name in "abc"
    ]
    found = records(panels(make_scores(*rows)))
    for name in TRANSFER_MEASURES:
        forgetting, backward = (found[0, "a>b>c", name][key] for key in ("forgetting", "backward_transfer"))
        mirrored = {"value": -forgetting["value"], "low": -forgetting["high"], "high": -forgetting["low"]}
        assert backward == pytest.approx({**forgetting, **mirrored})


def test_prompts_that_objectives_share_widen_the_average(make_scores, score_rows):
    """All pairs of a and b ask the same two prompts and lose alike, 1 and 5 nats: as much is known as of one objective.

    The pairs of two objectives are taken together by their ids where no prompts are given.
    """
    of = {
        name: score_rows({(1, 0): [9.0, 9.0], (2, 0): [9.0, 9.0], (3, 0): [8.0, 4.0]}, objective=name, order="a>b>c")
        for name in "ab"
    }
    shared = [[{**row, "pair_id": row["pair_id"][1:]} for row in rows] for rows in of.values()]
    apart = records(panels(make_scores(*of.values())))[0, "a>b>c", "margin"]
    together = records(panels(make_scores(*shared)))[0, "a>b>c", "margin"]
    own = together["objectives"][0]["forgetting"]
    assert {name: together["forgetting"][name] for name in own} == pytest.approx(own)
    widths = [found["forgetting"]["high"] - found["forgetting"]["low"] for found in (apart, together)]
    assert widths[1] == pytest.approx(widths[0] * math.sqrt(2))


def test_retention_is_the_ratio_of_mean_margins_by_hand(make_panel):
    """Taught 4, 5, 6 (low bound 5 - 4.303 * .577 = 2.5), final 1, 2, 3: .4.

    Both have the variance 1/3 and move together. Fieller: (2 - 5 r)^2 = t^2 (1 - r)^2 / 3 with t = 4.302653.
    """
    found = only_a(make_panel, [4.0, 5.0, 6.0], [1.0, 2.0, 3.0], prompts=None)["retention"]
    c = 4.302653 / math.sqrt(3)  # 2 - 5 r = c (1 - r) or -c (1 - r)
    assert found == pytest.approx({"value": 0.4, "low": (2 - c) / (5 - c), "high": (2 + c) / (5 + c)})


def test_there_is_no_retention_of_what_was_perhaps_not_learned(make_panel):
    """Of 4, 5, 40 the mean is well above 0, but its interval is not."""
    taught = np.array([4.0, 5.0, 40.0])
    assert mean(taught, np.arange(3)).interval(0.95)[0] < 0 < mean(taught, np.arange(3)).interval(0.5)[0]
    assert only_a(make_panel, taught, taught, prompts=None)["retention"] is None
    assert only_a(make_panel, taught, taught, prompts=None, confidence=0.5)["retention"]["value"] == 1


def test_retention_is_of_the_margin_alone_and_not_of_the_last_objective(make_scores, score_rows):
    rows = [score_rows({(1, 0): [4.0, 5.0, 6.0], (2, 0): [4.0, 5.0, 6.0]}, objective=name) for name in "ab"]
    found = records(panels(make_scores(*rows)))
    assert of_objectives(found[0, "a>b", "margin"], "retention") == {"a": 1, "b": None}
    for name in set(TRANSFER_MEASURES) - {"margin"}:
        assert of_objectives(found[0, "a>b", name], "retention") == {"a": None, "b": None}


def test_the_order_of_the_pairs_does_not_matter(make_panel):
    where = np.random.default_rng(0).permutation(5)
    straight = only_a(make_panel)
    shuffled = only_a(make_panel, TAUGHT[where], FINAL[where], [PROMPTS[i] for i in where])
    for name in ("final", "when_taught", "forgetting"):
        assert shuffled[name] == pytest.approx(straight[name])


def test_margins_twice_as_large_make_every_metric_twice_as_large(study):
    """... and leave the accuracies as they are."""
    orders = {"a>b>c": WORKED, "b>c>a": STARTS_WITH_B, "c>a>b": STARTS_WITH_C}
    once = records(study(orders))
    twice = records(study({order: (2 * np.array(r)).tolist() for order, r in orders.items()}))
    for name, factor in [("margin", 2), ("ln_margin_base_corrected", 2), ("accuracy", 1), ("ranking_accuracy", 1)]:
        expected = {key: factor * value for key, value in values(once[0, "a>b>c", name]).items()}
        assert values(twice[0, "a>b>c", name]) == pytest.approx(expected)
