"""One sentence on what to do next: settle it, change the recipe, or leave it; and what it costs."""

import numpy as np
import pytest

from seqdpo.analysis.results import results

TAUGHT = 2 + np.linspace(-1, 1, 400)
NOISE = 0.1 * np.sin(np.arange(400))
NOISE -= NOISE.mean()


def advice(make_scores, score_rows, margins, order="a>b", study=None):
    return [cell.next for cell in results(make_scores(score_rows(margins, order=order)), None, 0.3, study=study).cells]


def controls(n, step=0.01):
    return {(2, k): TAUGHT + step * k - NOISE for k in range(1, n + 1)}


@pytest.mark.parametrize(
    ("after", "n", "expected"),
    [
        (TAUGHT, 0, "Leave it"),
        (TAUGHT + 1, 4, "Leave it"),
        (0.7 * TAUGHT, 0, "Settle whether b did it: 4 more control stages, each as long as the stage (--placebo 4)"),
        (0.7 * TAUGHT, 1, "Settle whether b did it: 3 more control stages, each as long as the stage (--placebo 4)"),
        (0.7 * TAUGHT, 4, "Change the recipe: try the other order, b>a; or mix pairs of a into the later stage"),
        (0.9 * TAUGHT, 0, "Leave it: the change is as large as the tolerance"),
        (0.903 * TAUGHT, 0, "Settle it: score about "),
    ],
)
def test_what_is_advised(make_scores, score_rows, after, n, expected):
    (found,) = advice(make_scores, score_rows, {(1, 0): TAUGHT, (2, 0): after + NOISE} | controls(n))
    assert found.startswith(expected)


def test_settling_needs_no_training(make_scores, score_rows):
    (found,) = advice(make_scores, score_rows, {(1, 0): TAUGHT, (2, 0): 0.903 * TAUGHT + NOISE})
    assert "the checkpoints are there, nothing is trained (seqdpo rescore RUN --max-eval-pairs " in found


def test_after_four_control_stages_four_are_not_asked_for_again(make_scores, score_rows):
    """Controls spread by 0.6: a loss of 0.6 is 2.3 SDs of theirs, which six quantities and 5% ask many controls for."""
    (found,) = advice(make_scores, score_rows, {(1, 0): TAUGHT, (2, 0): 0.7 * TAUGHT + NOISE} | controls(4, 0.2))
    assert "--placebo 4)" not in found and not found.startswith("Change")
    assert "looking after each one more than doubles the risk" in found


def test_what_was_not_learned_is_trained_first(make_scores, score_rows):
    nothing = TAUGHT - 2
    (found,) = advice(make_scores, score_rows, {(1, 0): nothing, (2, 0): nothing})
    assert found.startswith("Change the recipe: a was not learned, so train its own stage longer")


def test_too_few_prompts_are_said(make_scores, score_rows):
    (found,) = advice(make_scores, score_rows, {(1, 0): [1.0, 2.0], (2, 0): [1.0, 2.0]})
    assert found.startswith("Settle it: hold out more prompts")


def test_over_several_stages_it_takes_seeds(make_scores, score_rows):
    margins = {(1, 0): TAUGHT, (2, 0): TAUGHT + NOISE, (3, 0): 0.5 * TAUGHT - NOISE} | {
        (stage, k): TAUGHT + 0.01 * k for stage in (2, 3) for k in (1, 2, 3, 4)
    }
    *_, whole = advice(make_scores, score_rows, margins, order="a>b>c")
    assert whole.startswith("Settle whether b and c did it (control stages stand beside one stage")
    assert "3 seeds in all" in whole and "--placebo" not in whole


def test_an_audit_is_told_to_train(make_scores, score_rows):
    margins = {(1, 0): TAUGHT, (2, 0): 0.7 * TAUGHT + NOISE}
    (found,) = advice(make_scores, score_rows, margins, study={"kind": "audit"})
    assert "an audit has no control stages, so train the stages again with seqdpo run" in found


def test_the_other_order_is_advised_by_what_it_gave(make_scores, score_rows):
    """Trained first, a ends with 100 of 400 pairs right; trained last, with all: 75 points. b loses 25 there."""
    lost = np.where(np.arange(400) < 100, 1.0, -1.0) + NOISE
    rows = [
        score_rows({(1, 0): TAUGHT, (2, 0): lost} | controls(4)),
        score_rows({(1, 0): TAUGHT, (2, 0): TAUGHT}, order="b>a"),
        score_rows({(1, 0): TAUGHT, (2, 0): TAUGHT}, objective="b", order="a>b"),
        score_rows({(1, 0): TAUGHT, (2, 0): np.where(np.arange(400) < 100, -1.0, TAUGHT)}, objective="b", order="b>a"),
    ]
    found = results(make_scores(*rows), None, 0.3).cells[0].next
    assert found.startswith("Change the recipe: train a last (b>a): its accuracy ends 75.0 points [")
    assert "] higher there, that of b 25.0 points lower (n = 400 pairs, this seed)" in found
