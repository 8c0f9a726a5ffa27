"""Keys of other tools are answered with ours, or with what holds instead, and not with a list of all that there are."""

import pytest

from seqdpo.errors import ConfigError
from seqdpo.study.config import Study
from seqdpo.study.file import parse_flags, study_from
from seqdpo.study.other_tools import INSTEAD, INSTEAD_OF_OBJECTIVE, OURS, OURS_OF_OBJECTIVE
from seqdpo.study.problems import _keys_of_format

KEYS = set(Study.model_fields)
OBJECTIVE_KEYS = set(_keys_of_format("preference"))
MINIMAL = {"model_name_or_path": "m", "setting": "hh-rlhf", "output_dir": "out"}


def refusal(**keys):
    with pytest.raises(ConfigError) as raised:
        study_from(MINIMAL | keys, "s.yaml")
    return str(raised.value)


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        # as the tools' own documentation and examples write them
        ("lora_rank", "lora_rank is not a key of a study; expected lora_r."),  # LLaMA-Factory
        ("cutoff_len", "expected max_length."),
        ("pref_beta", "expected beta."),
        ("rl_beta", "expected beta."),  # Axolotl
        ("base_model", "expected model_name_or_path."),
        ("micro_batch_size", "expected per_device_train_batch_size."),
        ("per_gpu_train_batch_size", "expected per_device_train_batch_size."),
        ("num_epochs", "expected num_train_epochs."),
        ("epochs", "expected num_train_epochs."),  # torchtune
        ("lr", "expected learning_rate."),
        ("max_seq_length", "expected max_length."),  # Unsloth
        ("quantization_bit", "quantised by load_in_4bit: true (NF4) or load_in_8bit: true."),
        ("fp16", "Set dtype: bfloat16."),
        ("bf16", "set dtype: bfloat16 or float32."),
        ("push_to_hub", "seqdpo push RUN publishes a finished one."),
        ("max_prompt_length", "Set max_length"),
        ("ref_model", "Set reference: base, previous or stage:<k>."),
        ("datasets", "objectives: {NAME: {format: preference, dataset_name: …}}."),
        ("optim", "the optimiser is AdamW"),
        ("seed", "Write seeds: [0]."),
    ],
)
def test_a_key_of_another_tool_is_answered(theirs, expected):
    message = refusal(**{theirs: "x"})
    assert expected in message
    assert "expected one of" not in message
    assert "Did you mean" not in message


def test_ours_are_keys_and_theirs_are_not():
    assert set(OURS.values()) <= KEYS
    assert set(OURS_OF_OBJECTIVE.values()) <= OBJECTIVE_KEYS
    assert KEYS.isdisjoint({*OURS, *INSTEAD})
    assert OBJECTIVE_KEYS.isdisjoint({*OURS_OF_OBJECTIVE, *INSTEAD_OF_OBJECTIVE})
    assert not OURS.keys() & INSTEAD.keys()
    assert not OURS_OF_OBJECTIVE.keys() & INSTEAD_OF_OBJECTIVE.keys()


def test_what_to_do_instead_names_only_keys_that_there_are():
    text = " ".join({*INSTEAD.values(), *INSTEAD_OF_OBJECTIVE.values()})
    words = {word.strip(":,.()") for word in text.split() if "_" in word}
    assert words <= KEYS | OBJECTIVE_KEYS


def test_a_key_of_another_tool_in_an_objective_is_answered():
    source = {"format": "preference", "dataset_name": "x.jsonl"}
    message = refusal(setting=None, objectives={"brief": source | {"path": "y", "split": "train"}})
    assert "objectives.brief.path is not a key of an objective of format preference; expected dataset_name." in message
    assert (
        "objectives.brief.split is not a key of an objective of format preference; expected dataset_train_" in message
    )


def test_a_switch_of_another_tool_is_answered_though_it_has_no_value():
    with pytest.raises(ConfigError, match=r"--fp16 is not a key of a study; the base is kept in float32"):
        parse_flags(["--fp16", "--beta", "0.1"])
    with pytest.raises(ConfigError, match=r"--debug is not a key of a study; it stands before the command"):
        parse_flags(["--debug"])
