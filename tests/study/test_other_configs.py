"""Configurations of TRL, Axolotl and LLaMA-Factory become a study file, and every key of them is accounted for."""

import json
from pathlib import Path

import pytest

from seqdpo.errors import ConfigError
from seqdpo.preferences.datasets.preference import PreferenceObjective, candidates
from seqdpo.study.file import load_study
from seqdpo.study.other_configs.together import import_study

TRL = """
model_name_or_path: Qwen/Qwen3-0.6B
model_revision: main
dtype: bfloat16
use_peft: true
lora_r: 8
lora_dropout: 0.05
lora_target_modules: [q_proj, k_proj]
dataset_name: trl-lib/ultrafeedback_binarized
dataset_train_split: train
learning_rate: 5e-6
loss_type: [ipo]
warmup_steps: 0.1
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
eval_strategy: steps
logging_steps: 25
output_dir: out/dpo
some_new_key: 7
"""
AXOLOTL = """
base_model: meta-llama/Meta-Llama-3-8B-Instruct
rl: dpo
adapter: qlora
load_in_4bit: true
load_in_8bit: false
datasets:
  - path: someone/messages
    type: chat_template.default
    field_messages: conversation
    field_chosen: good
    roles: {user: [user], assistant: [assistant]}
    split: train_prefs
val_set_size: 0.05
lora_model_dir:
lora_r: 32
lora_alpha: 16
lora_target_linear: true
micro_batch_size: 2
num_epochs: 4.0
optimizer: adamw_bnb_8bit
learning_rate: "2e-4"
bf16: auto
gradient_checkpointing: offload
"""
LLAMA_FACTORY = """
model_name_or_path: Qwen/Qwen3-4B-Instruct
stage: dpo
finetuning_type: lora
lora_target: all
pref_beta: 0.2
dataset: kind
template: qwen3_nothink
cutoff_len: 512
max_samples: 1000
learning_rate: 5.0e-6
lr_scheduler_type: cosine
bf16: true
resume_from_checkpoint: null
"""
INFO = {
    "kind": {
        "file_name": "kind.json",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    },
    "brief": {
        "hf_hub_url": "someone/brief",
        "subset": "en",
        "ranking": True,
        "columns": {"prompt": "question", "query": "input", "chosen": "good", "rejected": "bad"},
    },
    "plain": {"file_name": "plain.json"},
}


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dataset_info.json").write_text(json.dumps(INFO))


def imported(*texts):
    """The study of files with these texts, and all that is said of them."""
    paths = [Path(f"{number}.yaml") for number, _ in enumerate(texts, 1)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    written = import_study(paths)
    Path("study.yaml").write_text(written.text)
    told = {heading: "\n".join(lines) for heading, lines in written.account}
    return load_study("study.yaml"), told


def refused(*texts):
    with pytest.raises(ConfigError) as raised:
        imported(*texts)
    return str(raised.value)


def test_a_configuration_of_trl():
    study, told = imported(TRL)
    assert study.model_name_or_path == "Qwen/Qwen3-0.6B"
    assert study.model_revision is None
    assert (study.dtype, study.lora_r, study.lora_target_modules) == ("bfloat16", 8, ["q_proj", "k_proj"])
    assert (study.learning_rate, study.loss_type, study.warmup_ratio, study.warmup_steps) == (5e-6, "ipo", 0.1, 0)
    assert study.pairs_per_step == 16
    # what the file does not say, as TRL 1.16 has it
    assert (study.beta, study.lora_alpha, study.num_train_epochs, study.max_length) == (0.1, 32, 3, 1024)
    assert study.excess_length_strategy == "truncate"
    assert study.lora_dropout == 0
    objective = study.objectives["ultrafeedback_binarized"]
    assert (objective.format, objective.dataset_name) == ("preference", "trl-lib/ultrafeedback_binarized")
    assert study.all_orders() == [("ultrafeedback_binarized",)]
    assert "lora_dropout = 0.05: TRL's DPO sets all dropout to 0" in told["Left out:"]
    assert "some_new_key = 7: seqdpo has no such key" in told["Left out:"]
    assert "beta: 0.1" in told["Not in the file, written because seqdpo's default is another:"]
    assert "max_length" not in told["Not in the file, written because seqdpo's default is another:"]


def test_trl_s_defaults_are_those_of_the_release_that_is_installed():
    pytest.importorskip("trl")
    from dataclasses import fields

    from trl import DPOConfig, ModelConfig

    theirs = {one.name: one.default for of in (ModelConfig, DPOConfig) for one in fields(of)}
    study, _ = imported("dataset_name: a\nmodel_name_or_path: m\nuse_peft: true")
    same = ("lora_r", "lora_alpha", "beta", "learning_rate", "num_train_epochs", "max_length", "lr_scheduler_type")
    for key in (*same, "gradient_checkpointing", "per_device_train_batch_size", "weight_decay", "max_grad_norm"):
        assert getattr(study, key) == theirs[key], key
    assert theirs["disable_dropout"] is True
    assert study.dtype == theirs["dtype"]


def test_a_configuration_of_axolotl():
    study, told = imported(AXOLOTL)
    assert (study.dtype, study.lora_r, study.lora_alpha, study.lora_target_modules) == (
        "bfloat16",
        32,
        16,
        "all-linear",
    )
    assert (study.learning_rate, study.num_train_epochs, study.eval_fraction) == (2e-4, 4, 0.05)
    assert study.gradient_checkpointing is True
    # Axolotl's own defaults
    assert (study.beta, study.max_length, study.lr_scheduler_type, study.warmup_ratio) == (0.1, 512, "cosine", 0.03)
    assert study.pairs_per_step == 2
    assert study.excess_length_strategy == "drop"
    objective = study.objectives["messages"]
    assert objective.columns == {"prompt": "conversation", "chosen": "good"}
    assert objective.dataset_train_split == "train_prefs"
    assert "load_in_4bit = True: the base is kept in float32 or bfloat16, not quantised" in told["Left out:"]
    assert "load_in_8bit = False: switched off or unset there" in told["Left out:"]
    assert "datasets.roles" not in told["Left out:"]


def test_a_configuration_of_llama_factory():
    study, told = imported(LLAMA_FACTORY)
    assert (study.lora_r, study.lora_alpha, study.lora_target_modules) == (8, 16, "all-linear")
    assert (study.beta, study.max_length, study.num_train_epochs, study.dtype) == (0.2, 512, 3, "bfloat16")
    objective = study.objectives["kind"]
    assert objective.dataset_name == "kind.json"
    assert objective.columns == {"prompt": "conversations"}
    assert objective.max_train_pairs == 1000
    assert "template = 'qwen3_nothink': the model's own chat template is read" in told["Left out:"]
    assert "resume_from_checkpoint" not in told["Left out:"]


def test_rows_of_llama_factory_s_kind_are_read_by_the_study_that_was_written():
    study, _ = imported(LLAMA_FACTORY)
    row = {
        "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "yes"},
        "rejected": {"from": "gpt", "value": "no"},
    }
    objective = study.objectives["kind"]
    assert isinstance(objective, PreferenceObjective)
    (pair,) = candidates([row], objective, None, "kind.json")
    assert [(m.role, m.content) for m in pair.prompt] == [("system", "s"), ("user", "q")]
    assert (pair.chosen, pair.rejected) == ("yes", "no")


@pytest.mark.parametrize(
    ("first", "second", "reference", "adapter_mode", "told"),
    [
        # docs/audit.md has the table
        (TRL, TRL, "previous", "continue", "fresh adapter on the same base"),
        (TRL, TRL.replace("Qwen/Qwen3-0.6B", "out/merged"), "previous", "stack", "with the adapter merged"),
        (AXOLOTL, AXOLOTL.replace("lora_model_dir:", "lora_model_dir: out"), "base", "continue", "does not follow"),
        (LLAMA_FACTORY, LLAMA_FACTORY + "adapter_name_or_path: out", "base", "continue", "adapter switched off"),
        (
            LLAMA_FACTORY,
            LLAMA_FACTORY + "adapter_name_or_path: out\ncreate_new_adapter: true",
            "previous",
            "stack",
            "the merged model",
        ),
        (LLAMA_FACTORY, LLAMA_FACTORY, "base", "continue", "does not follow the first stage"),
    ],
)
def test_the_reference_of_the_second_stage(first, second, reference, adapter_mode, told):
    study, account = imported(first, second)
    assert (study.reference, study.adapter_mode) == (reference, adapter_mode)
    assert told in account["Note:"]
    (order,) = study.all_orders()
    assert order == tuple(study.objectives)
    assert len(order) == 2


@pytest.mark.parametrize("new", ["", "\ncreate_new_adapter: true"])
def test_an_adapter_that_is_there_is_continued_and_not_trained_again(tmp_path, monkeypatch, new):
    first = LLAMA_FACTORY + "output_dir: out/kind"
    second = LLAMA_FACTORY.replace("kind", "brief") + "adapter_name_or_path: out/kind/checkpoint-9" + new
    monkeypatch.chdir(tmp_path)
    study, told = imported(first, second)
    assert study.adapter_name_or_path is None
    assert "No adapter is at 'out/kind/checkpoint-9' from here" in told["Note:"]
    Path("out/kind/checkpoint-9").mkdir(parents=True)
    Path("out/kind/checkpoint-9/adapter_config.json").write_text("{}")
    study, told = imported(first, second)
    assert (study.adapter_name_or_path, study.learned) == ("out/kind/checkpoint-9", "kind")
    assert study.all_orders() == [("kind", "brief")]
    assert study.adapter_mode == ("stack" if new else "continue")
    assert "adapter_name_or_path: out/kind/checkpoint-9 that 2.yaml goes on from" in told["Taken over:"]
    assert "does not train the first stage again" in told["Note:"]
    study, told = imported(first.replace("out/kind", "elsewhere"), second)
    assert study.adapter_name_or_path is None
    assert "1.yaml writes to 'elsewhere'. They are taken for the same" in told["Note:"]
    study, told = imported(LLAMA_FACTORY, second)
    assert study.adapter_name_or_path is None
    assert "1.yaml writes to 'no output_dir'" in told["Note:"]


def test_a_merged_parent_in_float32_needs_no_stack():
    study, _ = imported(TRL.replace("bfloat16", "float32"), TRL.replace("Qwen/Qwen3-0.6B", "out/merged"))
    assert study.adapter_mode == "new_on_merged"


def test_stages_that_differ_are_said_and_the_first_is_written():
    study, told = imported(LLAMA_FACTORY, LLAMA_FACTORY.replace("5.0e-6", "1e-6").replace("kind", "brief"))
    assert study.learning_rate == 5e-6
    assert "learning_rate: 5e-06 in 1.yaml, 1e-06 in 2.yaml" in told["Note:"]
    assert study.objectives["brief"].columns == {"prompt": "question", "chosen": "good", "rejected": "bad"}
    assert study.objectives["brief"].subset == "en"
    assert "brief.columns.query = 'input' (2.yaml)" in told["Left out:"]
    assert "brief: prompt and responses are plain text" in told["Note:"]


def test_rslora_becomes_an_alpha_of_the_same_scale():
    study, _ = imported(TRL.replace("lora_r: 8", "lora_r: 16") + "use_rslora: true")
    assert study.lora_alpha / study.lora_r == pytest.approx(32 / 16**0.5)  # TRL's alpha of 32, over the root of 16


def test_a_value_that_no_study_holds_is_said_and_our_default_written():
    study, told = imported(TRL + "num_train_epochs: 0.5\nlr_scheduler_type: cosine_with_min_lr")
    assert (study.num_train_epochs, study.lr_scheduler_type) == (1, "linear")
    assert "num_train_epochs = 0.5: expected" in told["Left out:"]
    assert "in place of num_train_epochs = 0.5" in told["Taken over:"]


def test_several_sources_of_one_file_are_said_to_be_stages():
    listed = TRL.replace(
        "dataset_name: trl-lib/ultrafeedback_binarized",
        "datasets: [{path: a/x, name: en, split: 'train[:100]'}, {path: json, data_files: d/y.jsonl, fraction: 0.5}]",
    )
    study, told = imported(listed)
    assert {name: one.dataset_name for name, one in study.objectives.items()} == {"x": "a/x", "y": "d/y.jsonl"}
    assert study.objectives["x"].subset == "en"
    assert "split = 'train[:100]': a whole split is read" in told["Left out:"]
    assert "datasets.fraction = 0.5" in told["Left out:"]
    assert "trains them mixed; here each is a stage of its own" in told["Note:"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AXOLOTL.replace("rl: dpo", "rl: kto"), "rl = 'kto'; expected rl: dpo"),
        (AXOLOTL.replace("rl: dpo", ""), "supervised fine-tuning; expected rl: dpo"),
        (AXOLOTL.replace("adapter: qlora", ""), "adapter is not there, so every weight is trained"),
        (LLAMA_FACTORY.replace("stage: dpo", "stage: rm"), "stage = 'rm'; expected stage: dpo"),
        (LLAMA_FACTORY.replace("type: lora", "type: full"), "finetuning_type = 'full'; expected lora"),
        (LLAMA_FACTORY + "pref_loss: simpo", "pref_loss = 'simpo' is not DPO"),
        (LLAMA_FACTORY.replace("kind", "knid"), "dataset 'knid' is not in"),
        (LLAMA_FACTORY.replace("kind", "plain"), "has no `ranking: true`"),
        (TRL.replace("use_peft: true", "use_peft: false"), "trains every weight"),
        (TRL.replace("[ipo]", "[sigmoid, sft]"), "loss_type = ['sigmoid', 'sft']; expected one of sigmoid"),
        (TRL + "desirable_weight: 1.0", "desirable_weight is a key of KTO"),
        ("a: 1", "keys a; expected a configuration of TRL, Axolotl, LLaMA-Factory"),
        ("setting: hh-rlhf", "is a study file already"),
        ("[1, 2]", "expected `key: value` lines"),
    ],
)
def test_what_is_no_dpo_of_an_adapter_is_refused_by_name(text, expected):
    message = refused(text)
    assert message.startswith("1.yaml: ")
    assert expected in message


@pytest.mark.parametrize("value", ["5", "[1]", "[[1]]", "{a: 1}", "[{path: 3}]", "x", "true"])
@pytest.mark.parametrize(
    ("text", "key"),
    [(TRL, "dataset_name"), (TRL, "datasets"), (AXOLOTL, "trl"), (AXOLOTL, "datasets"), (LLAMA_FACTORY, "dataset")],
)
def test_a_value_of_the_wrong_kind_is_no_crash(text, key, value):
    lines = [line for line in text.splitlines() if not line.startswith((key, " "))]
    try:
        imported("\n".join([*lines, f"{key}: {value}"]))
    except ConfigError as error:
        assert "1.yaml" in str(error)


def test_dataset_info_that_is_nowhere_is_told_with_the_places_looked_at():
    Path("dataset_info.json").unlink()
    assert "looked for data/dataset_info.json, dataset_info.json" in refused(LLAMA_FACTORY)
