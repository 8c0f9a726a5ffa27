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
from seqdpo.analysis.verdicts import Tolerances, evidence, verdict_word, verdicts

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
    # the interval in the record, at the level of the one cell: 90%, by hand from the SD of 0.4 and 400 pairs
    half = stats.t.ppf(0.95, 399) * NOISE.std(ddof=1) / 20
    assert change["high"] - change["value"] == pytest.approx(half)


def test_a_change_at_the_tolerance_is_inconclusive_and_no_number_settles_it(make_panel):
    found = judge(make_panel, TAUGHT + NOISE - 0.4)
    assert (found["verdict"], found["n_needed"]) == ("INCONCLUSIVE", None)
    assert "no reasonable number" in found["sentence"]


def test_pairs_needed_by_hand(make_panel):
    """A loss of 9% of the gain: each pair's change + 0.1 * taught has mean 0.04 and an SD of about 0.41.

    With 200 pairs z = 0.04 / (0.41 / sqrt(200)) = 1.4 is less than the 1.645 of one cell; the wanted 1.645 + 0.842
    takes (2.487 / z)^2 times the pairs.
    """
    taught, noise = TAUGHT[::2] - TAUGHT[::2].mean() + 4, NOISE[::2] - NOISE[::2].mean()
    found = judge(make_panel, taught + noise - 0.36, taught=taught)
    assert found["verdict"] == "INCONCLUSIVE"
    beyond = noise - 0.36 + 0.1 * taught
    z = beyond.mean() / (beyond.std(ddof=1) / math.sqrt(200))
    assert found["n_needed"] == math.ceil(200 * ((1.6448536 + 0.8416212) / z) ** 2)


def test_a_pure_reshuffle_is_redistributed_only_beside_a_control_stage(make_panel):
    """300 margins of 3 and 100 of -1; 80 of each kind change places: 40% flip, and the mean stays at 2."""
    taught = np.repeat([3.0, -1.0], [300, 100])
    swapped = taught.copy()
    swapped[220:300], swapped[300:380] = -1.0, 3.0
    tolerances = Tolerances(margin=0.2)
    found = judge(make_panel, swapped, [taught], taught, tolerances)
    assert (found["verdict"], found["redistribution"]) == ("REDISTRIBUTED", "found")
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
    assert evidence(cell, Tolerances()).excess_flips.value == pytest.approx(0.25)


def test_where_nothing_was_learned_there_is_no_verdict(make_panel):
    nothing = TAUGHT - TAUGHT.mean()
    found = judge(make_panel, nothing - 1, taught=nothing)
    assert found["verdict"] == "UNDEFINED"
    assert "nothing was learned" in found["sentence"]
    accurate = np.where(np.arange(400) < 100, 10.0, -0.1)  # a mean far above 0, three quarters of the pairs wrong
    assert judge(make_panel, accurate, taught=accurate)["verdict"] == "UNDEFINED"


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
    """field by field: rules 1 to 5 for every combination of classes."""
    expected = {
        ("fell", "fell"): "DEGRADED",
        ("fell", "held"): "DEGRADED",
        ("fell", "unresolved"): "DEGRADED",
        ("fell", "rose"): "MIXED",
        ("rose", "rose"): "POSITIVE TRANSFER",
        ("rose", "held"): "POSITIVE TRANSFER",
        ("rose", "unresolved"): "POSITIVE TRANSFER",
        ("rose", "fell"): "MIXED",
        ("held", "fell"): "DEGRADED",
        ("held", "rose"): "POSITIVE TRANSFER",
        ("held", "held"): "STABLE",
    }
    for (margin, accuracy), word in expected.items():
        assert verdict_word(margin, accuracy, "open", False)[0] == word
    for accuracy, excess in itertools.product(("fell", "held", "rose", "unresolved"), ("found", "open")):
        assert verdict_word("unresolved", accuracy, excess, True)[0] == "INCONCLUSIVE"
        assert verdict_word("held", accuracy, "found", False) == ("REDISTRIBUTED", "flips")
    assert verdict_word("held", "unresolved", "ruled out", True) == ("STABLE", "margin")
    assert verdict_word("held", "unresolved", "ruled out", False) == ("INCONCLUSIVE", "accuracy")


def test_more_cells_make_every_claim_harder(make_panel):
    margins = {(1, 0): TAUGHT, (2, 0): TAUGHT + NOISE - 0.35}  # held: 0.05 / (0.41 / 20) = 2.4 > 1.645, but < 3.02
    alone = to_json(verdicts(cells([make_panel(margins)]), Tolerances()))
    many = to_json(verdicts(cells([make_panel(margins, objective="a", seed=seed) for seed in range(40)]), Tolerances()))
    assert alone[0]["verdict"] == "STABLE"
    assert {record["verdict"] for record in many} == {"INCONCLUSIVE"}
    assert many[0]["level"] == pytest.approx(0.05 / 40)


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


def test_the_rule_says_every_word_but_undefined():
    assert {word for word, _ in judgements()} == set(get_args(Word)) - {"UNDEFINED"}


@pytest.mark.parametrize(("word", "decided_by"), judgements())
def test_every_judgement_has_its_sentence(make_panel, word, decided_by):
    """A word without a sentence would end a run that took hours."""
    (found,) = verdicts(cells([make_panel({(1, 0): TAUGHT, (2, 0): TAUGHT + NOISE - 1})]), Tolerances())
    verdict = replace(found, verdict=word, decided_by=decided_by)
    text = sentence(verdict, verdict.reasons, "a", ("b", "c"))
    assert "after b and c" in text and "n = 400 pairs of 400 prompts" in text
