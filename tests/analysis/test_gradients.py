"""The corrected cosine against planted angles and noise, the account against losses by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest

from seqdpo.analysis.gradients import corrected_cosine, gradient_records, loss_change, trace_of
from seqdpo.analysis.nodes import NodeKey
from seqdpo.analysis.schema import to_json
from seqdpo.errors import DataError
from seqdpo.study.keys import LossKeys
from seqdpo.tables import GRADIENTS_SCHEMA, NODE_COLUMNS

SCHEMA = pa.schema([*NODE_COLUMNS, *GRADIENTS_SCHEMA])


def row(step=0, module="(all)", layer=None, **numbers):
    """Two unit gradients at a right angle, every batch alike."""
    return {
        "seed": 0,
        "checkpoint": "a>b",
        "placebo": 0,
        "parent": "a",
        "step": step,
        "objective": "a",
        "module": module,
        "layer": layer,
        "n_pairs": 4,
        "block": step,
        "dot": 0.0,
        "current_squared_norm": 1.0,
        "current_split_dot": 1.0,
        "earlier_squared_norm": 1.0,
        "earlier_split_dot": 1.0,
        "preconditioned_dot": None if step == 0 else 2.0,
        "from_step": step,
        "to_step": step + 1,
        "update_dot": 0.1,
    } | numbers


def table(rows):
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def planted(generator, cosine, reliability, n_points, dimensions=400, n_blocks=None):
    """Points of two unit signals at a cosine; each half adds noise of its own, signal / (signal + noise) given.

    Points of one block read the same pairs, and so the same noise; else each has its own.
    """
    rows = [*_planted(generator, cosine, reliability, n_blocks or n_points, dimensions)]
    return [rows[k % len(rows)] | {"step": k, "block": k % len(rows)} for k in range(n_points)]


def _planted(generator, cosine, reliability, n_points, dimensions):
    c = np.eye(dimensions)[0]
    e = cosine * c + math.sqrt(1 - cosine**2) * np.eye(dimensions)[1]
    size = math.sqrt((1 / reliability - 1) / dimensions)
    for step in range(n_points):
        c1, c2, e1, e2 = (signal + size * generator.normal(size=dimensions) for signal in (c, c, e, e))
        yield row(
            step,
            dot=(c1 + c2) @ (e1 + e2) / 4,
            current_squared_norm=(c1 @ c1 + c2 @ c2) / 2,
            current_split_dot=c1 @ c2,
            earlier_squared_norm=(e1 @ e1 + e2 @ e2) / 2,
            earlier_split_dot=e1 @ e2,
        )


@pytest.fixture
def panel(make_panel):
    return make_panel({(1, 0): [2.0, 1.0], (2, 0): [1.0, -1.0]})


def test_noise_shrinks_the_raw_cosine_and_the_correction_undoes_it(panel):
    """True -0.3 at a reliability of 0.1: raw -0.03 in the mean (cos = true * sqrt(rel * rel)), corrected -0.3."""
    generator = np.random.default_rng(0)
    found = [
        to_json(gradient_records(table(planted(generator, -0.3, 0.1, 20)), [panel], LossKeys(), 0.95))[0]
        for _ in range(300)
    ]
    raw = np.array([record["raw_cosine"] for record in found])
    corrected = np.array([record["cosine"]["value"] for record in found])
    assert raw.mean() == pytest.approx(-0.03, abs=0.003)
    assert corrected.mean() == pytest.approx(-0.3, abs=0.02)
    assert np.mean([record["reliability"]["earlier"] for record in found]) == pytest.approx(0.1, abs=0.005)
    covered = np.mean([record["cosine"]["low"] <= -0.3 <= record["cosine"]["high"] for record in found])
    assert 0.91 <= covered <= 0.99  # 95% less or more three standard errors, and what a jackknife is off


def test_points_that_reuse_pairs_cover_as_often_as_they_say(panel):
    """20 points on 8 blocks of pairs. 300 draws: 95% less three standard errors, and what a jackknife of 8 is off."""
    generator = np.random.default_rng(3)
    covered = []
    for _ in range(300):
        rows = planted(generator, 0.3, 0.2, 20, n_blocks=8)
        [record] = to_json(gradient_records(table(rows), [panel], LossKeys(), 0.95))
        assert (record["n_points"], record["n_blocks"]) == (20, 8)
        covered.append(record["cosine"]["low"] <= 0.3 <= record["cosine"]["high"])
    assert np.mean(covered) >= 0.90


@pytest.mark.parametrize("cosine", [-0.1, 0.1])
def test_a_cosine_at_the_bound_is_called_by_either_side_as_rarely_as_it_says(cosine, panel):
    """Planted exactly at the bound: `near-orthogonal` and the word beyond it err in 5% of the draws each at most; 300
    draws, three standard errors and a little for the jackknife."""
    generator = np.random.default_rng(1)
    words = [
        to_json(gradient_records(table(planted(generator, cosine, 0.6, 20, n_blocks=8)), [panel], LossKeys(), 0.95))[0][
            "statement"
        ]
        for _ in range(300)
    ]
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300) + 0.01
    assert words.count("near-orthogonal") / 300 <= most
    assert words.count("aligned" if cosine > 0 else "opposed") / 300 <= most
    assert words.count("opposed" if cosine > 0 else "aligned") == 0


@pytest.mark.parametrize(
    ("cosine", "word", "side"),
    [
        (-0.5, "opposed", "below 0"),
        (0.5, "aligned", "above 0"),
        (0.0, "near-orthogonal", None),
        (0.02, "near-orthogonal", None),
    ],
)
def test_what_was_planted_is_found(cosine, word, side, panel):
    """A cosine of 0.02 is told from 0 where the noise is small enough, and is no alignment for that."""
    generator = np.random.default_rng(2)
    found = [
        to_json(gradient_records(table(planted(generator, cosine, 0.5, 20)), [panel], LossKeys(), 0.95))[0]
        for _ in range(50)
    ]
    assert [one["statement"] for one in found] == [word] * 50
    assert side is None or [one["side"] for one in found] == [side] * 50


def test_a_real_stage_is_held_against_its_traced_control_stage(make_panel):
    """Raw cosines of -.5, -.4, -.6 beside .1, 0, -.1 of the control stage: differences -.6, -.4, -.5, mean -.5, SD .1,
    t of 2 degrees of freedom 4.3027: -.5 +- .2484."""
    rows = [row(k, dot=dot) for k, dot in enumerate((-0.5, -0.4, -0.6))]
    control = {"checkpoint": "a>b~placebo1", "placebo": 1}
    rows += [row(k, dot=dot, **control) for k, dot in enumerate((0.1, 0.0, -0.1))]
    margins = {(1, 0): [2.0, 1.0], (2, 0): [1.0, -1.0], (2, 1): [2.0, 1.0]}
    of_controls = make_panel(margins)
    real, other = to_json(gradient_records(table(rows), [of_controls], LossKeys(), 0.95))
    assert (real["placebo"], other["placebo"], other["beyond_control"]) == (0, 1, None)
    beyond = real["beyond_control"]
    assert (beyond["value"], beyond["n_blocks"]) == (pytest.approx(-0.5), 3)
    assert beyond["high"] == pytest.approx(-0.5 + 4.302653 * 0.1 / math.sqrt(3))
    elsewhere = [one | ({"step": 9 + one["step"]} if one["placebo"] else {}) for one in rows]  # at other points
    assert to_json(gradient_records(table(elsewhere), [of_controls], LossKeys(), 0.95))[0]["beyond_control"] is None


def test_blocks_that_an_older_release_did_not_note_leave_no_interval(panel):
    rows = [row(step, dot=-0.5, block=None) for step in range(4)]
    [record] = to_json(gradient_records(table(rows), [panel], LossKeys(), 0.95))
    assert (record["cosine"]["value"], record["cosine"]["low"], record["n_blocks"]) == (-0.5, None, 0)
    assert (record["statement"], record["side"], record["account"]["statement"]) == ("unresolved", "open", "unresolved")


def test_signal_that_drowns_is_null(panel):
    """The halves of the earlier objective's gradient disagree: no angle, but the raw numbers stay."""
    rows = [row(step, dot=-0.5, earlier_split_dot=-0.2) for step in range(4)]
    [record] = to_json(gradient_records(table(rows), [panel], LossKeys(), 0.95))
    assert (record["cosine"]["value"], record["cosine"]["low"], record["cosine"]["high"]) == (None, -1, 1)
    assert record["raw_cosine"] == -0.5
    assert record["reliability"] == {"current": 1.0, "earlier": -0.2}
    assert record["trace"][0]["cosine"] is None


def test_every_number_by_hand(panel):
    """Two points: dots -1 and -3, squared norms 4 and 4 of the current, 1 and 4 of the earlier objective."""
    rows = [
        row(0, dot=-1.0, current_squared_norm=4.0, current_split_dot=2.0, update_dot=0.5),
        row(8, dot=-3.0, current_squared_norm=4.0, current_split_dot=2.0, earlier_squared_norm=4.0, update_dot=0.3),
    ]
    [record] = to_json(gradient_records(table(rows), [panel], LossKeys(), 0.95))
    assert record["raw_cosine"] == pytest.approx(-4 / math.sqrt(8 * 5))
    assert record["reliability"] == {"current": 0.5, "earlier": pytest.approx(2 / 5)}
    assert record["cosine"]["value"] == -1  # -4 / sqrt(4 * 2) = -1.41 is none
    assert record["point_cosine"]["value"] == pytest.approx((-1 / 2 - 3 / 4) / 2)
    assert record["share_below_zero"] == 1
    assert record["preconditioned_dot"] == {
        "value": 2.0,
        "low": None,
        "high": None,
        "confidence": 0.95,
        "n_points": 1,
        "n_blocks": 1,
    }
    assert record["account"]["predicted"]["value"] == pytest.approx(0.8)
    assert [point["step"] for point in record["trace"]] == [0, 8]
    assert record["trace"][1]["raw_cosine"] == pytest.approx(-3 / 4)
    assert (record["n_points"], record["pairs_per_batch"], record["layers"], record["modules"]) == (2, 4, [], [])


def test_layers_and_modules_have_their_own(panel):
    rows = [
        one
        for step in (0, 1, 2)
        for one in (
            row(step, dot=-0.5, update_dot=0.3),
            row(step, "(layer)", 0, dot=-0.5, update_dot=0.3),
            row(step, "model.layers.0.q", 0, dot=-0.7, update_dot=0.2),
            row(step, "model.layers.0.k", 0, dot=0.2, update_dot=0.1),
        )
    ]
    [record] = to_json(gradient_records(table(rows), [panel], LossKeys(), 0.95))
    assert [(layer["layer"], layer["cosine"]["value"]) for layer in record["layers"]] == [(0, -0.5)]
    assert [(one["module"], one["cosine"]["value"]) for one in record["modules"]] == [
        ("model.layers.0.q", pytest.approx(-0.7)),
        ("model.layers.0.k", pytest.approx(0.2)),
    ]
    assert record["modules"][0]["update_dot"] == pytest.approx(0.6)


def loss(z):
    return math.log(1 + math.exp(-z))


@pytest.mark.parametrize(
    ("reference", "z_before", "z_after"),
    [
        ("base", [0.5 * 3, 0.5 * 1], [0.5 * 2, -0.5 * 1]),
        ("previous", [0.5 * 2.5, 0.5 * 2], [0.5 * 1.5, 0.0]),  # b was taught from a, where it had 0.5 and -1
        ("stage:1", [0.5 * 2.5, 0.5 * 2], [0.5 * 1.5, 0.0]),
        ("stage:2", [0.5 * 3, 0.5 * 1], [0.5 * 2, -0.5 * 1]),  # not before its own stage: the base
    ],
)
def test_account_counts_the_loss_of_the_stage_that_taught(reference, z_before, z_after, make_panel):
    """Objective b of the order a>b>c, margins 0.5, -1 after a; 3, 1 after b; 2, -1 after c; beta 0.5."""
    margins = {(1, 0): [0.5, -1.0], (2, 0): [3.0, 1.0], (3, 0): [2.0, -1.0]}
    panel = make_panel(margins, objective="b", order="a>b>c")
    found = loss_change(NodeKey(0, "a>b>c", 0, "a>b"), panel, LossKeys(reference=reference, beta=0.5))
    expected = np.mean([loss(after) - loss(before) for before, after in zip(z_before, z_after, strict=True)])
    assert found.value == pytest.approx(expected)
    assert found.n == 2


def test_account_counts_the_loss_that_trained(make_panel):
    """hinge: margins 2, 1 then 1, -1 at beta 0.5: relu(1 - 1), relu(1 - 0.5), then relu(1 - 0.5), relu(1 + 0.5)."""
    panel = make_panel({(1, 0): [2.0, 1.0], (2, 0): [1.0, -1.0]})
    name = panel.objective
    node = NodeKey(0, panel.names[max(panel.names)], 0, name)
    found = loss_change(node, panel, LossKeys(loss_type="hinge", beta=0.5))
    assert found.value == pytest.approx((0.5 + 1.5) / 2 - (0 + 0.5) / 2)


def test_account_of_a_loss_that_weighs_tokens_is_undefined(make_panel):
    """Scores are sums over all tokens; with a weight of 1 they are what the loss sees."""
    panel = make_panel({(1, 0): [2.0, 1.0], (2, 0): [1.0, -1.0]})
    node = NodeKey(0, panel.names[max(panel.names)], 0, panel.objective)
    assert math.isnan(loss_change(node, panel, LossKeys(ld_alpha=0.5)).value)
    assert loss_change(node, panel, LossKeys(ld_alpha=1.0)) == loss_change(node, panel, LossKeys())


@pytest.mark.parametrize(("update", "statement"), [(0.2, "confirmed"), (-0.2, "contradicted"), (None, "unresolved")])
def test_books(update, statement, make_panel):
    """All pairs lost margin, so the loss rose; each point of the account says the same, or is of either sign."""
    panel = make_panel({(1, 0): [2.0, 2.1, 1.9, 2.0], (2, 0): [1.0, 1.1, 1.0, 0.9]})
    updates = [0.1, -0.1, 0.2, -0.15] if update is None else [update, update * 1.1, update * 0.9, update]
    rows = [row(step, update_dot=value) for step, value in enumerate(updates)]
    [record] = to_json(gradient_records(table(rows), [panel], LossKeys(), 0.95))
    assert record["account"]["statement"] == statement
    assert record["account"]["share"] == pytest.approx(sum(updates) / record["account"]["actual"]["value"])


def test_share_of_a_change_that_may_be_none_is_null(make_panel):
    panel = make_panel({(1, 0): [2.0, 1.0, 2.0, 1.0], (2, 0): [1.0, 2.0, 1.0, 2.0]})
    [record] = to_json(gradient_records(table([row(step) for step in range(3)]), [panel], LossKeys(), 0.95))
    assert record["account"]["share"] is None


def test_a_point_without_its_modules_is_refused():
    rows = [row(0), row(0, "model.layers.0.q", 0), row(1), row(1, "model.layers.0.k", 0)]
    with pytest.raises(DataError, match="expected the same modules at each"):
        trace_of(table(rows))


def test_other_scores_are_refused(make_panel):
    panel = make_panel({(1, 0): [2.0]}, order="a>c")
    with pytest.raises(DataError, match="no checkpoint 'a>b' of seed 0"):
        to_json(gradient_records(table([row()]), [panel], LossKeys(), 0.95))


def test_no_points_no_records(panel):
    assert to_json(gradient_records(SCHEMA.empty_table(), [panel], LossKeys(), 0.95)) == []
    assert corrected_cosine(trace_of(table([row(0), row(1)]))).value.tolist() == [0.0]
