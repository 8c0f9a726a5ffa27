"""The gate fails on a loss that is shown, and says what it knows of the others."""

from types import SimpleNamespace as Some

import pytest

from seqdpo.analysis.gate import gated
from seqdpo.analysis.schema import Bounds
from seqdpo.errors import ConfigError


def cell(low, high, objective="a", order="a>b", end=None, start="a"):
    """A cell whose retention interval is [low, high]; the loss is 1 less that."""
    retention = Bounds(value=(low + high) / 2, low=low, high=high) if low is not None else None
    return Some(
        seed=0, order=order, objective=objective, taught="a", from_=start, to=end or order, n=500,
        verdict=Some(retention=retention),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.80, 0.90, "failed"),  # lost 10% to 20%
        (0.96, 1.02, "passed"),  # lost at most 4%
        (0.90, 0.97, "open"),  # lost 3% to 10%
        (None, None, "open"),  # nothing learned
    ],
)
def test_a_loss_of_at_most_five_percent(low, high, outcome):
    (found,) = gated(Some(cells=[cell(low, high)]), 0.05)
    assert found.outcome == outcome
    (strict,) = gated(Some(cells=[cell(low, high)]), 0.05, strict=True)
    assert strict.outcome == ("failed" if outcome == "open" else outcome)


def test_the_loss_is_one_less_what_was_kept():
    (found,) = gated(Some(cells=[cell(0.80, 0.90)]), 0.05)
    assert (found.loss, found.low, found.high) == pytest.approx((0.15, 0.10, 0.20))


def test_only_the_end_of_an_order_since_the_objective_was_taught_is_gated():
    steps = [
        cell(0.5, 0.6, order="a>b>c", end="a>b"),
        cell(0.5, 0.6, order="a>b>c", end="a>b>c", start="a>b"),
        cell(0.96, 1.0, order="a>b>c", end="a>b>c"),
    ]
    (found,) = gated(Some(cells=steps), 0.05)
    assert found.outcome == "passed"


def test_objective_and_order_choose():
    cells = [cell(0.5, 0.6), cell(0.99, 1.0, objective="b", order="b>a", end="b>a")]
    assert [found.objective for found in gated(Some(cells=cells), 0.05, objective="b")] == ["b"]
    assert [found.objective for found in gated(Some(cells=cells), 0.05, order="a>b")] == ["a"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"objective": "aa"}, r"^objective = 'aa': not in this run; expected one of 'a'. Did you mean 'a'\?"),
        ({"order": "b>a"}, r"^order = 'b>a': not in this run; expected one of 'a>b'"),
    ],
)
def test_unknown_names_are_refused(where, message):
    with pytest.raises(ConfigError, match=message):
        gated(Some(cells=[cell(0.5, 0.6)]), 0.05, **where)


def test_a_study_without_a_later_stage_has_nothing_to_gate():
    with pytest.raises(ConfigError, match="no earlier objective was followed by a later stage"):
        gated(Some(cells=[]), 0.05)
