"""Findings in other measures: the same analysis, of scores that were brought into the measure by hand."""

import numpy as np
import pytest

from seqdpo.analysis.results import results
from seqdpo.analysis.schema import to_json
from seqdpo.errors import ArgumentError

N = 60


@pytest.fixture
def rows(score_rows):
    """Two orders with two control stages; lengths of 3 to 30 tokens, and a base that prefers some responses."""
    generator = np.random.default_rng(0)
    found = []
    for order in ("a>b", "b>a"):
        for objective in ("a", "b"):
            taught = generator.normal(2, 2, N) * (order[0] == objective)
            margins = {(1, 0): taught, (2, 0): taught - generator.normal(1, 1, N)}
            margins |= {(2, k): taught + generator.normal(0, 0.3, N) for k in (1, 2)}
            found += score_rows(margins, objective=objective, order=order)
    tokens = {name: generator.integers(3, 30, 2 * N) for name in ("chosen", "rejected")}
    base = {name: -generator.uniform(1, 3, 2 * N) * tokens[name] for name in tokens}
    for row in found:
        pair = int(row["pair_id"][1:]) + N * (row["objective"] == "b")
        for side in ("chosen", "rejected"):
            row[f"{side}_tokens"] = int(tokens[side][pair])
            row[f"{side}_logp"] += base[side][pair] + 10
            row[f"base_{side}_logp"] = base[side][pair]
    return found


def by_hand(rows, keep_base):
    """Every log-probability per token, so that the margin of this table is the length-normalised one."""
    columns = ("chosen_logp", "rejected_logp", "base_chosen_logp", "base_rejected_logp")
    return [
        row
        | {
            name: row[name] / row[f"{'chosen' if 'chosen' in name else 'rejected'}_tokens"]
            * (keep_base or not name.startswith("base"))
            for name in columns
        }
        for row in rows
    ]  # fmt: skip


def same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            same(first, second)
    else:
        assert one == (pytest.approx(other, rel=1e-6, abs=1e-9) if isinstance(other, float) else other)


@pytest.mark.parametrize("measure", ["ln_margin", "ln_margin_base_corrected"])
def test_another_measure_takes_the_margins_place_everywhere(measure, rows, make_scores):
    found = results(make_scores(rows), None, 0.3).in_measure(measure)
    expected = results(make_scores(by_hand(rows, keep_base=measure != "ln_margin")), None, 0.3)
    parts = ["quartiles", "slices", "recipe", "n", "length"]
    parts += [] if measure == "ln_margin" else ["verdict"]  # what was learned of ln_margin is not that table's margin
    for cell, other in zip(to_json(found.cells), to_json(expected.cells), strict=True):
        assert (cell["measure"], other["measure"]) == (measure, "margin")
        if measure == "ln_margin":  # retention of a slice is beside the base
            for one in (*cell["slices"], *other["slices"]):
                one.pop("retention")
            cell["recipe"].pop("quantity"), other["recipe"].pop("quantity")
        for one in (cell, other):  # in nats whatever the measure: what the base could do, and the other measures
            one["verdict"]["reasons"].pop("base"), one["verdict"]["reasons"].pop("multiverse", None)
        for part in parts:
            same(cell[part], other[part])
        for part in ("margin_change", "accuracy_change", "flips", "net_flip_rate", "d_z"):
            same(cell["change"][part], other["change"][part])
        same(cell["change"]["displacement"]["chosen_share"], other["change"]["displacement"]["chosen_share"])
    for record, other in zip(to_json(found.orders), to_json(expected.orders), strict=True):
        same(record["final_accuracy"], other["final_accuracy"])
        assert [one["measure"] for one in record["first_minus_last"]] == [measure, "accuracy"] * 2
        margins = [one for one in other["first_minus_last"] if one["measure"] in ("margin", "accuracy")]
        same([one["seeds"] for one in record["first_minus_last"]], [one["seeds"] for one in margins])


def test_what_was_learned_is_beside_the_base_in_every_measure(rows, make_scores):
    """The gain of ln_margin is the mean of ln_margin_base_corrected when taught, though margins and flips are not."""
    findings = results(make_scores(rows), None, 0.3)
    for cell, corrected in zip(
        findings.in_measure("ln_margin").cells, findings.in_measure("ln_margin_base_corrected").cells, strict=True
    ):
        assert cell.verdict.reasons.gain == corrected.verdict.reasons.gain
        assert cell.change.margin_change.value == pytest.approx(corrected.change.margin_change.value)
        assert cell.change.flips != corrected.change.flips


def test_the_margin_decides_and_an_unknown_measure_is_named(rows, make_scores):
    findings = results(make_scores(rows), None, 0.3)
    assert findings.in_measure("margin") is findings
    assert {cell.measure for cell in findings.cells} == {"margin"}
    with pytest.raises(ArgumentError, match="expected one of margin, ln_margin, ln_margin_base_corrected"):
        findings.in_measure("ln")
