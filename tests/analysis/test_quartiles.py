"""Quartiles: regression to the mean is never a finding, and what is planted is found."""

import itertools
import json
import math

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests

from seqdpo.analysis.association import slope_by_instrument
from seqdpo.analysis.cells import Cell
from seqdpo.analysis.estimates import difference, two_sided
from seqdpo.analysis.margins import PairScores
from seqdpo.analysis.panel import At, Panel
from seqdpo.analysis.quartiles import independent_runs, quartile_record, quartiles
from seqdpo.analysis.schema import to_json

ORDER = "a>b>c"


def pair_scores(margin):
    """The whole margin is on the chosen side."""
    margin = np.asarray(margin, dtype=float)
    same, one = np.zeros(len(margin)), np.ones(len(margin))
    return PairScores(margin, same, same, same, one, one)


def make_cell(stages, controls=(), others=(), prompts=None):
    """`stages` are the margins after stage 1 (which taught), 2, ...; the cell is what the last one did.

    `controls` stand beside the last stage, `others` are stage 1 in the seeds 1, 2, ...
    """
    margins = {At(0, ORDER, i + 1): margin for i, margin in enumerate(stages)}
    margins |= {At(0, ORDER, len(stages), i + 1): margin for i, margin in enumerate(controls)}
    margins |= {At(i + 1, ORDER, 1): margin for i, margin in enumerate(others)}
    n = len(stages[0])
    ids = pa.array([f"pair{i}" for i in range(n)])
    clusters = np.arange(n) if prompts is None else np.asarray(prompts)
    checkpoints = {at: pair_scores(margin) for at, margin in margins.items()}
    panel = Panel("a", "eval", ids, clusters, pa.table({"pair_id": ids}), checkpoints, dict.fromkeys(margins, "x"))
    return Cell(panel, 0, ORDER, taught=1, start=len(stages) - 1, end=len(stages))


def record_of(cell, confidence=0.95):
    record = to_json(quartile_record(cell, independent_runs(cell), confidence))
    json.dumps(record, allow_nan=False)
    return record


def values(rows, name):
    return [row[name]["value"] for row in rows]


# the quartiles


def test_quartiles_by_hand():
    # sorted 1 ... 8: the quantiles are 1 + 7/4, 1 + 7/2, 1 + 21/4
    found = quartiles(np.array([8.0, 1.0, 3.0, 2.0, 7.0, 5.0, 6.0, 4.0]))
    assert found.edges == (2.75, 4.5, 6.25)
    assert found.codes.tolist() == [3, 0, 1, 0, 3, 2, 2, 1]
    assert [found.bounds(i) for i in range(4)] == [(None, 2.75), (2.75, 4.5), (4.5, 6.25), (6.25, None)]


@pytest.mark.parametrize(
    ("numbers", "codes"),
    [
        ([0.0, 1.0, 1.0, 1.0], [0, 1, 1, 1]),  # edges 0.75, 1, 1: the ones are at an edge, and so below it
        ([1.0, 1.0, 1.0, 2.0], [0, 0, 0, 3]),  # edges 1, 1, 1.25
        ([5.0, 5.0], [0, 0]),
        ([math.nan, 1.0, 2.0, math.nan, 3.0, 4.0], [-1, 0, 1, -1, 2, 3]),
        ([math.nan], [-1]),
        ([], []),
    ],
)
def test_equal_values_share_a_quartile_and_undefined_ones_are_in_none(numbers, codes):
    assert quartiles(np.array(numbers)).codes.tolist() == codes


def test_which_quartile_does_not_depend_on_the_order_of_the_rows():
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 9, 50).astype(float)
    rows = generator.permutation(50)
    assert (quartiles(numbers[rows]).codes == quartiles(numbers)[0][rows]).all()


# the three tables by hand


TAUGHT = [-1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]  # quartiles of two pairs each
AFTER = [1.0, 3.0, 2.0, 3.0, -4.0, 5.0, 6.0, -1.0]  # changes 2, 2 | 0, 0 | -8, 0 | 0, -8
CONTROLS = ([0.0, 1.0, 2.0, 4.0, 4.0, 5.0, 6.0, 7.0], [-1.0, 1.0, 2.0, 4.0, 4.0, -1.0, 6.0, 7.0])


def test_table_as_in_the_study_by_hand():
    """Mean changes 2, 0, -4, -4; accuracy of Q1 1/2 to 1, of Q3 and Q4 1 to 1/2."""
    table = record_of(make_cell([TAUGHT, AFTER]))["as_in_the_study"]
    rows = table["rows"]
    assert [row["quartile"] for row in rows] == ["Q1", "Q2", "Q3", "Q4"]
    assert [(row["n"], row["n_prompts"]) for row in rows] == [(2, 2)] * 4
    assert values(rows, "margin_change") == [2, 0, -4, -4]
    assert values(rows, "accuracy_change") == [0.5, 0, -0.5, -0.5]
    assert [row["lost"] for row in rows] == [0, 0, 1, 1]
    assert [row["regained"] for row in rows] == [1, 0, 0, 0]
    assert rows[0]["margin_up_to"] == rows[1]["margin_above"] == 1.75  # a quarter of the way from 1 to 2 is left


def test_table_as_in_the_study_cannot_pass_for_a_finding():
    table = record_of(make_cell([TAUGHT, AFTER], CONTROLS, [TAUGHT[::-1]]))["as_in_the_study"]
    assert table["biased"] is True
    assert "Not a finding" in table["text"]
    assert "q4_minus_q1" not in table
    for row in table["rows"]:
        assert row["biased"] is True
        assert not [key for key in row if key.startswith("p")]
        assert (row["margin_change"]["low"], row["accuracy_change"]["high"]) == (None, None)


def test_cross_fitted_table_uses_the_mean_of_the_other_seeds():
    """Their means fall from 8 to 1, so that Q1 holds the last two pairs; the first of them alone rises."""
    others = [np.arange(8.0) * 3, 2 * np.arange(8.0, 0.0, -1.0) - np.arange(8.0) * 3]
    table = record_of(make_cell([TAUGHT, AFTER], others=others))["cross_fitted"]
    assert values(table["rows"], "margin_change") == [-4, -4, 0, 2]
    assert [row["lost"] for row in table["rows"]] == [1, 1, 0, 0]
    assert table["rows"][0]["margin_up_to"] == 2.75
    assert table["q4_minus_q1"]["value"] == 6


def test_excess_table_takes_the_controls_mean_change_away():
    """Changes in the controls: 1, 0 | 0, 1 | 0, 0 | 0, 0 and 0, 0 | 0, 1 | 0, -6 | 0, 0.

    Means of both: 1/2, 0 | 0, 1 | 0, -3 | 0, 0. Excess: 3/2, 2 | 0, -1 | -8, 3 | 0, -8.
    Accuracy of pair 1: 0 to 1 in fact, to 1/2 and 0 in the controls: excess 3/4.
    """
    table = record_of(make_cell([TAUGHT, AFTER], CONTROLS))["excess_over_placebo"]
    rows = table["rows"]
    assert values(rows, "excess_margin_change") == [1.75, -0.5, -2.5, -4]
    assert values(rows, "excess_accuracy_change") == [0.375, 0, -0.25, -0.5]
    assert [(row["lost"], row["lost_in_controls"]) for row in rows] == [(0, 0), (0, 0), (1, 0.5), (1, 0)]
    assert [(row["regained"], row["regained_in_controls"]) for row in rows] == [(1, 0), (0, 0), (0, 0), (0, 0)]
    assert table["q4_minus_q1"]["value"] == -5.75


def test_quartiles_are_those_of_the_stage_that_taught_however_late_the_change():
    """After stage 2 the pairs stand the other way round; the change of stage 3 is still told by stage 1."""
    record = record_of(make_cell([TAUGHT, TAUGHT[::-1], np.add(TAUGHT[::-1], TAUGHT)]))
    assert values(record["as_in_the_study"]["rows"], "margin_change") == [0, 2.5, 4.5, 6.5]  # means of TAUGHT by two


def test_empty_quartiles_are_undefined_and_take_no_part():
    others = [[0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]  # all edges at 1
    record = record_of(make_cell([TAUGHT, AFTER], others=others))
    rows = record["cross_fitted"]["rows"]
    assert [row["n"] for row in rows] == [8, 0, 0, 0]
    assert rows[3]["margin_change"]["value"] is None
    assert rows[3]["p_holm"] is None
    assert rows[0]["p_holm"] == pytest.approx(stats.ttest_1samp(np.subtract(AFTER, TAUGHT), 0).pvalue)  # of one
    assert record["cross_fitted"]["q4_minus_q1"]["p"] is None


def test_independent_runs_are_the_same_stage_and_order_in_other_seeds():
    cell = make_cell([TAUGHT, AFTER], CONTROLS, [TAUGHT, AFTER])
    more = {At(3, "a>c>b", 1): 1.0, At(3, ORDER, 2): 2.0, At(3, ORDER, 1, 1): 3.0}
    cell.panel.checkpoints.update({at: pair_scores([margin] * 8) for at, margin in more.items()})
    found = independent_runs(cell)
    assert [scores.margin.tolist() for scores in found] == [TAUGHT, AFTER]


# tests


def test_difference_equals_least_squares_with_clusters_on_both_sides():
    """statsmodels without its small-sample factor, times G/(G-1) of the side with fewer prompts."""
    generator = np.random.default_rng(1)
    prompts = generator.integers(0, 12, 60)
    first = (prompts < 4) | (generator.random(60) < 0.3)
    second = ~first & (generator.random(60) < 0.8)
    numbers = generator.normal(size=60) + generator.normal(size=12)[prompts]
    rows = np.flatnonzero(first | second)
    fit = sm.OLS(numbers[rows], sm.add_constant(first[rows].astype(float))).fit(
        cov_type="cluster", cov_kwds={"groups": prompts[rows], "use_correction": False}
    )
    found = difference(numbers, first, second, prompts)
    fewest = len(set(prompts[second]))
    assert len(set(prompts[first])) > fewest
    assert set(prompts[first]) & set(prompts[second])
    assert found.value == pytest.approx(fit.params[1])
    assert found.se == pytest.approx(fit.bse[1] * math.sqrt(fewest / (fewest - 1)))
    assert (found.n, found.n_prompts) == (len(rows), fewest)


def test_difference_of_sides_without_two_prompts_has_no_p():
    found = difference(np.arange(4.0), np.array([1, 1, 0, 0]) == 1, np.array([0, 0, 1, 1]) == 1, np.array([0, 0, 1, 2]))
    assert found.value == -2
    assert two_sided(found) is None


def test_p_values_are_those_of_t_tests_adjusted_by_holm():
    generator = np.random.default_rng(2)
    taught, other = generator.normal(size=(2, 80))
    change = generator.normal(size=80) + 0.4 * other
    table = record_of(make_cell([taught, taught + change], others=[other]))["cross_fitted"]
    members = np.argsort(other).reshape(4, 20)
    p = [stats.ttest_1samp(change[rows], 0).pvalue for rows in members]
    assert [row["p_holm"] for row in table["rows"]] == pytest.approx(multipletests(p, method="holm")[1].tolist())
    t = stats.ttest_ind(change[members[3]], change[members[0]]).statistic  # of two sides of 20, as Welch's
    assert table["q4_minus_q1"]["p"] == pytest.approx(2 * stats.t.sf(abs(t), 19))


# slopes and spread


X, E = np.tile([1.0, -1.0, 1.0, -1.0], 10), np.tile([1.0, 1.0, -1.0, -1.0], 10)  # mean 0, uncorrelated


def test_corrected_slope_by_hand():
    """The other seed's margins are z = .8 x + .6 e, the change -.318 x + .1 e: cov(change, z) = -.2544 + .06 and
    cov(x, z) = .8, so -.243."""
    slope = record_of(make_cell([X, X - 0.318 * X + 0.1 * E], others=[0.8 * X + 0.6 * E]))["slope"]
    assert slope["correlation_between_seeds"] == pytest.approx(0.8)
    assert slope["biased"]["value"] == pytest.approx(-0.318)
    assert slope["biased"]["low"] is None
    assert slope["corrected"]["value"] == pytest.approx(-0.243)
    assert slope["excess_over_placebo"] is slope["excess_corrected"] is None


def test_slope_by_an_instrument_equals_two_stage_least_squares():
    """Errors clustered by prompt: those of statsmodels for the second stage, its residuals with the margin itself."""
    generator = np.random.default_rng(8)
    x, z, y = generator.normal(size=(3, 90)) + generator.normal(size=90)
    clusters = np.unique(generator.integers(0, 30, 90), return_inverse=True)[1]
    found = slope_by_instrument(y, x, z, clusters, 0.95)
    fitted = sm.OLS(x, sm.add_constant(z)).fit().fittedvalues
    second = sm.OLS(y, sm.add_constant(fitted)).fit()
    assert found.value == pytest.approx(second.params[1])
    residuals = y - sm.add_constant(x) @ second.params
    centred = fitted - fitted.mean()
    sums = np.bincount(clusters, weights=centred * residuals)
    leverage = np.bincount(clusters) / 90  # of a mean, whose CR2 error this is
    expected = math.sqrt(float(np.sum(sums**2 / (1 - leverage)))) / float(centred @ centred)
    assert found.se == pytest.approx(expected)


def test_correlation_is_the_mean_over_the_other_seeds():
    slope = record_of(make_cell([X, X + E], others=[0.8 * X + 0.6 * E, 0.6 * X - 0.8 * E]))["slope"]
    assert slope["correlation_between_seeds"] == pytest.approx(0.7)


def test_slope_is_not_corrected_by_seeds_that_share_nothing():
    against = record_of(make_cell([X, X + E], others=[-X]))["slope"]
    assert (against["correlation_between_seeds"], against["corrected"]) == (pytest.approx(-1), None)
    flat = record_of(make_cell([X, X + E], others=[np.ones(40)]))["slope"]
    assert (flat["correlation_between_seeds"], flat["corrected"]) == (None, None)
    later = record_of(make_cell([X, X + E, X], others=[0.8 * X + 0.6 * E]))["slope"]  # starts at stage 2
    assert later["corrected"]["value"] == pytest.approx(-0.6 / 0.8)  # its change is -e


def test_slope_beyond_the_controls_is_the_difference_of_the_slopes():
    generator = np.random.default_rng(3)
    taught, after, *controls = generator.normal(size=(4, 30))
    slope = record_of(make_cell([taught, after], controls))["slope"]
    of = [stats.linregress(taught, margin - taught).slope for margin in (after, *controls)]
    assert slope["excess_over_placebo"]["value"] == pytest.approx(of[0] - (of[1] + of[2]) / 2)
    beyond = slope["beyond_controls"]
    assert beyond["excess"] == pytest.approx(slope["excess_over_placebo"]["value"])
    se = abs(of[1] - of[2]) / math.sqrt(2) * math.sqrt(1.5)
    assert beyond["p"] == pytest.approx(2 * stats.t.sf(abs(beyond["excess"]) / se, 1))


def test_redistribution_index_by_hand():
    """Changes 3, -3, 3, -3: variance 9; in the controls 1 and 3 around 0: (1 + 9) / 2 = 5; SD when taught 2."""
    x, e = np.array([2.0, 2.0, -2.0, -2.0]), np.array([1.0, -1.0, 1.0, -1.0])
    assert record_of(make_cell([x, x + 3 * e], [x + e, x - 3 * e]))["redistribution_index"] == pytest.approx(1)
    assert record_of(make_cell([x, x + e], [x + 3 * e]))["redistribution_index"] == 0
    assert record_of(make_cell([x, x + e]))["redistribution_index"] is None


# the finding


def planted(n=400):
    """Margins whose four quartiles are known, and a noise of mean 0 and SD 0.1 in each."""
    taught = np.arange(n, dtype=float)
    return taught, 0.1 * np.tile([1.0, -1.0], n // 2), np.repeat(np.arange(4), n // 4)


@pytest.mark.parametrize(
    ("shifts", "rose", "fell", "redistributed", "words"),
    [
        ([1, 0, 0, -1], ["Q1"], ["Q4"], True, "Q1 rose while Q4 fell"),
        ([1, 1, 0, -1], ["Q1", "Q2"], ["Q4"], True, "Q1 and Q2 rose while Q4 fell"),
        ([0, 0, -1, -1], [], ["Q3", "Q4"], False, "Q3 and Q4 fell in the margins of a, and none rose"),
        ([1, 1, 1, 1], ["Q1", "Q2", "Q3", "Q4"], [], False, "and none fell"),
        ([0, 0, 0, 0], [], [], False, "no quartile of a rose or fell"),
    ],
)
@pytest.mark.parametrize("basis", ["cross_fitted", "excess_over_placebo"])
def test_finding_names_the_quartiles_that_moved(shifts, rose, fell, redistributed, words, basis):
    taught, noise, quartile = planted()
    after = taught + noise + np.array(shifts)[quartile]
    controls = [taught + still for still in (0.002, -0.001, 0.001, 0)]
    others = [taught] if basis == "cross_fitted" else []
    record = record_of(make_cell([taught, after], controls, others))
    found = record["finding"]
    assert (found["basis"], found["rose"], found["fell"]) == (basis, rose, fell)
    assert found["redistributed_between_quartiles"] is redistributed
    assert words in found["sentence"]
    assert found["sentence"].startswith("Redistributed" if redistributed else "No shift between quartiles shown")
    assert record["withheld"] is None


def test_other_seeds_are_preferred_to_control_stages():
    taught, noise, quartile = planted()
    after = taught + noise + np.array([1, 0, 0, -1])[quartile]
    record = record_of(make_cell([taught, after], controls=[after, after + 1e-3], others=[taught]))
    assert record["finding"]["basis"] == "cross_fitted"
    rows = record["cross_fitted"]["rows"]
    assert values(rows, "margin_change") == pytest.approx([1, 0, 0, -1], abs=1e-9)
    assert [row["beyond_controls"]["excess"] for row in rows] == pytest.approx([-5e-4] * 4)
    assert record["finding"]["rose"] == []  # the controls did the same


def test_quartiles_that_control_stages_move_as_far_are_no_finding():
    """Q1 rises 1 and Q4 falls 1, far beyond the noise of their pairs; in three controls Q1 moves -1, 0 and 2.

    Mean 1/3, SD sqrt(7/3): the real 1 is 2/3 above, t = .378 at 2 df, p = .742.
    """
    taught, noise, quartile = planted()
    controls = [taught + np.array([shift, 0, 0, -shift])[quartile] for shift in (-1, 0, 2)]
    record = record_of(make_cell([taught, taught + noise + np.array([1, 0, 0, -1])[quartile]], controls))
    first, *_, last = record["excess_over_placebo"]["rows"]
    assert first["p_holm"] < 1e-20
    assert first["beyond_controls"]["excess"] == pytest.approx(2 / 3)
    assert first["beyond_controls"]["p"] == last["beyond_controls"]["p"] == pytest.approx(0.742, abs=1e-3)
    assert (first["run_p_holm"], record["finding"]["redistributed_between_quartiles"]) == (1, False)
    assert record["excess_over_placebo"]["q4_minus_q1"]["beyond_controls"]["excess"] == pytest.approx(-4 / 3)


def test_one_control_stage_tells_nothing_of_run_noise():
    taught, noise, quartile = planted()
    after = taught + noise + np.array([1, 0, 0, -1])[quartile]
    for compared in ({"controls": [taught]}, {"controls": [taught], "others": [taught]}, {"others": [taught]}):
        record = record_of(make_cell([taught, after], **compared))
        assert record["finding"] is None
        assert "at least two control stages" in record["withheld"]
        assert "`placebo: 4`" in record["withheld"]


def test_finding_is_withheld_without_anything_to_compare_with():
    taught, noise, quartile = planted()
    after = taught + noise + np.array([1, 0, 0, -1])[quartile]
    record = record_of(make_cell([taught, after]))
    assert (record["finding"], record["cross_fitted"], record["excess_over_placebo"]) == (None, None, None)
    assert "`placebo: 4`" in record["withheld"]


def test_over_several_stages_no_control_stage_is_asked_for():
    cell = make_cell([TAUGHT, AFTER, AFTER], CONTROLS)
    whole = Cell(cell.panel, 0, ORDER, taught=1, start=1, end=3)
    record = record_of(whole)
    assert record["excess_over_placebo"] is None
    assert "placebo" not in record["withheld"]
    assert "See the cells of the single stages" in record["withheld"]  # of which other seeds tell no more


def test_undefined_margin_leaves_nothing_to_find():
    taught, noise, _ = planted()
    after = taught + noise
    after[7] = math.nan
    record = record_of(make_cell([taught, after], controls=[taught, taught + noise], others=[taught]))
    assert record["finding"] is None
    assert "no finite log-probability" in record["withheld"]
    assert values(record["as_in_the_study"]["rows"], "margin_change") == [None] * 4
    assert record["slope"]["corrected"] is record["redistribution_index"] is None


# properties


def random_cell(seed=4, n=60, sign=1.0, scale=1.0, shift=0.0, rows=slice(None)):
    generator = np.random.default_rng(seed)
    taught, after, control, other = generator.normal(size=(4, n)) + generator.normal(size=n)
    prompts = np.unique(generator.integers(0, 40, n)[rows], return_inverse=True)[1]
    taught, after, control, other = (sign * scale * margin[rows] for margin in (taught, after, control, other))
    return make_cell([taught, after + shift], [control], [other], prompts)


@pytest.mark.parametrize("table", ["cross_fitted", "excess_over_placebo"])
def test_shift_scale_and_swap_of_the_labels(table):
    name = "margin_change" if table == "cross_fitted" else "excess_margin_change"
    plain = record_of(random_cell())[table]
    shifted = record_of(random_cell(shift=0.7))[table]
    assert values(shifted["rows"], name) == pytest.approx([v + 0.7 for v in values(plain["rows"], name)])
    assert shifted["q4_minus_q1"]["value"] == pytest.approx(plain["q4_minus_q1"]["value"])
    scaled = record_of(random_cell(scale=5.0))[table]
    assert values(scaled["rows"], name) == pytest.approx([5 * v for v in values(plain["rows"], name)])
    assert [row["p_holm"] for row in scaled["rows"]] == pytest.approx([row["p_holm"] for row in plain["rows"]])
    swapped = record_of(random_cell(sign=-1.0))[table]
    assert values(swapped["rows"], name) == pytest.approx([-v for v in values(plain["rows"], name)][::-1])
    assert [row["lost"] for row in swapped["rows"]] == [row["regained"] for row in plain["rows"]][::-1]


def flat(record):
    """Every number and text of a record, in order."""
    if isinstance(record, dict):
        return list(itertools.chain.from_iterable(flat(value) for value in record.values()))
    if isinstance(record, list):
        return list(itertools.chain.from_iterable(map(flat, record)))
    return [record]


def test_the_order_of_the_rows_does_not_matter():
    rows = np.random.default_rng(5).permutation(60)
    for one, other in zip(flat(record_of(random_cell())), flat(record_of(random_cell(rows=rows))), strict=True):
        assert one == (pytest.approx(other) if isinstance(other, float) else other)


# what is planted is found, and nothing else


def draw(generator, n, slope=0.0, rho=0.9, n_controls=4, run_noise=0.2):
    """Margins around one true margin of variance rho. What taught them left noise of variance 1 - rho, of which half
    stays; every later run turns the margins by a slope of its own, of SD `run_noise`, and the real one by `slope` more.
    """
    true = generator.normal(0, math.sqrt(rho), n)
    own, other = generator.normal(0, math.sqrt(1 - rho), (2, n))

    def after(turn):
        fresh = generator.normal(0, math.sqrt(1 - rho), n)
        return true * (1 + turn) + math.sqrt(0.5) * (own + fresh)

    controls = [after(turn) for turn in generator.normal(0, run_noise, n_controls)]
    return true + own, after(slope + generator.normal(0, run_noise)), controls, true + other


def test_no_change_is_no_finding_although_pairs_alone_would_show_one():
    """300 draws of 1,000 pairs. Were the true rate 5%, more than 27 claims would have a chance of 0.2% (binomial).

    Tested over pairs alone, the turn that a run gives to all of them would pass for redistribution in most draws.
    """
    generator = np.random.default_rng(6)
    claims = {"cross_fitted": 0, "excess_over_placebo": 0}
    by_pairs_alone = 0
    for _ in range(300):
        taught, after, controls, other = draw(generator, 1000)
        for name, others in (("cross_fitted", [other]), ("excess_over_placebo", [])):
            record = record_of(make_cell([taught, after], controls, others))
            claims[name] += record["finding"]["redistributed_between_quartiles"]
        signs = {
            np.sign(row["excess_margin_change"]["value"])
            for row in record["excess_over_placebo"]["rows"]
            if row["p_holm"] <= 0.05
        }
        by_pairs_alone += signs == {1, -1}
    assert max(claims.values()) <= 27
    assert by_pairs_alone > 150


def test_planted_redistribution_is_found():
    """A slope of -1 makes Q4 - Q1 about -2.4, where control stages differ by 0.2 * 2.4 = 0.5: found in nearly all."""
    generator = np.random.default_rng(7)
    found = []
    for _ in range(30):
        taught, after, controls, other = draw(generator, 1000, slope=-1.0, n_controls=8, run_noise=0.1)
        record = record_of(make_cell([taught, after], controls, [other]))
        found.append((record["finding"]["rose"][:1], record["finding"]["fell"][-1:]))
    assert found.count((["Q1"], ["Q4"])) >= 27


def test_slope_on_what_seeds_share_is_found_where_noise_stays():
    """A slope of -0.2; half of the noise of the taught margins stays in the later ones, so the observed slope is
    (-.2 * .9 - (1 - sqrt(.5)) * .1) / 1 = -.209. Blomqvist's correction takes all of it to be new and would read
    (-.209 + .1) / .9 = -.12. 40 draws of 2,000 pairs: the SE of the mean is about .01 / sqrt(40)."""
    generator = np.random.default_rng(10)
    found = []
    for _ in range(40):
        taught, after, controls, other = draw(generator, 2000, slope=-0.2, run_noise=0.0)
        slope = record_of(make_cell([taught, after], controls, [other]))["slope"]
        found.append([slope["biased"]["value"], slope["corrected"]["value"], slope["excess_corrected"]["value"]])
    assert np.mean(found, axis=0) == pytest.approx([-0.209, -0.2, -0.2], abs=0.006)
