"""R[i, j]: which cells there are, in which order, and what stands in them."""

import math

import pytest

from seqdpo.analysis.margins import MEASURES
from seqdpo.analysis.panel import panels
from seqdpo.analysis.schema import to_json
from seqdpo.analysis.score_matrix import score_matrix


def matrix(panel_list, beta=0.3, confidence=0.95):
    return to_json(score_matrix(panel_list, beta, confidence))


def where(cell):
    return tuple(cell[name] for name in ("seed", "order", "stage", "placebo", "objective"))


def test_means_and_intervals_are_over_pairs(make_panel):
    """Margins 5, 0, -1: mean 4/3, SD sqrt(31/3), three prompts; t of 2 degrees of freedom is 4.302653.

    conftest's responses have 5 and 4 tokens and a base of -10: a margin m is a chosen log-probability of m - 10.
    """
    _, cell = matrix([make_panel({(1, 0): [5.0, 0.0, -1.0]})], beta=0.5)
    half = 4.302653 * math.sqrt(31 / 3) / math.sqrt(3)
    assert (cell["n"], cell["n_prompts"]) == (3, 3)
    assert cell["margin"] == pytest.approx({"value": 4 / 3, "low": 4 / 3 - half, "high": 4 / 3 + half})
    assert cell["reward_margin"] == pytest.approx({"value": 2 / 3, "low": 2 / 3 - half / 2, "high": 2 / 3 + half / 2})
    assert cell["accuracy"]["value"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert cell["ranking_accuracy"]["value"] == pytest.approx((1 + 0.5 + 0) / 3)  # -5, -10, -11 against -10
    assert cell["ln_margin"]["value"] == pytest.approx((-5 - 10 - 11) / 5 / 3 + 10 / 4)
    assert cell["ln_margin_base_corrected"]["value"] == pytest.approx(4 / 5 / 3)


def test_the_confidence_is_that_asked_for(make_panel):
    _, wide = matrix([make_panel({(1, 0): [5.0, 0.0, -1.0]})], confidence=0.95)
    _, narrow = matrix([make_panel({(1, 0): [5.0, 0.0, -1.0]})], confidence=0.9)
    # t of 2 degrees of freedom, from a printed table
    widths = [cell["margin"]["high"] - cell["margin"]["low"] for cell in (wide, narrow)]
    assert widths[0] / widths[1] == pytest.approx(4.302653 / 2.919986)


def test_pairs_of_one_prompt_count_as_one(make_panel):
    margins = {(1, 0): [1.0, 1.0, 3.0, 3.0]}
    _, cell = matrix([make_panel(margins, prompts=["p", "p", "q", "q"])])
    assert (cell["n"], cell["n_prompts"]) == (4, 2)
    # the means of the prompts are 1 and 3: SE 1, t of 1 degree of freedom 12.706205
    assert cell["margin"] == pytest.approx({"value": 2, "low": 2 - 12.706205, "high": 2 + 12.706205})


def test_the_base_is_a_row_of_ties(make_panel):
    base, _ = matrix([make_panel({(1, 0): [5.0, 0.0, -1.0]})])
    assert base["checkpoint"] == "base"
    assert base["margin"] == {"value": 0, "low": 0, "high": 0}
    assert base["accuracy"]["value"] == 0.5


def test_cells_come_order_by_order_checkpoint_by_checkpoint(make_scores, score_rows):
    """Objectives keep the order in which they appear; stages and control stages do not depend on it."""
    margins = {(3, 0): [1.0], (2, 1): [2.0], (2, 0): [3.0], (1, 0): [4.0]}
    scores = make_scores(
        *(
            score_rows(margins, objective=objective, order=order, seed=seed)
            for objective in "ba"
            for seed, order in [(1, "b>a>c"), (0, "a>b>c")]
        )
    )
    cells = matrix(panels(scores))
    assert [where(cell) for cell in cells] == [
        (seed, order, stage, placebo, objective)
        for seed, order in [(1, "b>a>c"), (0, "a>b>c")]
        for stage, placebo in [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0)]
        for objective in "ba"
    ]
    assert {cell["checkpoint"] for cell in cells if cell["placebo"]} == {"b>a~placebo1", "a>b~placebo1"}
    assert [cell["margin"]["value"] for cell in cells[:10:2]] == [0, 4, 3, 2, 1]


def test_the_order_of_the_rows_does_not_matter(make_scores, score_rows):
    rows = [*score_rows({(1, 0): [1.0, 2.5, 7.0]}), *score_rows({(1, 0): [4.0, -1.0]}, objective="b")]
    forwards, backwards = matrix(panels(make_scores(rows))), matrix(panels(make_scores(rows[::-1])))
    found = {where(cell): cell for cell in backwards}
    assert len(forwards) == len(found) == 4
    for cell in forwards:
        for name in MEASURES:
            assert found[where(cell)][name] == pytest.approx(cell[name])


def test_an_undefined_number_is_null_and_not_the_mean_of_the_rest(make_panel):
    _, cell = matrix([make_panel({(1, 0): [1.0, math.nan]})])
    assert cell["n"] == 2
    assert cell["margin"] == {"value": None, "low": None, "high": None}
    assert cell["accuracy"]["value"] is None


def test_a_single_prompt_has_no_interval(make_panel):
    _, cell = matrix([make_panel({(1, 0): [1.0]})])
    assert cell["margin"] == {"value": 1, "low": None, "high": None}


def test_no_rows_make_no_cells(make_scores):
    assert matrix(panels(make_scores())) == []
