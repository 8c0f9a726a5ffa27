"""A row for each pair between two checkpoints: which checkpoints, which pairs, in which order."""

import math

import numpy as np
import pyarrow as pa
import pytest

from seqdpo.analysis.margins import PairScores
from seqdpo.analysis.pair_table import MAX_LISTED, Step, choose_step, meeting, pair_table, ranked
from seqdpo.analysis.panel import At, panels
from seqdpo.errors import ConfigError

MARGINS = {(1, 0): [2.0, 1.0, -1.0, -2.0], (2, 0): [1.0, -1.0, 0.5, -3.0], (2, 1): [2.0, 1.0, -1.0, -2.0]}
STEP = Step(At(0, "a>b", 1), At(0, "a>b", 2))


@pytest.fixture
def two_orders(make_scores, score_rows):
    """Objective a in both orders and two seeds."""
    return panels(
        make_scores(
            *(score_rows({(1, 0): [1.0], (2, 0): [2.0], (2, 1): [1.0]}, order="b>a", seed=seed) for seed in (3, 5)),
            *(score_rows({(1, 0): [1.0], (2, 0): [2.0], (2, 1): [1.0]}, order="a>b", seed=seed) for seed in (3, 5)),
        )
    )[0]


def test_every_column_of_a_pair_by_hand(make_panel):
    # the base says -10 of every response, the whole margin is on the chosen side; 5 tokens chosen, 4 rejected
    rows = pair_table(make_panel(MARGINS), STEP).to_pylist()
    assert rows[1] == {
        "pair_id": "a1",
        "seed": 0,
        "objective": "a",
        "split": "eval",
        "measure": "margin",
        "from": "a",
        "to": "a>b",
        "margin_before": 1.0,
        "margin_after": -1.0,
        "change": -2.0,
        "ln_margin_before": pytest.approx((1 - 10) / 5 + 10 / 4),  # -1.8 + 2.5 = 0.7
        "ln_margin_after": pytest.approx((-1 - 10) / 5 + 10 / 4),  # -2.2 + 2.5 = 0.3
        "chosen_logp_change": -2.0,
        "rejected_logp_change": 0.0,
        "flip": "lost",
    }
    assert [row["flip"] for row in rows] == ["kept", "lost", "regained", "never"]
    assert [row["change"] for row in rows] == [-1, -2, 1.5, -1]


def test_a_tie_is_neither_kept_nor_lost(make_panel):
    from_base = pair_table(make_panel(MARGINS), Step(At(0, "a>b", 0), At(0, "a>b", 1)))
    assert from_base["flip"].to_pylist() == ["tied"] * 4
    assert from_base["change"].to_pylist() == MARGINS[1, 0]


def test_undefined_is_null_and_comes_last(make_panel):
    table = pair_table(make_panel(MARGINS | {(2, 0): [1.0, math.nan, 0.5, -3.0]}), STEP)
    row = table.to_pylist()[1]
    assert [row[name] for name in ("margin_before", "margin_after", "change", "flip")] == [1, None, None, None]
    assert ranked(table, "change")["pair_id"].to_pylist() == ["a0", "a3", "a2", "a1"]


def test_the_lowest_comes_first_and_level_pairs_by_their_id(make_panel):
    table = pair_table(make_panel(MARGINS), STEP)
    shuffled = table.take(pa.array([2, 3, 0, 1]))
    for rows in (table, shuffled):
        assert ranked(rows, "change")["pair_id"].to_pylist() == ["a1", "a0", "a3", "a2"]  # -2, -1, -1, +1.5
        assert ranked(rows, "margin")["pair_id"].to_pylist() == ["a3", "a1", "a2", "a0"]  # -3, -1, 0.5, 1


def test_swapped_labels_turn_margins_and_flips_round(make_panel):
    panel = make_panel(MARGINS)
    turned = {
        at: PairScores(
            scores.rejected_logp,
            scores.chosen_logp,
            scores.base_rejected_logp,
            scores.base_chosen_logp,
            scores.rejected_tokens,
            scores.chosen_tokens,
        )
        for at, scores in panel.checkpoints.items()
    }
    object.__setattr__(panel, "checkpoints", turned)
    table = pair_table(panel, STEP)
    assert table["change"].to_pylist() == [1, 2, -1.5, 1]
    assert table["flip"].to_pylist() == ["never", "regained", "lost", "kept"]


def test_without_names_from_where_it_was_taught_to_the_end_of_the_first_order_that_goes_on(two_orders):
    assert choose_step(two_orders) == (At(3, "a>b", 1), At(3, "a>b", 2))
    assert choose_step(two_orders, seed=5) == (At(5, "a>b", 1), At(5, "a>b", 2))


@pytest.mark.parametrize(
    ("asked", "names", "order"),
    [
        ({"start": "base"}, ("base", "a>b"), "a>b"),
        ({"end": "a>b~placebo1"}, ("a", "a>b~placebo1"), "a>b"),
        ({"start": "b", "end": "b>a"}, ("b", "b>a"), "b>a"),
        ({"start": "base", "end": "b", "order": "b>a"}, ("base", "b"), "b>a"),
    ],
)
def test_a_named_checkpoint_takes_the_place_of_the_default(two_orders, asked, names, order):
    found = choose_step(two_orders, **asked)
    assert (two_orders.names[found.start], two_orders.names[found.end]) == names
    assert found.end.order == order


def test_checkpoints_of_two_orders_may_be_compared(two_orders):
    found = choose_step(two_orders, "a>b", "b>a")
    assert found == (At(3, "a>b", 2), At(3, "b>a", 2))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seed": 4}, "^seed = '4': not in this run; expected one of '3', '5'"),
        ({"order": "a>c"}, "^order = 'a>c': .* Did you mean 'a>b'?"),
        ({"start": "a<b"}, "^start = 'a<b': .* Did you mean 'a>b'?"),
        ({"end": "c"}, "^end = 'c': not in this run; expected one of "),
        (
            {"end": "b", "order": "a>b"},
            "^end = 'b': not in this run; expected one of 'base', 'a', 'a>b', 'a>b~placebo1'",
        ),
        (
            {"order": "b>a"},
            "^start and end: not both given, and for objective = 'a' no order here goes on after it; expected two",
        ),
        ({"end": "b>a"}, "no order here goes on after it and has 'b>a'"),
        ({"end": "a"}, "^start and end: both are 'a'; expected two checkpoints"),
    ],
)
def test_checkpoints_that_are_not_there_are_answered_with_those_that_are(two_orders, asked, message):
    with pytest.raises(ConfigError, match=message):
        choose_step(two_orders, **asked)


METADATA = pa.table(
    {
        "pair_id": ["p0", "p1", "p2", "p3"],
        "strength": [1.0, 2.5, None, 2.5],
        "truncated": [True, False, False, True],
        "slice_category": ["Violence", "10", "violence", None],
        "slice_level": pa.array([1, 10, None, 1], pa.int64()),
        "slice_strength": ["high", "low", "high", "low"],
    }
)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], [0, 1, 2, 3]),
        (["category=Violence"], [0]),  # text as it stands
        (["slice_category=Violence"], [0]),
        (["category=10"], [1]),
        (["level=1.0"], [0, 3]),  # numbers as numbers
        (["level=1e1"], [1]),
        (["strength=2.50"], [1, 3]),  # the pair's own column before a slice of that name
        (["slice_strength=high"], [0, 2]),
        (["truncated=True"], [0, 3]),
        (["truncated=false", "strength=2.5"], [1]),  # all of them
        (["truncated=true", "category=10"], []),
        (["pair_id=p2"], [2]),
    ],
)
def test_conditions_choose_pairs(conditions, expected):
    assert np.flatnonzero(meeting(METADATA, conditions)).tolist() == expected


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("category", "^where = 'category': no '='; expected COLUMN=VALUE"),
        ("catgory=x", "^where, column = 'catgory': .*'category', 'level'.* Did you mean 'category'?"),
        ("category=Violenc", "no pair has it; expected one of '10', 'Violence', 'violence'. Did you mean 'Violence'?"),
        ("level=2", "no pair has it; expected one of '1', '10'"),
        ("level=high", "expected a number"),
        ("truncated=yes", "expected one of 'false', 'true'"),
    ],
)
def test_conditions_that_no_pair_can_meet_are_answered_with_what_there_is(condition, message):
    with pytest.raises(ConfigError, match=message):
        meeting(METADATA, [condition])


def test_of_many_values_the_message_lists_some():
    many = [f"value{i:02d}" for i in range(MAX_LISTED + 5)]
    table = pa.table({"slice_topic": many, "slice_size": list(range(len(many)))})
    with pytest.raises(ConfigError, match=r"'value19' and 5 more\. Did you mean 'value24'\?"):
        meeting(table, ["topic=value24x"])
    with pytest.raises(ConfigError, match="a number from 0 to 24 that one has"):
        meeting(table, ["size=2.5"])
