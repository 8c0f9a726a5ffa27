"""A change is the recipe's doing only where control stages and seeds do not give it by themselves."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from seqdpo.analysis.cells import cells
from seqdpo.analysis.panel import panels
from seqdpo.analysis.recipes import (
    ATTRIBUTABLE,
    FEWEST_CONTROLS,
    NOT_SEPARABLE,
    QUANTITIES,
    UNTESTED,
    Runs,
    draws_needed,
    next_run,
    recipes,
    seeds_needed,
    separation,
    strongest,
)
from seqdpo.analysis.schema import to_json


def test_one_seed_is_the_prediction_interval_by_hand():
    """Controls 1, 2, 3: mean 2, SD 1. The real run at 6: t = 4 / (1 * sqrt(1 + 1/3)) = 3.4641 at 2 df."""
    found = separation(Runs([6.0], [[1.0, 2.0, 3.0]]))
    assert found.excess == pytest.approx(4)
    assert (found.run_noise, found.df, found.basis) == (pytest.approx(1), 2, "control stages")
    assert found.p == pytest.approx(2 * stats.t.sf(4 / math.sqrt(4 / 3), 2))
    assert found.p == pytest.approx(0.0742, abs=1e-4)  # from a printed table of t


def test_one_control_stage_in_each_seed_is_the_paired_t_test():
    real, control = [1.0, 3.0, 2.5, 4.0], [0.5, 1.0, 2.0, 1.5]
    found = separation(Runs(real, [[value] for value in control]))
    expected = stats.ttest_rel(real, control)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.df == 3


def test_seeds_without_control_stages_are_tested_against_no_change():
    found = separation(Runs([1.0, 1.2, 0.9], [[], [], []]))
    assert found.p == pytest.approx(stats.ttest_1samp([1.0, 1.2, 0.9], 0).pvalue)
    assert found.basis == "seeds"


@pytest.mark.parametrize("runs", [Runs([5.0], [[]]), Runs([5.0], [[1.0]]), Runs([5.0, 6.0], [[], []])])
def test_too_few_runs_test_nothing(runs):
    found = separation(runs)
    assert found.basis is None
    assert math.isnan(found.p)
    assert draws_needed(runs, found, 0.05) == FEWEST_CONTROLS


def test_several_seeds_are_tested_on_their_excesses_by_hand():
    """Real less mean of controls: 2.0, 3.0 and 2.5; mean 2.5, SD 0.5: t = 2.5 / (0.5 / sqrt(3)) = 8.66 at 2 df.

    However many control stages each seed has: what a stage does differs from seed to seed.
    """
    found = separation(Runs([3.0, 3.0, 2.5], [[1.0, 0.5, 1.5], [0.0, 0.2, -0.2], [0.0]]))
    assert (found.excess, found.df, found.basis) == (pytest.approx(2.5), 2, "control stages in every seed")
    assert found.p == pytest.approx(2 * stats.t.sf(2.5 / (0.5 / math.sqrt(3)), 2))
    # around their own means: squares 0.5, 0.08 and none, of 2 + 2 degrees of freedom
    assert found.run_noise == pytest.approx(math.sqrt(0.58 / 4))


def test_seeds_that_start_from_different_places_do_not_add_to_the_noise():
    """Each seed's runs are shifted by 10 times its number; only what differs within a seed counts."""
    plain = separation(Runs([3.0, 3.2], [[1.0, 1.1, 0.9], [1.0, 0.8, 1.3]]))
    moved = separation(Runs([13.0, 23.2], [[11.0, 11.1, 10.9], [21.0, 20.8, 21.3]]))
    assert moved.p == pytest.approx(plain.p)
    assert moved.excess == pytest.approx(plain.excess)


def test_runs_that_do_not_differ_at_all_leave_no_doubt():
    assert separation(Runs([2.0], [[1.0, 1.0, 1.0]])).p == 0
    assert separation(Runs([1.0], [[1.0, 1.0, 1.0]])).p == 1


def test_draws_needed_by_hand():
    """Excess 6 SDs. Two controls: 12.706 * sqrt(1.5) = 15.6; three: 4.303 * sqrt(4/3) = 4.97 < 6, but never fewer
    than FEWEST_CONTROLS are advised."""
    runs = Runs([6.0], [[-1.0, 1.0]])
    found = separation(runs)._replace(excess=6.0, run_noise=1.0)
    assert draws_needed(runs, found, 0.05) == FEWEST_CONTROLS
    assert draws_needed(runs, found._replace(excess=3.2), 0.05) == 5  # four: 3.56; five: 2.776 * sqrt(6/5) = 3.04
    assert draws_needed(runs, found._replace(excess=1.5), 0.05) is None  # below 1.96 even with any number


def test_controls_that_are_there_are_not_asked_for_again():
    """Four of them, and 3.2 SDs: five would do at 5%, by hand above."""
    runs = Runs([3.2], [[-1.0, 1.0, -0.5, 0.5]])
    found = separation(runs)._replace(excess=3.2, run_noise=1.0)
    assert draws_needed(runs, found, 0.05) == 5
    in_seeds = Runs([3.2, 0.0], [[-1.0, 1.0, -0.5, 0.5]] * 2)
    assert draws_needed(in_seeds, separation(in_seeds), 0.05) is None


def test_seeds_needed_by_hand():
    """Excesses 1 and 3: mean 2, SD sqrt(2). Five seeds: 2.776 sqrt(2 / 5) = 1.756 < 2; four: 3.182 sqrt(2 / 4) > 2."""
    runs = Runs([1.0, 3.0], [[0.0], [0.0]])
    assert seeds_needed(runs, separation(runs), 0.05) == 5


def test_where_the_next_run_is_expected_by_hand():
    """One seed at 6, controls of SD 1 (2 df): 6 +- 4.303 sqrt(2). Seeds 1, 2, 3: 2 +- 4.303 sqrt(1 + 1/3)."""
    one = Runs([6.0], [[1.0, 2.0, 3.0]])
    assert next_run(one, separation(one), 0.95)[1] == pytest.approx(6 + 4.302653 * math.sqrt(2))
    seeds = Runs([1.0, 2.0, 3.0], [[], [], []])
    assert next_run(seeds, separation(seeds), 0.95)[0] == pytest.approx(2 - 4.302653 * math.sqrt(4 / 3))


def test_a_seed_that_went_the_other_way_is_never_attributable(make_panel, make_scores, score_rows):
    """Twelve seeds, eleven at -1 and one at +0.1: p is small, and the recipe does not do it each time."""
    taught = np.linspace(1, 3, 40)
    shifts = [-1.0 + 0.01 * seed for seed in range(11)] + [0.1]
    rows = [score_rows({(1, 0): taught, (2, 0): taught + s, (2, 1): taught}, seed=i) for i, s in enumerate(shifts)]
    found = to_json(recipes(cells(panels(make_scores(*rows))), 0.95))[0]["margin"]
    assert found["p_holm"] < 0.001
    assert (found["n_seeds"], found["n_seeds_alike"]) == (12, 11)
    assert found["statement"] == NOT_SEPARABLE


def test_over_several_stages_control_stages_are_not_advised(make_panel):
    taught = np.linspace(1, 3, 40)
    margins = {(k, 0): taught - 0.1 * k for k in (1, 2, 3)} | {(3, k): taught for k in (1, 2, 3, 4)}
    _, _, whole = to_json(recipes(cells([make_panel(margins, order="a>b>c")]), 0.95))
    assert (whole["margin"]["statement"], whole["margin"]["n_controls"]) == (UNTESTED, 0)
    assert (whole["margin"]["draws_needed"], whole["margin"]["seeds_needed"]) == (None, 3)


def test_of_several_quantities_the_one_that_stands_out_is_named(make_panel):
    taught = np.array([1.0] * 11 + [-1.0] * 9)
    margins = {(1, 0): taught, (2, 0): -taught} | {(2, k): taught + k / 10 for k in (1, 2, 3)}
    (found,) = recipes(cells([make_panel(margins)]), 0.95)
    assert strongest(found) in ("accuracy", "flips")  # no run noise there at all


def panel_of(make_panel, real_shift, control_shifts, **where):
    taught = np.linspace(1, 3, 40)
    margins = {(1, 0): taught, (2, 0): taught + real_shift}
    margins |= {(2, k): taught + shift for k, shift in enumerate(control_shifts, 1)}
    return make_panel(margins, **where)


@pytest.mark.parametrize(
    ("real_shift", "controls", "statement"),
    [
        (-1.0, [0.1, 0.0, -0.1], ATTRIBUTABLE),
        (-0.2, [0.1, 0.0, -0.1], NOT_SEPARABLE),
        (-1.0, [0.1], UNTESTED),
        (-1.0, [], UNTESTED),
    ],
)
def test_the_statement_on_planted_runs(make_panel, real_shift, controls, statement):
    (found,) = to_json(recipes(cells([panel_of(make_panel, real_shift, controls)]), 0.95))
    assert found["margin"]["statement"] == statement
    assert found["margin"]["n_controls"] == len(controls)
    if controls:
        assert found["margin"]["excess"] == pytest.approx(real_shift - np.mean(controls))


def test_the_interval_ends_where_the_test_turns(make_panel):
    (found,) = to_json(recipes(cells([panel_of(make_panel, -1.0, [0.1, 0.0, -0.1])]), 0.95))
    half = stats.t.ppf(0.975, 2) * 0.1 * math.sqrt(4 / 3)  # the SD of the controls is 0.1
    assert found["margin"]["low"] == pytest.approx(-1 - half)
    assert found["margin"]["high"] == pytest.approx(-1 + half)


def test_p_values_are_adjusted_over_cells_and_quantities(make_panel):
    """Two cells, three quantities each: statsmodels adjusts the six p values alike."""
    both = cells(
        [
            panel_of(make_panel, -1.0, [0.1, 0.0, -0.1], objective="a"),
            panel_of(make_panel, -2.7, [0.1, -0.9, -0.3], objective="b", order="b>a"),
        ]
    )
    found = [record[name] for record in to_json(recipes(both, 0.95)) for name in QUANTITIES]
    raw = [record["p"] for record in found]
    assert len(set(raw)) == 3  # each cell's margin, and the flips and accuracies in which no run differs
    assert [record["p_holm"] for record in found] == pytest.approx(multipletests(raw, method="holm")[1])


def test_looks_share_the_risk(make_panel):
    one, three = (
        recipes(cells([panel_of(make_panel, -1.0, [0.1, 0.0, -0.1])]), 0.95, looks)[0]["margin"] for looks in (1, 3)
    )
    assert three.p == one.p
    assert three.p_holm == pytest.approx(3 * one.p_holm)


def test_seeds_of_one_recipe_share_a_statement(make_panel, make_scores, score_rows):
    taught = np.linspace(1, 3, 40)
    rows = [
        score_rows({(1, 0): taught, (2, 0): taught - 1 - seed / 10, (2, 1): taught + seed / 10}, seed=seed)
        for seed in (0, 1, 2)
    ]
    found = to_json(recipes(cells(panels(make_scores(*rows))), 0.95))
    assert len(found) == 3
    assert found[0] == found[1] == found[2]
    # real -1.0, -1.1, -1.2, controls 0.0, 0.1, 0.2: differences -1.0, -1.2, -1.4
    assert found[0]["margin"]["p"] == pytest.approx(stats.ttest_1samp([-1.0, -1.2, -1.4], 0).pvalue)


def test_flips_and_accuracy_have_statements_of_their_own(make_panel):
    """All 20 pairs flip in the real stage, 11 of them from right to wrong, and none in the controls."""
    taught = np.array([1.0] * 11 + [-1.0] * 9)
    margins = {(1, 0): taught, (2, 0): -taught} | {(2, k): taught for k in (1, 2, 3)}
    (found,) = to_json(recipes(cells([make_panel(margins)]), 0.95))
    assert found["flips"]["excess"] == 1
    assert found["flips"]["statement"] == ATTRIBUTABLE
    assert found["accuracy"]["excess"] == pytest.approx(9 / 20 - 11 / 20)
