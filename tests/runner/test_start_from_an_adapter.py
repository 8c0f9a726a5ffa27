"""A study whose first stage was trained elsewhere: by PEFT alone, by TRL, or by another study."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from test_run_study import SilentBoard
from transformers import AutoModelForCausalLM

from seqdpo.errors import ConfigError
from seqdpo.report.finished import read_run
from seqdpo.runner.study import check_study, run_study
from seqdpo.study.config import Study
from seqdpo.study.settings import LAB

pytestmark = pytest.mark.usefixtures("base_logps_cache")

OBJECTIVES = {
    name: {"format": "lab", "angle": angle, "n_pairs": 60}
    for name, angle in (("helpful", 0), ("harmless", 150), ("brief", 90))
}


def study(output_dir, **values):
    fixed = LAB | {"objectives": {n: OBJECTIVES[n] for n in ("helpful", "harmless")}, "output_dir": str(output_dir)}
    return Study.model_validate(fixed | {"learning_rate": 3e-3, "placebo": 1, "mechanism_share": 2.0} | values)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """helpful, then harmless, both trained here."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: root / "cache")
        return run_study(study(root / "run", orders=[["helpful", "harmless"]]), SilentBoard())


def adapter(folder, stage):
    return load_file(folder.root / "stages" / stage / "adapter" / "adapter_model.safetensors")


def test_a_second_stage_from_a_given_first_is_the_second_stage_of_the_whole_study(whole, tmp_path):
    """The same pairs, labels and seeds: what differs is only who trained the first stage."""
    given = tmp_path / "from-elsewhere"
    shutil.copytree(whole.root / "stages/seed0.helpful/adapter", given)
    started = run_study(study(tmp_path / "run", adapter_name_or_path=str(given), learned="helpful"), SilentBoard())
    assert {path.name for path in (started.root / "stages").iterdir()} == {
        path.name for path in (whole.root / "stages").iterdir()
    }  # `all` orders are those that begin with helpful
    for stage in ("seed0.helpful", "seed0.helpful.harmless", "seed0.helpful.placebo1-harmless"):
        one, other = adapter(whole, stage), adapter(started, stage)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    ours, theirs = (pq.read_table(folder.scores) for folder in (started, whole))
    np.testing.assert_allclose(ours["chosen_logp"].to_numpy(), theirs["chosen_logp"].to_numpy(), rtol=1e-5)
    assert pq.read_table(started.root / "stages/seed0.helpful/train.parquet").num_rows == 0
    [cell] = read_run(started.root).findings.cells
    assert (cell.objective, cell.taught, cell.to) == ("helpful", "helpful", "helpful>harmless")
    assert len(read_run(started.root).findings.score_matrix) == 2 * 4  # base, given, later, control


def test_pairs_of_what_was_learned_before_are_held_out_or_counted(whole, tmp_path):
    given = whole.root / "stages/seed0.helpful/adapter"
    checked = check_study(study(tmp_path / "run", adapter_name_or_path=str(given), learned="helpful"), print)
    account = checked.preferences.accounts()["helpful"]
    assert account["train"] == 0
    assert account["dropped"]["learned_before"] + account["eval"] == account["read"] == 60


@pytest.mark.parametrize("mode", ["new_on_merged", "stack"])
def test_a_new_adapter_on_a_given_one_of_another_rank(mode, whole, tmp_path):
    given = whole.root / "stages/seed0.helpful/adapter"
    keys = {"adapter_mode": mode, "lora_r": 4, "lora_alpha": 8, "placebo": 0}
    folder = run_study(
        study(tmp_path / "run", adapter_name_or_path=str(given), learned="helpful", **keys), SilentBoard()
    )
    config = json.loads((folder.root / "stages/seed0.helpful.harmless/adapter/adapter_config.json").read_text())
    assert config["r"] == LAB["lora_r"] + 4


def peft_adapter(whole, folder, **config):
    base = json.loads((whole.root / "stages/seed0.helpful/adapter/adapter_config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(base["base_model_name_or_path"])
    fixed = {"r": LAB["lora_r"], "lora_alpha": LAB["lora_alpha"], "target_modules": "all-linear"}
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **fixed | config)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 4}, "has r = 4 and lora_alpha = 32, but the study lora_r = 16 .* Set lora_r: 4"),
        ({"target_modules": ["q_proj"]}, "is on other layers than lora_target_modules"),
        ({"use_rslora": True}, "has use_rslora; expected plain LoRA"),
        ({"use_dora": True}, "has use_dora; expected plain LoRA"),
    ],
)
def test_an_adapter_that_cannot_be_trained_on_is_refused_before_anything_is_written(config, message, whole, tmp_path):
    given = peft_adapter(whole, tmp_path / "given", **config)
    with pytest.raises(ConfigError, match=message):
        run_study(study(tmp_path / "run", adapter_name_or_path=given, learned="helpful"), SilentBoard())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"learned": "helpful"}, "without adapter_name_or_path"),
        ({"adapter_name_or_path": "a"}, "adapter_name_or_path without learned"),
        ({"adapter_name_or_path": "a", "learned": "helpfull"}, "Did you mean 'helpful'"),
        (
            {"adapter_name_or_path": "a", "learned": "helpful", "orders": [["harmless", "helpful"]]},
            "expected orders that begin with 'helpful'",
        ),
    ],
)
def test_what_was_learned_is_an_objective_and_comes_first(keys, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        study(tmp_path / "run", **keys)


def test_all_orders_begin_with_what_was_learned():
    keys = {"objectives": OBJECTIVES, "adapter_name_or_path": "a", "learned": "helpful"}
    given = study("run", **keys)
    assert given.all_orders() == [("helpful", "harmless", "brief"), ("helpful", "brief", "harmless")]
    assert given.trained_objectives() == ["harmless", "brief"]
