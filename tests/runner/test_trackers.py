"""Trackers hear what is in the files, a run for each stage; the files are what they are without them."""

import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from accelerate import PartialState, tracking
from test_run_study import SilentBoard

from seqdpo.errors import ConfigError
from seqdpo.measure.scores import PairLogps
from seqdpo.report.finished import read_run
from seqdpo.runner import trackers
from seqdpo.runner.study import check_study, run_study
from seqdpo.study.checkpoints import Node
from seqdpo.study.config import Study
from seqdpo.study.settings import LAB

pytestmark = pytest.mark.usefixtures("base_logps_cache")

OBJECTIVES = {name: {"format": "lab", "angle": angle, "n_pairs": 40} for name, angle in (("one", 0), ("two", 90))}


def study(output_dir, **values):
    keys = {"objectives": OBJECTIVES, "orders": [["one", "two"]], "placebo": 1, "output_dir": str(output_dir)}
    return Study.model_validate(LAB | keys | {"mechanism_share": 0.01, "learning_rate": 3e-3} | values)


class Recorder:
    """In the place of wandb's: what accelerate would hand on."""

    runs: ClassVar[list["Recorder"]] = []

    def __init__(self, project, name):
        self.project, self.name, self.logged, self.finished = project, name, [], False
        Recorder.runs.append(self)

    def start(self): ...

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(Recorder, "runs", [])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr(trackers, "find_spec", lambda name: True)
    return Recorder


def test_each_stage_is_a_run_with_the_numbers_of_its_files(recorder, tmp_path):
    folder = run_study(study(tmp_path / "run", report_to="wandb"), SilentBoard())
    assert [(one.project, one.name) for one in recorder.runs] == [
        ("run", "seed0.one"),
        ("run", "seed0.one.two"),
        ("run", "seed0.one.placebo1-two"),
    ]
    assert all(one.finished for one in recorder.runs)
    for one in recorder.runs:
        assert one.config["learning_rate"] == "0.003"
        steps = pq.read_table(folder.root / "stages" / one.name / "train.parquet").to_pylist()
        heard = [(step, values["train/loss"]) for step, values in one.logged if "train/loss" in values]
        assert heard == [(row["step"], row["loss"]) for row in steps]
    ends = {key: value for _, values in recorder.runs[1].logged for key, value in values.items()}
    for score in read_run(folder.root).findings.score_matrix:
        if score.checkpoint == "one>two":
            assert ends[f"eval/{score.objective}/margin"] == pytest.approx(score.margin.value)
            assert ends[f"eval/{score.objective}/accuracy"] == pytest.approx(score.accuracy.value)


def test_tensorboard_reads_them_and_the_scores_are_those_of_a_run_without(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'seqdpo[test]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = run_study(study(tmp_path / "told", report_to=["tensorboard"]), SilentBoard())
    alone = run_study(study(tmp_path / "alone"), SilentBoard())
    assert told.scores.read_bytes() == alone.scores.read_bytes()
    events = EventAccumulator(str(told.root / "tensorboard" / "seed0.one.two"))
    events.Reload()
    losses = pq.read_table(told.root / "stages/seed0.one.two/train.parquet")["loss"].to_pylist()
    assert [scalar.value for scalar in events.Scalars("train/loss")] == pytest.approx(losses, rel=1e-6)  # float32 there


class FakeWandb(ModuleType):
    """As much of wandb as accelerate's own integration calls."""

    def __init__(self):
        super().__init__("wandb")
        self.config, self.told = SimpleNamespace(update=lambda values, **more: None), []

    def init(self, **given):
        if self.refuses:
            raise ValueError("no key; log in")
        return SimpleNamespace(log=lambda values, **more: self.told.append(values), finish=lambda: None)


@pytest.mark.parametrize("refuses", [False, True])
def test_accelerates_own_integration_runs_in_a_process_that_has_not_used_accelerate(refuses, monkeypatch, tmp_path):
    """Its log raises before there is a state, which W&B's and Trackio's tracker do not make themselves."""
    wandb = FakeWandb()
    wandb.refuses = refuses
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(PartialState, "_shared_state", {})
    keys, node = study(tmp_path, report_to="wandb"), Node(0, ("one",))
    if refuses:
        with pytest.raises(ConfigError, match=r"report_to: wandb does not begin: no key; log in\. Set it up"):
            trackers.stage_trackers(keys, tmp_path, node).__enter__()
        return
    with trackers.stage_trackers(keys, tmp_path, node) as stage:
        stage.scores({"one": logps(1.0)}, {"one": logps(0.5)})
    assert wandb.told == [{"eval/one/margin": 0.5, "eval/one/accuracy": 1.0}]


def logps(margin):
    return PairLogps(np.array([margin]), np.array([0.0]))


def test_a_tracker_that_is_not_installed_is_told_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    for look in (lambda given: run_study(given, SilentBoard()), lambda given: check_study(given, print)):
        with pytest.raises(ConfigError, match=r"mlflow, trackio not installed; .* pip install mlflow trackio"):
            look(study(tmp_path / "run", report_to=["mlflow", "trackio"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("given", "names"), [("none", []), ("wandb", ["wandb"]), (["mlflow"], ["mlflow"])])
def test_names_of_trackers_are_given_as_to_transformers(given, names):
    assert study("run", report_to=given).report_to == names
