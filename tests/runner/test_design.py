"""What a design rules out is told by check and plan, and refused by run, before anything is trained."""

import json

import pytest
import yaml

from seqdpo.analysis.recipes import Runs, separation
from seqdpo.errors import ConfigError
from seqdpo.preferences.prepare import Preferences
from seqdpo.runner.design import can_be_tested, check_learning_rates, design_notes, learning_rates


class _Objective:
    def __init__(self, n):
        self.train = [None] * n


class _Preferences(Preferences):
    """Only the numbers of pairs."""

    def __init__(self, **counts):
        object.__setattr__(self, "objectives", {name: _Objective(n) for name, n in counts.items()})


PAIRS = _Preferences(helpful=24, harmless=40)


@pytest.mark.parametrize(
    ("keys", "refused"),
    [
        ({}, []),
        ({"warmup_ratio": 0.03}, []),  # 1 of 3 steps, 1 of 5
        ({"warmup_ratio": 0.03, "per_device_train_batch_size": 24}, ["helpful"]),  # 1 of 1 step, 1 of 2
        ({"warmup_steps": 9, "per_device_train_batch_size": 24}, ["helpful"]),
        ({"warmup_steps": 9, "per_device_train_batch_size": 24, "num_train_epochs": 2}, []),
        ({"warmup_ratio": 0.03, "per_device_train_batch_size": 24, "lr_scheduler_type": "constant"}, []),
        ({"warmup_ratio": 0.03, "per_device_train_batch_size": 24, "lr_scheduler_type": "cosine"}, ["helpful"]),
        ({"warmup_ratio": 0.03, "gradient_accumulation_steps": 3}, ["helpful"]),
    ],
)
def test_a_stage_whose_only_step_is_at_learning_rate_0_is_refused(make_study, keys, refused):
    study = make_study(**keys)
    if not refused:
        check_learning_rates(study, PAIRS)
        return
    with pytest.raises(ConfigError, match=r"the stage on 'helpful' has one step, .* learning rate 0; .* Set warmup_"):
        check_learning_rates(study, PAIRS)


@pytest.mark.parametrize("keys", [{"warmup_steps": 5}, {"learning_rate": 1e-7}])
def test_a_schedule_that_has_no_values_is_refused_before_a_stage_is_lost_to_it(make_study, keys):
    # transformers' polynomial divides by the steps after the warm-up, and wants to begin above 1e-7
    study = make_study(lr_scheduler_type="polynomial", **keys)
    with pytest.raises(ConfigError, match=r"lr_scheduler_type = 'polynomial' with warmup_.*has no values.*Choose"):
        check_learning_rates(study, PAIRS)


def test_learning_rates_are_those_that_a_stage_trains_with(make_study):
    assert learning_rates(make_study(warmup_steps=2, learning_rate=0.4), 4) == [0.0, 0.2, 0.4, 0.2]


def test_a_warm_up_that_does_not_end_is_noted(make_study):
    study = make_study(warmup_steps=4, placebo=4)  # 3 steps and 5
    [note] = design_notes(study, PAIRS)
    assert note.startswith("helpful: the warm-up does not end within the 3 steps of its stage")


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
@pytest.mark.parametrize("placebo", [0, 1, 2, 4])
def test_a_design_is_noted_if_and_only_if_its_recipes_can_only_be_untested(make_study, seeds, placebo):
    study = make_study(seeds=list(range(seeds)), placebo=placebo)
    runs = Runs(
        [1.0 + seed for seed in range(seeds)], [[0.1 * k + seed for k in range(placebo)] for seed in range(seeds)]
    )
    tested = separation(runs).basis is not None
    assert can_be_tested(study) == tested
    notes = list(design_notes(study, PAIRS))
    assert bool(notes) != tested
    assert all("every recipe will be UNTESTED. Set placebo: 4, or give 3 seeds." in note for note in notes)


def test_one_stage_alone_has_no_recipe_to_test(make_study):
    assert not list(design_notes(make_study(orders=[["helpful"]], placebo=0), PAIRS))


@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_commands_refuse_a_study_that_would_train_nothing(tmp_path, tiny_model_folder, seqdpo, command):
    rows = [{"prompt": f"what is {i}? ", "chosen": "the answer", "rejected": "no"} for i in range(24)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    objectives = {"brief": {"format": "preference", "dataset_name": str(tmp_path / "x.jsonl")}}
    study = {"model_name_or_path": str(tiny_model_folder), "max_length": 128, "objectives": objectives}
    study |= {"per_device_train_batch_size": 64, "warmup_ratio": 0.03, "output_dir": str(tmp_path / "out")}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    code, _, told = seqdpo(command, tmp_path / "s.yaml")
    assert code == 2
    assert "the stage on 'brief' has one step, and the first step of a warm-up has learning rate 0" in " ".join(
        told.split()
    )
    assert not (tmp_path / "out").exists()
