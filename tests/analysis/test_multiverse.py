"""The verdict at other tolerances and in other measures."""

import numpy as np

from seqdpo.analysis.cells import cells
from seqdpo.analysis.multiverse import MEASURES, multiverse
from seqdpo.analysis.schema import Tolerances

TAUGHT = 2 + np.linspace(-1, 1, 1000)
NOISE = 0.1 * np.sin(np.arange(1000))


def words(make_panel, after, taught=TAUGHT):
    (cell,) = cells([make_panel({(1, 0): taught, (2, 0): after})])
    return {(one.measure, one.tolerance): one.verdict for one in multiverse(cell, Tolerances())}


def test_a_loss_of_7_percent_hangs_on_the_tolerance(make_panel):
    """More than 5%, less than 10% and 20%, in every measure: all of the margin is on the chosen side of 5 tokens."""
    found = words(make_panel, 0.93 * TAUGHT + NOISE - NOISE.mean())
    assert {name for name, _ in found} == set(MEASURES)
    for measure in MEASURES:
        assert [found[measure, 0.1 * k] for k in (0.5, 1.0, 2.0)] == ["DEGRADED", "STABLE", "STABLE"]


def test_a_loss_of_few_pairs_hangs_on_the_measure(make_panel):
    """50 of 1,000 pairs lose 10 nats each: a quarter of the mean of 2; without a tenth at either end nothing is lost.

    They turn wrong as well, 5 points, so the strip shows the accuracy where the trimmed mean holds.
    """
    after = TAUGHT + np.where(np.arange(1000) % 20 == 0, -10.0, 0.0)
    found = words(make_panel, after + NOISE - NOISE.mean())
    assert found["margin", 0.1] == "DEGRADED"
    untouched = words(make_panel, np.maximum(after, 0.01) + 0 * NOISE)  # the same pairs, none of which turns wrong
    assert (untouched["margin", 0.05], untouched["margin, trimmed mean", 0.05]) == ("INCONCLUSIVE", "STABLE")


def test_where_nothing_was_learned_the_strip_is_undefined(make_panel):
    assert set(words(make_panel, TAUGHT, taught=TAUGHT - 2).values()) == {"UNDEFINED"}
