"""What a stage costs, and that all of its mechanism together keeps to the study's share of its training passes."""

import pytest

from seqdpo.measure.gradients import TraceSize
from seqdpo.preferences.pairs import Message, Pair
from seqdpo.preferences.prepare import Preferences, PreparedObjective, PreparedPair
from seqdpo.runner.work import FEWEST_HELD_OUT, Work, mechanism_size, mechanism_work, stage_notes
from seqdpo.study.checkpoints import Node

FIRST, LATER, CONTROL = Node(0, ("a",)), Node(0, ("a", "b")), Node(0, ("a", "b"), 1)
SECOND_CONTROL = Node(0, ("a", "b"), 2)


def prepared(text: str) -> PreparedPair:
    return PreparedPair(Pair((Message("user", text),), "yes", "no"), None)


def preferences(n_train: int, n_eval: int = 400, names: str = "ab") -> Preferences:
    held_out = [prepared(f"question {i}") for i in range(n_eval)]
    of = {name: PreparedObjective([prepared("a question")] * n_train, held_out, 0, {}) for name in names}
    return Preferences(of, {}, None)


def test_size_by_hand(make_study):
    """6,000 pairs cost 12,000; a tenth is 1,200, half of it for held-out pairs. One of each of two objectives costs
    2 * (2 for KL + 2 for the forecast + 4 for the path) = 16, and 2 for the forecast's gradient: 33 pairs, 594.
    What is left, 606, pays for 303 gradient pairs: 303 // 16 = 18 points of 303 // 72 = 4."""
    study, of = make_study(), preferences(6000)
    assert mechanism_size(LATER, of, study) == (TraceSize(18, 4, 8), 33, [])
    assert mechanism_work(LATER, of, study) == Work(18 * 4 * 4 + 33, 33 * 16)
    assert mechanism_size(CONTROL, of, study) == (TraceSize(18, 4, 8), 33, [])  # as the real stage
    assert mechanism_work(CONTROL, of, study) == Work(18 * 4 * 4 + 33, 33 * 8)  # the same pairs, no path
    assert mechanism_size(SECOND_CONTROL, of, study) == (TraceSize(0, 0, 0), 33, [])  # one is enough
    assert mechanism_work(SECOND_CONTROL, of, study) == Work(33, 33 * 8)
    assert mechanism_size(FIRST, of, study) == (TraceSize(0, 0, 0), 66, [])  # no trace to share with


@pytest.mark.parametrize(
    "keys", [{}, {"num_train_epochs": 3}, {"gradient_checkpointing": True}, {"ld_alpha": 0.5}], ids=str
)
@pytest.mark.parametrize("share", [0.01, 0.1, 1.0, 5.0])
def test_all_of_the_mechanism_keeps_to_its_share(share, keys, make_study):
    study = make_study(mechanism_share=share, **keys)
    for n_train in (40, 320, 2000, 43_000):
        of = preferences(n_train, names="abc", n_eval=100)
        budget = share * Work(n_train * study.num_train_epochs, 0).units(study)
        for node in (FIRST, LATER, CONTROL, SECOND_CONTROL, Node(0, ("a", "b", "c"))):
            assert mechanism_work(node, of, study).units(study) <= budget


def test_limits_of_the_study_hold_whatever_the_share(make_study):
    study = make_study(mechanism_share=100, mechanism_pairs=50, gradient_trace_points=7)
    size = mechanism_size(LATER, preferences(6000), study)
    assert (size.n_held_out, size.trace.n_points, size.notes) == (50, 7, [])
    off = make_study(mechanism_pairs=0, gradient_trace_points=0)
    assert mechanism_size(LATER, preferences(6000), off) == (TraceSize(0, 0, 0), 0, [])


@pytest.mark.parametrize("node", [FIRST, LATER, CONTROL], ids=lambda node: node.checkpoint)
def test_too_few_pairs_are_not_measured_and_the_note_names_a_share_that_would_do(node, make_study):
    of = preferences(320)
    size = mechanism_size(node, of, make_study())
    assert size.n_held_out == size.trace.n_points == 0
    assert len(size.notes) == (1 if node == FIRST else 2)
    assert f"expected at least {FEWEST_HELD_OUT}" in size.notes[0]
    for note in size.notes:
        enough = float(note.split()[-3])
        mended = mechanism_size(node, of, make_study(mechanism_share=enough))
        assert note.split(":")[0] not in [other.split(":")[0] for other in mended.notes]


def test_too_few_held_out_pairs_for_a_gradient_are_said(make_study):
    size = mechanism_size(LATER, preferences(6000, n_eval=8), make_study())
    assert size.trace == TraceSize(0, 0, 0)
    assert "held-out pairs in a third of half an objective" in size.notes[0]


def test_a_loss_whose_control_stages_pull_says_so_in_those(make_study):
    study, of = make_study(loss_type="apo_down"), preferences(6000)
    assert stage_notes(LATER, of, study) == []
    assert "lowers both" in stage_notes(CONTROL, of, study)[0]
    assert stage_notes(CONTROL, of, make_study(loss_type="apo_zero")) == []
