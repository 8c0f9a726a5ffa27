"""The gate fails on a loss that is shown, of margin, accuracy or what the base could do, and says what it looked at."""

import numpy as np
import pytest

from seqdpo.analysis.gate import gated
from seqdpo.analysis.results import results
from seqdpo.errors import ConfigError

#: 400 pairs whose base prefers the chosen response of 9 in 10; margins when taught around 2, none below 0.
TAUGHT = 2 + np.linspace(-1, 1, 400)


def found(make_scores, score_rows, after, taught=TAUGHT, **where):
    rows = score_rows({(1, 0): taught, (2, 0): after}, **where)
    return results(make_scores(rows), None, 0.3)


@pytest.mark.parametrize(
    ("after", "outcome", "reason"),
    [
        (0.8 * TAUGHT, "failed", "lost more than 5% of the learned margin"),
        (0.99 * TAUGHT, "passed", "ruled out is a loss above 5% of the learned margin, and one above 2% of accuracy"),
        (0.95 * TAUGHT, "open", "a loss above 5% of the learned margin is neither shown nor ruled out"),
        # 40 of 400 turn wrong, and the mean margin stays: by its accuracy alone
        (np.where(np.arange(400) < 40, -1.0, TAUGHT + 0.25), "failed", "lost more than 2% of accuracy"),
    ],
)
def test_a_loss_of_at_most_five_percent(make_scores, score_rows, after, outcome, reason):
    noise = 0.001 * np.sin(np.arange(400))
    findings = found(make_scores, score_rows, after + noise - noise.mean())
    (one,) = gated(findings, 0.05)
    assert (one.outcome, one.n) == (outcome, 400)
    assert reason in one.reason
    (strict,) = gated(findings, 0.05, strict=True)
    assert strict.outcome == ("failed" if outcome == "open" else outcome)


def test_what_may_be_lost_of_the_accuracy_can_be_said(make_scores, score_rows):
    findings = found(make_scores, score_rows, np.where(np.arange(400) < 40, -1.0, TAUGHT + 0.25))
    (one,) = gated(findings, 0.05, max_accuracy_loss=0.2)
    assert one.outcome == "passed"
    assert [loss.quantity for loss in one.losses] == ["margin", "accuracy", "ranking accuracy"]
    assert one.losses[1].value == pytest.approx(0.1)


def test_the_loss_is_one_less_what_was_kept(make_scores, score_rows):
    (one,) = gated(found(make_scores, score_rows, 0.8 * TAUGHT), 0.05)
    assert (one.losses[0].value, one.losses[0].low, one.losses[0].high) == pytest.approx((0.2, 0.2, 0.2))


def with_base(rows, base):
    """The same margins on a base that prefers each chosen response by so much."""
    for row, own in zip(rows, np.tile(base, len(rows) // len(base)), strict=True):
        row["chosen_logp"] += own
        row["base_chosen_logp"] += own
    return rows


def test_it_fails_where_what_the_base_could_do_is_lost_though_nothing_was_learned(make_scores, score_rows):
    """The base ranks 391 of 400 pairs rightly; nothing is learned; then half of the pairs turn: 0.978 to 0.4975."""
    base = np.where(np.arange(400) < 391, 1.0, -1.0)
    idle = 0.1 * np.cos(np.pi * np.arange(400))  # mean 0
    after = np.where(np.arange(400) < 192, -2.0, 0.0)
    rows = with_base(score_rows({(1, 0): idle, (2, 0): after}), base)
    findings = results(make_scores(rows), None, 0.3)
    (cell,) = findings.cells
    assert cell.verdict.verdict == "BELOW BASE"
    against = cell.verdict.reasons.base
    assert (against.ranking_accuracy_of_base, against.ranking_accuracy_after) == pytest.approx((0.9775, 0.4975))
    (one,) = gated(findings, 0.05)
    assert (one.outcome, one.reason) == ("failed", "lost more than 2% of the base's ranking accuracy")


def test_only_the_end_of_an_order_since_the_objective_was_taught_is_gated(make_scores, score_rows):
    margins = {(1, 0): TAUGHT, (2, 0): 0.5 * TAUGHT, (3, 0): 0.99 * TAUGHT}
    findings = results(make_scores(score_rows(margins, order="a>b>c")), None, 0.3)
    assert len(findings.cells) == 3
    (one,) = gated(findings, 0.05)
    assert one.outcome == "passed"


@pytest.fixture
def both(make_scores, score_rows):
    rows = [
        score_rows({(1, 0): TAUGHT, (2, 0): 0.5 * TAUGHT}),
        score_rows({(1, 0): TAUGHT, (2, 0): TAUGHT}, objective="b", order="b>a"),
    ]
    return results(make_scores(*rows), None, 0.3)


def test_objective_and_order_choose(both):
    assert [one.objective for one in gated(both, 0.05, objective="b")] == ["b"]
    assert [one.objective for one in gated(both, 0.05, order="a>b")] == ["a"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"objective": "aa"}, r"^objective = 'aa': not in this run; expected one of 'a', 'b'. Did you mean 'a'\?"),
        ({"order": "b>b"}, r"^order = 'b>b': not in this run; expected one of 'a>b', 'b>a'"),
        ({"max_loss": 5}, r"^max_loss = 5 is no share; expected one from 0 to below 1, as 0.05. For 5% give 0.05."),
        ({"max_accuracy_loss": -0.1}, r"^max_accuracy_loss = -0.1 is no share"),
    ],
)
def test_what_cannot_be_asked_is_refused(both, where, message):
    with pytest.raises(ConfigError, match=message):
        gated(both, **{"max_loss": 0.05} | where)


def test_a_study_without_a_later_stage_has_nothing_to_gate(make_scores, score_rows):
    findings = results(make_scores(score_rows({(1, 0): TAUGHT}, order="a")), None, 0.3)
    with pytest.raises(ConfigError, match="no earlier objective was followed by a later stage"):
        gated(findings, 0.05)
