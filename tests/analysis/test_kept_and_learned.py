"""What variants kept and learned, from margins chosen by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest

from seqdpo.analysis.margins import PairScores
from seqdpo.analysis.panel import At, Panel
from seqdpo.analysis.schema import PathCost
from seqdpo.analysis.variants import variant_records

N = 400


def scores(margin):
    """Pairs whose base has the same log-probability of both responses."""
    nothing, tokens = np.zeros(N), np.full(N, 5.0)
    return PairScores(np.asarray(margin, dtype=float), nothing, nothing, nothing, tokens, tokens)


def panel(objective, at):
    """`at`: margins by (order, stage, placebo) or with a seed before them; the base's are 0."""
    keys = {(key if len(key) == 4 else (0, *key)): margin for key, margin in at.items()}
    checkpoints = {At(*key): scores(margin) for key, margin in keys.items()}
    for seed, order in {(key[0], key[1]) for key in keys}:
        checkpoints[At(seed, order, 0)] = scores(np.zeros(N))
    ids = pa.array([f"{objective}-{i}" for i in range(N)])
    names = {one: f"{one.order}:{one.stage}" for one in checkpoints}
    return Panel(objective, "eval", ids, np.arange(N), pa.table({"pair_id": ids}), checkpoints, names)


def noise(seed, mean, sd=1.0):
    """Exactly of that mean."""
    drawn = np.random.default_rng(seed).normal(0, sd, N)
    return drawn - drawn.mean() + mean


A1 = noise(0, 4.0)  # of a after its stage
B1, B2 = noise(1, -1.0), noise(2, 3.0)  # of b before and after the plain stage
KEYS = {"keep": {"reference": "previous"}, "worse": {"beta": 0.1}, "together": {"joint": True}}


def study(**ends):
    """A plain order a>b that kept a quarter of a, and variants by (margins of a, of b) at their end."""
    ends = {"a>b": (noise(3, 1.0), B2)} | ends
    of_a, of_b = {}, {}
    for order, (a, b) in ends.items():
        stages = 1 if "+" in order else 2
        if stages == 2:
            of_a[order, 1, 0], of_b[order, 1, 0] = A1, B1
        of_a[order, stages, 0], of_b[order, stages, 0] = a, b
    return [panel("a", of_a), panel("b", of_b)]


def records(panels, keys=KEYS, costs=None):
    return variant_records(panels, keys, costs or {}, 0.95, 0.1)


def outcome(record, name):
    return next(one for one in record.outcomes if one.variant == name)


def test_shares_by_hand():
    """a: 4 nats were taught, 1 is left of them, 3 with the variant. b: the plain stage took it from -1 to 3, the
    variant to 2: 3 of 4 nats."""
    (record,) = records(study(**{"a>b@keep": (noise(4, 3.0), noise(5, 2.0))}))
    plain, keep = outcome(record, "plain"), outcome(record, "keep")
    assert plain.kept[0].value == pytest.approx(0.25)
    assert (plain.learned.value, plain.kept[0].than_plain) == (1, None)
    assert keep.kept[0].value == pytest.approx(0.75)
    assert keep.learned.value == pytest.approx(0.75)
    assert keep.kept[0].minus_plain.value == pytest.approx(0.5)
    assert keep.learned.minus_plain.value == pytest.approx(-0.25)
    assert (keep.kept[0].than_plain, keep.learned.than_plain) == ("more", "less")
    assert (record.pairs, keep.kept[0].n) == ("all held-out pairs", N)


def test_the_difference_is_taken_pair_by_pair():
    """The variant keeps 0.1 nats more of every pair: its difference is as sure as what was taught, its shares are not.

    By Fieller with a difference without spread: 0.1 / (4 +- t s), s the standard error of the taught margin.
    """
    left = noise(3, 1.0)
    (record,) = records(study(**{"a>b": (left, B2), "a>b@keep": (left + 0.1, B2)}))
    share = outcome(record, "keep").kept[0]
    error = 1.966 * A1.std(ddof=1) / math.sqrt(N)  # t of 399 degrees of freedom
    assert share.minus_plain.low == pytest.approx(0.1 / (4 + error), rel=1e-3)
    assert share.minus_plain.high == pytest.approx(0.1 / (4 - error), rel=1e-3)
    assert share.high - share.low > 10 * (share.minus_plain.high - share.minus_plain.low)
    assert share.than_plain == "more"


def test_what_is_not_told_apart_is_open():
    (record,) = records(study(**{"a>b@keep": (noise(4, 1.02), noise(5, 2.98))}))
    keep = outcome(record, "keep")
    assert (keep.kept[0].than_plain, keep.learned.than_plain) == ("open", "open")
    assert "no variant on the front is shown to keep 10% more" in record.sentence


def test_the_front_and_who_is_beaten():
    ends = {"a>b@keep": (noise(4, 3.0), noise(5, 2.9)), "a>b@worse": (noise(6, 0.5), noise(7, 1.0))}
    (record,) = records(study(**ends))
    assert {one.variant: one.on_front for one in record.outcomes} == {"plain": True, "keep": True, "worse": False}
    assert outcome(record, "worse").beaten_by == ("plain", "keep")
    assert outcome(record, "plain").beaten_by == ()  # keep learned no more


def test_joint_training_is_compared_with_nobody():
    (record,) = records(study(**{"a>b@keep": (noise(4, 3.0), noise(5, 2.9)), "a+b": (noise(8, 5.0), noise(9, 5.0))}))
    joint = outcome(record, "together")
    assert (joint.joint, joint.on_front, joint.checkpoint) == (True, False, "a+b")
    assert joint.kept[0].value == pytest.approx(1.25)
    assert joint.learned.value == pytest.approx(1.5)  # from -1 to 5, where the plain stage came to 3
    assert outcome(record, "keep").on_front
    assert "together" not in record.sentence


def test_a_strength_is_chosen_on_one_half_and_reported_on_the_other():
    """Half of the pairs favour x-1, the other half x-2: whichever half chooses takes the one that is worse on the
    half that is reported, and its share there is what that half says."""
    keys = {"x-1": {"replay": 0.1}, "x-2": {"replay": 0.2}}
    (plain,) = records(study(**{"a>b@x-1": (A1, B2), "a>b@x-2": (A1, B2)}), keys)
    from seqdpo.analysis.variants import _half

    panels = study()
    first = _half(panels[0]) == 0
    good, bad = np.where(first, A1, A1 - 3), np.where(first, A1 - 3, A1)
    (record,) = records(study(**{"a>b@x-1": (good, B2), "a>b@x-2": (bad, B2)}), keys)
    assert [one.variant for one in record.outcomes if one.chosen] == ["plain", "x-1"]
    share, rest = outcome(record, "x-1").kept[0], A1[~first]
    assert share.n == len(rest)
    assert share.value == pytest.approx((rest - 3).mean() / rest.mean())
    assert record.pairs == plain.pairs == "half of the prompts; strengths were chosen on the other half"


def test_control_stages_are_shown_in_the_same_shares():
    panels = study(**{"a>b@keep": (A1, B2)})
    for one, margin in zip(panels, (noise(4, 2.0), noise(5, -1.0)), strict=True):
        one.checkpoints[At(0, "a>b@keep", 2, 1)] = scores(margin)
    (record,) = records(panels)
    (control,) = outcome(record, "keep").controls
    assert (control.number, control.kept[0]) == (1, pytest.approx(0.5))
    assert control.learned == pytest.approx(0, abs=1e-9)


def test_seeds_are_averaged_pair_by_pair_and_have_to_agree_from_three_on():
    """Kept 0.9, 0.9 and 0.3 of which plain kept 0.25, 0.25 and 0.25: over pairs more, over three seeds open."""
    of_a, of_b = {}, {}
    for seed, kept in enumerate((0.9, 0.9, 0.3)):
        for order in ("a>b", "a>b@keep"):
            of_a[seed, order, 1, 0], of_b[seed, order, 1, 0], of_b[seed, order, 2, 0] = A1, B1, B2
        of_a[seed, "a>b", 2, 0], of_a[seed, "a>b@keep", 2, 0] = 0.25 * A1, kept * A1
    (record,) = records([panel("a", of_a), panel("b", of_b)])
    share = outcome(record, "keep").kept[0]
    assert share.value == pytest.approx(0.7)
    assert share.by_seed == pytest.approx((0.9, 0.9, 0.3))
    assert share.minus_plain.low > 0
    assert share.than_plain == "open"


def test_nothing_is_judged_where_nothing_was_learned():
    of_a = {("a>b", 1, 0): -A1, ("a>b", 2, 0): A1, ("a>b@keep", 1, 0): -A1, ("a>b@keep", 2, 0): A1}
    of_b = {("a>b", 1, 0): B1, ("a>b", 2, 0): B2, ("a>b@keep", 1, 0): B1, ("a>b@keep", 2, 0): B2}
    (record,) = records([panel("a", of_a), panel("b", of_b)])
    share = outcome(record, "keep").kept[0]
    assert (share.value, share.low, share.than_plain, share.by_seed) == (None, None, "open", (None,))
    assert "taught nothing that a share could be of" in record.sentence


def test_the_cost_is_a_seeds_from_the_base_on():
    costs = {(0, "a>b"): PathCost(trained_pairs=200.0, scored_pairs=0.0, seconds=3.0)}
    (record,) = records(study(**{"a>b@keep": (A1, B2)}), costs=costs)
    assert outcome(record, "plain").cost == costs[0, "a>b"]
    assert outcome(record, "keep").cost is None  # not known


def test_an_order_without_variants_has_no_record():
    assert records(study()) == []


# sentences


def test_the_sentence_says_what_to_take_and_what_it_costs():
    (record,) = records(study(**{"a>b@keep": (noise(4, 3.0), noise(5, 2.0))}))
    assert record.sentence.startswith("a>b: keep keeps 75% [")
    assert "] of a for 25% [" in record.sentence
    assert "(plain training kept 25% [" in record.sentence
    assert record.sentence.endswith(" 1 seed: this speaks of these checkpoints, not yet of the recipe.")


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (noise(3, 1.0) + 0.01, "Projecting changes nothing (a +0% ["),
        (noise(4, 3.0), "Projecting keeps more (a +50% ["),
        (noise(4, 0.2), "Projecting keeps less (a -20% ["),
        (noise(4, 1.3, 4.0), "Whether projecting changes anything is open (a +8% ["),
    ],
)
def test_what_projecting_says_of_opposition(left, expected):
    (record,) = records(study(**{"a>b@straight": (left, B2)}), {"straight": {"project": True}})
    assert record.projection.startswith(expected)
    assert ("opposition was not the cause" in record.projection) == expected.startswith("Projecting changes nothing")
