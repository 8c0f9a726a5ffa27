"""What a plan says of many workers, and in which order they are given the tree."""

from io import StringIO

import pytest
from rich.console import Console

from seqdpo.policy.load import ParameterCount
from seqdpo.runner import probe
from seqdpo.runner.inputs import read_preferences, with_model_path
from seqdpo.runner.plan import Plan, StagePlan, plan_study
from seqdpo.runner.probe import Rates
from seqdpo.runner.schedule import Frontier
from seqdpo.runner.terminal import print_plan
from seqdpo.runner.work import Work
from seqdpo.study.checkpoints import Node
from seqdpo.study.config import Study
from seqdpo.study.settings import SETTINGS

FIRST, SECOND = Node(0, ("a",)), Node(0, ("b",))
LATER, CONTROL = Node(0, ("a", "b")), Node(0, ("a", "b"), placebo=1)
TREE = [None, FIRST, LATER, CONTROL, SECOND]


@pytest.fixture
def plan():
    """The base takes 1 s, a 2 s, a>b 3 s and its control stage 3 s, b 4 s; of each stage's, 1 s is the mechanism."""
    seconds = {None: 1.0, FIRST: 2.0, LATER: 3.0, CONTROL: 3.0, SECOND: 4.0}
    stages = [StagePlan(node, Work(0, 0), 0, 0, seconds[node], 0.0, 1.0 if node else 0.0, []) for node in TREE]
    return Plan(ParameterCount(1, 1), stages, Rates(1.0, 2.0, "by hand"), 1)


def test_makespans_by_hand(plan):
    assert plan.makespan(1) == plan.seconds == 13
    # base 0-1; a 1-3 beside b 1-5; a>b 3-6; the control stage 5-8
    assert plan.makespan(2) == 8
    # the control stage beside a>b, 3-6
    assert plan.makespan(3) == plan.makespan(100) == 6


def test_shares_of_control_stages_and_mechanism_do_not_overlap(plan):
    assert plan.placebo_seconds == 3  # with the second of its mechanism
    assert plan.mechanism_seconds == 3  # of a, a>b and b


def test_a_node_may_run_once_its_parent_is_done_and_is_given_once():
    frontier = Frontier(TREE)
    assert frontier.take(5) == [None]
    assert frontier.take(5) == []
    frontier.done(None)
    assert frontier.take(1) == [FIRST]
    frontier.give_back(FIRST)  # its worker was lost
    assert frontier.take(5) == [FIRST, SECOND]
    frontier.done(SECOND)
    assert frontier.take(5) == []
    frontier.done(FIRST)
    assert frontier.take(5) == [LATER, CONTROL]


def test_what_stands_on_finished_stages_may_run_at_once():
    assert Frontier([CONTROL, SECOND]).take(5) == [CONTROL, SECOND]


def test_a_plan_for_a_device_that_is_not_here_goes_by_its_data_sheet_and_says_so(monkeypatch):
    """The lab in bfloat16 at 40% of 989 TFLOP/s and of 312: 3.17 times as long on an A100, whatever this machine is."""
    study = Study.model_validate(
        SETTINGS["lab-null"].defaults | {"setting": "lab-null", "dtype": "bfloat16", "output_dir": "x"}
    )
    study = with_model_path(study)
    monkeypatch.setattr(probe, "matmul_rate", None)  # nothing is measured
    preferences, _ = read_preferences(study, lambda text: None)
    h100, a100 = (plan_study(study, preferences, name) for name in ("h100", "a100"))
    assert a100.seconds / h100.seconds == pytest.approx(989 / 312)
    one = h100.stages[1]
    tokens = one.tokens / (one.work.trained + one.work.scored) * one.work.units(study)
    assert one.seconds == pytest.approx(2 * h100.parameters.total * tokens / (0.4 * 989e12), rel=1e-3)
    console = Console(file=StringIO(), width=80)
    print_plan(console, study, preferences, h100)
    said = " ".join(console.file.getvalue().split())
    assert "on one H100 (assumed)" in said and "nothing was measured there" in said
