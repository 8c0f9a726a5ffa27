"""The mechanism's part of results.json."""

import pyarrow as pa

from seqdpo.analysis.movement import movement_records
from seqdpo.analysis.results import MechanismTables, mechanism_record, results
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
            )
        )
    )
    assert [(one["from"], one["to"], one["update_norm"]) for one in found] == [("base", "a", 2.0), ("a", "a>b", 3.0)]
    assert (found[0]["relative_update"], found[0]["relative_to_weights"]) == (None, 0.04)
    assert (found[1]["relative_update"], found[1]["relative_to_weights"]) == (1.5, None)


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
