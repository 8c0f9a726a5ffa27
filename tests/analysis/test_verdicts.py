"""The rule: classes, words, levels and numbers of pairs by hand; what is planted is what is found."""

import itertools
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from seqdpo.analysis.cells import cells
from seqdpo.analysis.schema import Class, Excess, Word, to_json
from seqdpo.analysis.sentences import sentence
from seqdpo.analysis.verdicts import Tolerances, evidence, rulings, verdict_word, verdicts

#: 400 pairs that learned a mean margin of 4 with an SD of 1, none of them near 0: the tolerance is 0.4 nats.
TAUGHT = stats.norm.ppf((np.arange(400) + 0.5) / 400) + 4
#: A change of mean 0 whose SD is 0.4: its 90% interval is +-0.033 wide.
NOISE = 0.4 * stats.norm.ppf((np.random.default_rng(0).permutation(400) + 0.5) / 400)


def judge(make_panel, after, controls=(), taught=TAUGHT, tolerances=Tolerances(), **where):  # noqa: B008
    margins = {(1, 0): taught, (2, 0): after} | {(2, 1 + i): control for i, control in enumerate(controls)}
    (record,) = to_json(verdicts(cells([make_panel(margins, **where)]), tolerances))
    return record


@pytest.mark.parametrize(
    ("shift", "verdict", "degree"),
    [
        (-1.0, "DEGRADED", "partial"),  # a quarter of the gain of 4, more than twice the tolerance
        (-3.5, "DEGRADED", "partial"),  # an eighth is left, with an error of a hundredth
        (-6.0, "DEGRADED", "lost"),
        (-0.2, "STABLE", None),
        (0.0, "STABLE", None),
        (1.0, "POSITIVE TRANSFER", None),
    ],
)
def test_a_planted_shift_is_found(make_panel, shift, verdict, degree):
    found = judge(make_panel, TAUGHT + NOISE + shift)
    assert (found["verdict"], found["degree"]) == (verdict, degree)
    change = found["reasons"]["margin_change"]
    assert change["value"] == pytest.approx(shift, abs=1e-9)
    assert change["tolerance"] == pytest.approx(0.4)
    assert found["reasons"]["retention"]["value"] == pytest.approx(1 + shift / 4)
    # the interval in the record, at the level of the margin, which was judged by Holm over all quantities
    half = stats.t.ppf((1 + change["confidence"]) / 2, 399) * NOISE.std(ddof=1) / 20
    assert change["high"] - change["value"] == pytest.approx(half)


def test_the_levels_are_holms_over_margin_accuracy_and_base(make_panel):
    """Without control stages these three. Of 400 pairs none flips: Tango's z of "held" is sqrt(400 0.02 / 0.98) = 2.86,
    p = 0.002 < 0.05 / 2 for the accuracy, the margin's is smaller; nothing is claimed of the base.
    """
    (ruling,) = rulings(cells([make_panel({(1, 0): TAUGHT, (2, 0): TAUGHT + NOISE})]), Tolerances())
    assert ruling.levels == pytest.approx({"margin": 0.05 / 3, "accuracy": 0.05 / 2, "base": 0.05})


def test_how_much_is_left_is_open_where_zero_and_a_tenth_are_both_possible(make_panel):
    """0 of 4 is left, with an error of 0.4: from -0.7 to 0.7, and a tenth is 0.4."""
    found = judge(make_panel, TAUGHT + 20 * NOISE - 4)
    assert (found["verdict"], found["degree"]) == ("DEGRADED", "extent open")


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (-0.5, "the margin that a had learned turned around after b"),
        (-0.02, "nothing is shown to be left of the margin"),
    ],
)
def test_a_margin_is_said_to_have_turned_around_where_it_is_shown_to_have(make_panel, left, said):
    noise = np.random.default_rng(1).normal(0, 0.5 * TAUGHT.mean(), len(TAUGHT))
    after = left * TAUGHT.mean() + noise - noise.mean()
    found = judge(make_panel, after)
    assert (found["verdict"], found["degree"]) == ("DEGRADED", "lost")
    low, high = found["reasons"]["retention"]["low"], found["reasons"]["retention"]["high"]
    assert (low < 0, high < 0) == (True, left == -0.5)
    assert said in found["sentence"]


def test_two_pairs_claim_nothing(make_panel):
    found = judge(make_panel, [2.0, 3.0], taught=[2.0, 3.0])
    assert found["verdict"] == "UNDEFINED"
    assert "it has 2 prompts, and nothing is claimed of fewer than 5" in found["sentence"]


def test_a_collapse_of_accuracy_is_degraded_by_its_accuracy(make_panel):
    """100 of 400 pairs turn wrong by 7 nats, the others gain 7/3: the mean margin stays at 4."""
    after = TAUGHT + NOISE + np.where(np.arange(400) % 4 == 0, -7.0, 7 / 3)
    found = judge(make_panel, after)
    assert (found["verdict"], found["decided_by"]) == ("DEGRADED", "accuracy")
    assert found["sentence"].startswith("Degraded, by its accuracy: a's changed by -0.250 [")
    (verdict,) = verdicts(cells([make_panel({(1, 0): TAUGHT, (2, 0): after})]), Tolerances())
    assert verdict.words == "DEGRADED, accuracy"


def test_stable_says_whether_the_accuracy_is_shown_to_hold(make_panel):
    """80 of 400 margins are near 0, and 20 of them flip either way: the accuracy stays, within 3 points."""
    taught = np.where(np.arange(400) < 80, 0.01 * (-1.0) ** np.arange(400), TAUGHT + 1)
    after = np.where(np.arange(400) < 40, -taught, taught)
    found = judge(make_panel, after, taught=taught)
    assert (found["verdict"], found["degree"]) == ("STABLE", "margin only")
    assert "neither shown to hold nor to have moved" in found["sentence"]


def test_all_margins_times_a_number_is_scale_only(make_panel):
    spread = TAUGHT * 0.6 + 1  # what is scaled has to differ between pairs
    controls = [spread + shift * NOISE for shift in (0.01, -0.01, 0.02, -0.02)]
    found = judge(make_panel, 0.7 * spread + 0.01 * NOISE, controls, spread)
    assert (found["verdict"], found["tags"]) == ("DEGRADED", ["scale only"])
    assert found["reasons"]["shape"]["scale"]["value"] == pytest.approx(0.7, abs=0.002)
    shifted = judge(make_panel, spread - 0.3 * spread.mean() + 0.01 * NOISE, controls, spread)
    assert (shifted["verdict"], shifted["tags"]) == ("DEGRADED", [])


def test_a_halved_spread_without_a_flip_is_redistributed(make_panel):
    """Margins of 4 +- 1 lie at 4 +- 0.5 afterwards: no pair flips, the low quarter gained and the high one lost."""
    controls = [TAUGHT + k * NOISE / 20 for k in (1, -1, 2, -2)]
    found = judge(make_panel, 4 + 0.5 * (TAUGHT - 4) + NOISE / 20, controls)
    assert (found["verdict"], found["decided_by"]) == ("REDISTRIBUTED", "scale")
    assert found["reasons"]["excess_flips"]["class"] == "ruled out"
    one_control = judge(make_panel, 4 + 0.5 * (TAUGHT - 4) + NOISE / 20, controls[:1])
    assert one_control["verdict"] == "STABLE"
    assert "No excess of sign flips over the control stages." in one_control["sentence"]


def test_what_control_stages_change_by_themselves_is_said(make_panel):
    """Controls at -0.1 and -0.3 nats: -0.2, 5% of the 4 that were learned."""
    found = judge(make_panel, TAUGHT + NOISE - 1, [TAUGHT - 0.1, TAUGHT - 0.3])
    controls = found["reasons"]["controls"]
    assert (controls["margin_change"], controls["share_of_gain"]) == pytest.approx((-0.2, -0.05))
    assert "Any training on these pairs changes the margin by -0.20 (-5% of what was learned)" in found["sentence"]


def test_an_open_change_that_leaves_out_zero_is_said_to_be_one(make_panel):
    found = judge(make_panel, TAUGHT + NOISE - 0.4)
    assert "a's mean margin fell; whether by more than 10% of what was learned is open" in found["sentence"]


def test_a_change_at_the_tolerance_is_inconclusive_and_no_number_settles_it(make_panel):
    found = judge(make_panel, TAUGHT + NOISE - 0.4)
    assert (found["verdict"], found["n_needed"]) == ("INCONCLUSIVE", None)
    assert "no reasonable number" in found["sentence"]


def test_a_pure_reshuffle_is_redistributed_only_beside_a_control_stage(make_panel):
    """300 margins of 3 and 100 of -1; 80 of each kind change places: 40% flip, and the mean stays at 2."""
    taught = np.repeat([3.0, -1.0], [300, 100])
    swapped = taught.copy()
    swapped[220:300], swapped[300:380] = -1.0, 3.0
    tolerances = Tolerances(margin=0.2)
    found = judge(make_panel, swapped, [taught], taught, tolerances)
    assert (found["verdict"], found["redistribution"], found["decided_by"]) == ("REDISTRIBUTED", "found", "flips")
    assert found["reasons"]["excess_flips"]["value"] == pytest.approx(0.4)
    assert "40%" in found["sentence"]
    without = judge(make_panel, swapped, (), taught, tolerances)
    assert (without["verdict"], without["redistribution"]) == ("STABLE", "untested")
    assert "was not tested" in without["sentence"]


def test_flips_that_the_control_stages_show_as_well_are_no_redistribution(make_panel):
    low = TAUGHT - 3.5  # mean 0.5: many pairs near 0
    shaken = low + 3 * NOISE
    found = judge(make_panel, shaken, [shaken], taught=low, tolerances=Tolerances(margin=0.5))
    assert found["reasons"]["excess_flips"]["value"] == 0
    assert found["redistribution"] == "ruled out"


def test_excess_flips_are_those_beyond_the_mean_of_the_control_stages(make_panel):
    """Of 10 pairs 4 flip in the real stage, 1 and 2 in two control stages: 0.4 - 0.15."""
    taught = [1.0] * 10
    (cell,) = cells(
        [
            make_panel(
                {
                    (1, 0): taught,
                    (2, 0): [-1.0] * 4 + [1.0] * 6,
                    (2, 1): [-1.0] + [1.0] * 9,
                    (2, 2): [-1.0] * 2 + [1.0] * 8,
                }
            )
        ]
    )
    assert evidence(cell, Tolerances()).flips.value.value == pytest.approx(0.25)


def test_where_nothing_was_learned_there_is_no_verdict(make_panel):
    nothing = TAUGHT - TAUGHT.mean()
    found = judge(make_panel, nothing, taught=nothing)
    assert found["verdict"] == "UNDEFINED"
    assert "nothing is shown to have been learned" in found["sentence"]
    few = np.where(np.arange(400) < 100, 10.0, -0.1)  # a mean far above 0, three quarters of the pairs wrong
    found = judge(make_panel, few, taught=few)
    assert found["verdict"] == "BELOW BASE"  # which was undecided on every pair: accuracy one half
    assert "nothing is shown to have been learned on top of what the base could do" in found["sentence"]


def test_an_undefined_margin_leaves_the_cell_undefined(make_panel):
    broken = TAUGHT.copy()
    broken[0] = math.nan
    found = judge(make_panel, TAUGHT, taught=broken)
    assert found["verdict"] == "UNDEFINED"
    assert "no finite log-probability" in found["sentence"]
    after = judge(make_panel, broken)
    assert after["verdict"] == "UNDEFINED"
    assert "no finite log-probability" in after["sentence"]


def test_pairs_of_one_prompt_count_as_less_than_pairs_of_many(make_panel):
    """Every pair four times, under its own prompt: the interval is that of the 100 prompts, not of 400 pairs."""
    quarter = TAUGHT[::4], (TAUGHT + NOISE - 0.6)[::4]
    repeated = judge(
        make_panel,
        np.repeat(quarter[1], 4),
        taught=np.repeat(quarter[0], 4),
        prompts=[f"p{i}" for i in np.repeat(np.arange(100), 4)],
    )
    once = judge(make_panel, quarter[1], taught=quarter[0])
    for end in ("low", "high"):
        assert repeated["reasons"]["margin_change"][end] == pytest.approx(once["reasons"]["margin_change"][end])


def test_the_rule_word_by_word():
    """For every combination of the classes of margin and accuracy."""
    expected = {
        ("fell", "fell"): ("DEGRADED", "margin"),
        ("fell", "held"): ("DEGRADED", "margin"),
        ("fell", "unresolved"): ("DEGRADED", "margin"),
        ("fell", "rose"): ("MIXED", "margin"),
        ("rose", "rose"): ("POSITIVE TRANSFER", "margin"),
        ("rose", "held"): ("POSITIVE TRANSFER", "margin"),
        ("rose", "unresolved"): ("POSITIVE TRANSFER", "margin"),
        ("rose", "fell"): ("MIXED", "margin"),
        ("held", "fell"): ("DEGRADED", "accuracy"),
        ("held", "rose"): ("POSITIVE TRANSFER", "accuracy"),
        ("unresolved", "fell"): ("DEGRADED", "accuracy"),
        ("unresolved", "rose"): ("POSITIVE TRANSFER", "accuracy"),
    }
    for (margin, accuracy), word in expected.items():
        for excess, covers_zero in itertools.product(("found", "open"), (True, False)):
            assert verdict_word(margin, accuracy, excess, covers_zero) == word
    for accuracy in ("held", "unresolved"):
        assert verdict_word("held", accuracy, "found", False) == ("REDISTRIBUTED", "flips")
        assert verdict_word("unresolved", accuracy, "found", True) == ("INCONCLUSIVE", "margin")
    assert verdict_word("held", "held", "open", False) == ("STABLE", "margin")
    assert verdict_word("held", "unresolved", "ruled out", True) == ("STABLE", "margin")
    assert verdict_word("held", "unresolved", "ruled out", False) == ("INCONCLUSIVE", "accuracy")


def test_more_cells_make_every_claim_harder(make_panel):
    margins = {(1, 0): TAUGHT, (2, 0): TAUGHT + NOISE - 0.35}  # held: 0.05 / (0.41 / 20) = 2.4 > 1.645, but < 3.02
    alone = to_json(verdicts(cells([make_panel(margins)]), Tolerances()))
    many = to_json(verdicts(cells([make_panel(margins, objective="a", seed=seed) for seed in range(40)]), Tolerances()))
    assert alone[0]["verdict"] == "STABLE"
    assert {record["verdict"] for record in many} == {"INCONCLUSIVE"}
    assert many[0]["level"] == pytest.approx(0.05 / 120)  # 40 cells, three claims each, none of which is made


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_the_verdict_does_not_depend_on_the_unit(make_panel, factor):
    after = TAUGHT + NOISE - 1
    one, other = judge(make_panel, after), judge(make_panel, factor * after, taught=factor * TAUGHT)
    assert (one["verdict"], one["degree"]) == (other["verdict"], other["degree"])
    assert one["reasons"]["retention"]["low"] == pytest.approx(other["reasons"]["retention"]["low"])


def judgements():
    """Every word that the rule can say, with what decided it."""
    asked = itertools.product(get_args(Class), get_args(Class), get_args(Excess), (True, False))
    return sorted({verdict_word(*one) for one in asked})


def test_the_rule_says_every_word_but_those_of_nothing_learned():
    assert {word for word, _ in judgements()} == set(get_args(Word)) - {"UNDEFINED", "BELOW BASE"}


@pytest.mark.parametrize(("word", "decided_by"), judgements())
def test_every_judgement_has_its_sentence(make_panel, word, decided_by):
    """A word without a sentence would end a run that took hours."""
    (cell,) = cells([make_panel({(1, 0): TAUGHT, (2, 0): TAUGHT + NOISE - 1, (3, 0): TAUGHT}, order="a>b>c")])[2:]
    (found,) = verdicts([cell], Tolerances())
    verdict = replace(found, verdict=word, decided_by=decided_by)
    text = sentence(verdict, verdict.reasons, cell)
    assert "after b and c" in text and "n = 400 pairs of 400 prompts" in text
