"""Pairs are joined by their ids; whatever does not fit is refused and named."""

import numpy as np
import pyarrow as pa
import pytest

from seqdpo.analysis.cells import cells
from seqdpo.analysis.panel import At, panels
from seqdpo.errors import DataError

MARGINS = {(1, 0): [1.0, 2.0, 3.0], (2, 0): [4.0, 5.0, 6.0], (2, 1): [7.0, 8.0, 9.0]}


def test_margins_stand_beside_their_pairs_whatever_the_order_of_the_rows(make_scores, score_rows):
    rows = score_rows(MARGINS)
    shuffled = [rows[i] for i in np.random.default_rng(3).permutation(len(rows))]
    (panel,) = panels(make_scores(shuffled))
    for (stage, placebo), margins in MARGINS.items():
        found = panel.checkpoints[At(0, "a>b", stage, placebo)].margin
        assert dict(zip(panel.pair_ids.to_pylist(), found.tolist(), strict=True)) == {
            f"a{i}": margin for i, margin in enumerate(margins)
        }


def test_objectives_seeds_and_orders_are_kept_apart(make_scores, score_rows):
    scores = make_scores(
        score_rows({(1, 0): [1.0]}, objective="a"),
        score_rows({(1, 0): [2.0]}, objective="b"),
        score_rows({(1, 0): [3.0]}, objective="a", seed=1),
        score_rows({(1, 0): [4.0]}, objective="a", order="b>a"),
    )
    a, b = panels(scores)
    assert (a.objective, b.objective) == ("a", "b")
    assert a.checkpoints[At(0, "a>b", 1)].margin == [1]
    assert a.checkpoints[At(1, "a>b", 1)].margin == [3]
    assert a.checkpoints[At(0, "b>a", 1)].margin == [4]
    assert b.checkpoints[At(0, "a>b", 1)].margin == [2]
    assert a.orders() == [(0, "a>b"), (1, "a>b"), (0, "b>a")]


def test_dictionary_encoded_columns_give_the_same_panel(make_scores, score_rows):
    plain = make_scores(score_rows(MARGINS))
    encoded = plain
    for name in ("order", "checkpoint", "objective", "split", "pair_id"):
        encoded = encoded.set_column(plain.schema.get_field_index(name), name, plain[name].dictionary_encode())
    halves = pa.concat_tables([encoded.slice(0, 5), encoded.slice(5)])  # two chunks
    (one,), (two,) = panels(plain), panels(halves)
    assert one.pair_ids.to_pylist() == two.pair_ids.to_pylist()
    for at, scores in one.checkpoints.items():
        np.testing.assert_array_equal(scores.margin, two.checkpoints[at].margin)


def test_prompts_come_from_the_pairs_table(make_panel):
    assert make_panel(MARGINS, prompts=["x", "y", "x"]).clusters.tolist() == [0, 1, 0]
    assert make_panel(MARGINS).clusters.tolist() == [0, 1, 2]


def test_a_part_of_the_pairs_keeps_its_prompts_and_margins(make_panel):
    part = make_panel(MARGINS, prompts=["x", "y", "x"]).rows(np.array([False, True, True]))
    assert part.pair_ids.to_pylist() == ["a1", "a2"]
    assert part.clusters.tolist() == [1, 0]
    assert part.checkpoints[At(0, "a>b", 2)].margin.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[:-1], "checkpoint a>b~placebo1, objective a: 2 rows, 2 of them of the 3 pairs"),
        (lambda rows: [*rows[:-1], rows[-1] | {"pair_id": "other"}], "3 rows, 2 of them of the 3 pairs"),
        (lambda rows: [*rows, rows[0]], "checkpoint base, objective a: pair 'a0' stands in 2 rows"),
        (lambda rows: [*rows, rows[-1]], "4 rows, 3 of them of the 3 pairs"),
        (lambda rows: [*rows[:-1], rows[-1] | {"base_chosen_logp": -9.0}], "base_chosen_logp differs"),
        (lambda rows: [*rows[:-1], rows[-1] | {"rejected_tokens": 7}], "rejected_tokens differs"),
        (lambda rows: [*rows[:-1], rows[-1] | {"pair_id": None}], "a row names no pair"),
    ],
)
def test_scores_that_do_not_fit_together_are_refused(make_scores, score_rows, spoil, message):
    with pytest.raises(DataError, match=message):
        panels(make_scores(spoil(score_rows(MARGINS))))


def test_a_missing_column_is_named(make_scores, score_rows):
    with pytest.raises(DataError, match="no column 'placebo'"):
        panels(make_scores(score_rows(MARGINS)).drop_columns("placebo"))


def test_scored_pairs_that_the_pairs_table_lacks_are_named(make_scores, score_rows):
    pairs = pa.table({"pair_id": ["a0", "a1"], "prompt_id": ["x", "y"], "objective": ["a"] * 2, "split": ["eval"] * 2})
    with pytest.raises(DataError, match=r"1 of 3 scored pairs of a \(eval\) are not there, 'a2' the first"):
        panels(make_scores(score_rows(MARGINS)), pairs)


def test_cells_are_each_later_stage_and_everything_since_the_objective_was_taught(make_panel):
    margins = {(stage, 0): [1.0] for stage in (1, 2, 3)} | {(2, 1): [1.0], (3, 1): [1.0], (3, 2): [1.0]}
    found = cells([make_panel(margins, order="a>b>c", objective=name) for name in ("a", "b", "c")])
    assert [(c.objective, c.taught, c.start, c.end, len(c.controls)) for c in found] == [
        ("a", 1, 1, 2, 1),
        ("a", 1, 2, 3, 2),
        ("a", 1, 1, 3, 0),  # two stages: no control stage spans them
        ("b", 2, 2, 3, 2),
    ]
    assert found[2].name(found[2].start) == "a"
    assert found[2].name(found[2].end) == "a>b>c"


def test_an_objective_that_no_stage_trained_has_no_cell(make_panel):
    assert cells([make_panel({(1, 0): [1.0], (2, 0): [1.0]}, objective="watched")]) == []
