"""The mechanism's part of results.json."""

import pyarrow as pa
import pytest

from seqdpo.analysis.movement import movement_records
from seqdpo.analysis.results import MechanismTables, mechanism_record, results
from seqdpo.analysis.run_noise import beyond_controls
from seqdpo.analysis.schema import to_json
from seqdpo.study.keys import LossKeys
from seqdpo.tables import GRADIENTS_SCHEMA, KL_AND_PATH_SCHEMA, MOVEMENT_SCHEMA, NODE_COLUMNS

MOVEMENT = pa.schema([*NODE_COLUMNS, *MOVEMENT_SCHEMA])


def movement(*rows):
    named = {"seed": 0, "placebo": 0, "parent": "base", "checkpoint": "a"}
    return pa.Table.from_pylist([named | row for row in rows], schema=MOVEMENT)


def empty(schema):
    return pa.schema([*NODE_COLUMNS, *schema]).empty_table()


def test_movement_of_the_whole_adapter_with_its_ratios():
    found = to_json(
        movement_records(
            movement(
                {"module": "model.layers.0.q", "update_norm": 1.0},
                {"module": "(all)", "update_norm": 2.0, "weight_norm": 50.0},
                {"module": "(all)", "checkpoint": "a>b", "parent": "a", "update_norm": 3.0, "previous_norm": 2.0},
            ),
            0.95,
        )
    )
    assert [(one["from"], one["to"], one["update_norm"]) for one in found] == [("base", "a", 2.0), ("a", "a>b", 3.0)]
    assert (found[0]["relative_update"], found[0]["relative_to_weights"]) == (None, 0.04)
    assert (found[1]["relative_update"], found[1]["relative_to_weights"]) == (1.5, None)


def test_a_real_stage_is_held_against_its_control_stages():
    """Cosines .1, .2 and .3 of the controls: mean .2, SD .1; the real .5 is .3 above, t = .3 / (.1 sqrt(4/3)) = 2.598
    with 2 degrees of freedom, p = .1217; the interval reaches 4.3027 x .11547 = .49683."""
    of = [("a>b", 0, 0.5), ("a>b~placebo1", 1, 0.1), ("a>b~placebo2", 2, 0.2), ("a>b~placebo3", 3, 0.3)]
    rows = [
        {"module": "(all)", "checkpoint": name, "placebo": k, "parent": "a", "cosine": c, "update_norm": 1.0}
        for name, k, c in of
    ]
    other = {"module": "(all)", "checkpoint": "a>c~placebo1", "placebo": 1, "parent": "a", "cosine": -9.0}
    real, *controls, _ = to_json(movement_records(movement(*rows, other), 0.95))
    beyond = real["cosine_beyond_controls"]
    assert (beyond["excess"], beyond["n_controls"]) == (pytest.approx(0.3), 3)
    assert beyond["p"] == pytest.approx(0.1217, abs=1e-4)
    assert (beyond["low"], beyond["high"]) == (
        pytest.approx(0.3 - 0.49683, abs=1e-4),
        pytest.approx(0.3 + 0.49683, abs=1e-4),
    )
    assert real["update_norm_beyond_controls"]["p"] is None  # runs that do not differ at all
    assert all(one["cosine_beyond_controls"] is None for one in controls)


def test_one_control_stage_has_no_spread():
    assert beyond_controls(1.0, [0.0], 0.95) is None
    assert beyond_controls(1.0, [0.0, None], 0.95) is None
    assert beyond_controls(None, [0.0, 1.0], 0.95) is None


def test_nothing_measured_is_empty_and_no_tables_are_null(make_scores, score_rows):
    scores = make_scores(score_rows({(1, 0): [1.0, 2.0], (2, 0): [1.0, 1.0]}))
    assert to_json(results(scores, None, 0.3))["mechanism"] is None
    tables = MechanismTables(empty(GRADIENTS_SCHEMA), movement(), empty(KL_AND_PATH_SCHEMA))
    assert to_json(results(scores, None, 0.3, mechanism=tables))["mechanism"] == {
        "gradients": [],
        "movement": [],
        "kl_and_path": [],
    }
    assert to_json(mechanism_record(tables, [], LossKeys(), 0.95))["gradients"] == []
