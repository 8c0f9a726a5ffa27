"""Earlier objectives watched inside real trainings of TRL; the training itself is not touched."""

import importlib
import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from seqdpo.errors import ConfigError
from seqdpo.report.finished import read_run
from seqdpo.trl import PreferenceRetentionCallback

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'seqdpo[test]'")
datasets = pytest.importorskip("datasets")

#: TRL 1.16 calls transformers 5.23 by old names.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing.* is deprecated:FutureWarning")

N_PAIRS = 12


def rows(name: str) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"What is the {name} answer {i}?"}],
            "chosen": [{"role": "assistant", "content": "the answer " * (1 + i % 3) + name}],
            "rejected": [{"role": "assistant", "content": "ask the model " * (1 + i % 4)}],
        }
        for i in range(N_PAIRS)
    ]


def turned(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs]


class Tracker(TrainerCallback):
    """Stands where wandb's does: called before the user's own callbacks."""

    def __init__(self):
        self.logged = []

    def on_log(self, args, state, control, logs=None, **others):
        self.logged.append((state.global_step, dict(logs)))


@pytest.fixture
def dpo(tiny_model_folder, tmp_path):
    """`dpo("second", model, pairs, callbacks)`: a few steps, saved by TRL; the trainer."""

    def train(name, model, pairs, callbacks=(), peft_config=None, resumed=False, **arguments):
        fixed = {
            "learning_rate": 1e-2,
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "gradient_checkpointing": True,
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 4,
            "dataloader_pin_memory": False,
            "seed": 5,
        }
        with torch.random.fork_rng():
            torch.manual_seed(3)
            trainer = trl.DPOTrainer(
                model,
                args=trl.DPOConfig(str(tmp_path / name), **fixed | arguments),
                train_dataset=datasets.Dataset.from_list(pairs),
                processing_class=AutoTokenizer.from_pretrained(tiny_model_folder),
                peft_config=peft_config,
                callbacks=list(callbacks),
            )
            trainer.train(resume_from_checkpoint=resumed)
        trainer.save_model(str(tmp_path / name))
        return trainer

    return train


@pytest.fixture
def first(dpo, tiny_model_folder, tmp_path):
    """An adapter with dropout that learned to be helpful."""
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.2, target_modules="all-linear", task_type="CAUSAL_LM")
    dpo("first", AutoModelForCausalLM.from_pretrained(tiny_model_folder), rows("helpful"), (), config)
    return tmp_path / "first"


@pytest.fixture
def continued(first, tiny_model_folder):
    """`continued()`: the base with the first adapter, trained on."""

    def load():
        base = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
        return PeftModel.from_pretrained(base, str(first), is_trainable=True)

    return load


def plain_margins(folder, *adapters):
    """Of the helpful pairs, in the order of `rows`: sum over response tokens by one plain pass a sequence."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, str(adapter))

    def logp(row, side):
        start = tokenizer.apply_chat_template(row["prompt"], tokenize=True, add_generation_prompt=True)["input_ids"]
        ids = torch.tensor([tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=True)["input_ids"]])
        with torch.no_grad():
            logps = model.eval()(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        return logps.gather(1, ids[0, 1:, None])[len(start) - 1 :].sum().item()

    return np.array([logp(row, "chosen") - logp(row, "rejected") for row in rows("helpful")])


def weights(path):
    from safetensors.torch import load_file

    return load_file(path / "adapter_model.safetensors")


def test_a_dpo_training_is_watched_and_not_touched(dpo, continued, first, tiny_model_folder, tmp_path):
    dpo("without", continued(), turned(rows("helpful")))
    (tmp_path / "helpful.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows("helpful")))
    tracker = Tracker()
    callback = PreferenceRetentionCallback(
        {"helpful": tmp_path / "helpful.jsonl"}, learned="helpful", trains="unhelpful", every=2, max_length=256
    )
    trainer = dpo("with", continued(), turned(rows("helpful")), [tracker, callback])

    with_it, without = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert with_it.keys() == without.keys()
    assert all(torch.equal(with_it[name], without[name]) for name in without)

    base, start, end = (
        plain_margins(tiny_model_folder, *adapters) for adapters in ((), (first,), (tmp_path / "with",))
    )
    table = pq.read_table(tmp_path / "with" / "retention" / "retention.parquet").to_pylist()
    assert [row["step"] for row in table] == [0, 2, 4, 6]
    assert table[0]["margin"] == pytest.approx((start - base).mean(), rel=1e-4)
    assert table[-1]["margin"] == pytest.approx((end - base).mean(), rel=1e-4)
    assert table[-1]["accuracy"] == ((end - base) > 0).mean()
    assert table[-1]["kept"] == pytest.approx((end - base).mean() / (start - base).mean(), rel=1e-4)

    seen = {step: logs for step, logs in tracker.logged if "retention/helpful/margin" in logs}
    history = {entry["step"]: entry for entry in trainer.state.log_history if "retention/helpful/margin" in entry}
    assert sorted(seen) == [2, 4, 6]
    assert sorted(history) == [0, 2, 4, 6]
    for row in table[1:]:
        for key in ("margin", "accuracy", "kept"):
            assert seen[row["step"]][f"retention/helpful/{key}"] == history[row["step"]][f"retention/helpful/{key}"]
            assert seen[row["step"]][f"retention/helpful/{key}"] == row[key]


def test_the_folder_is_a_run_that_the_commands_read(dpo, continued, tmp_path, seqdpo):
    callback = PreferenceRetentionCallback(
        {"helpful": datasets.Dataset.from_list(rows("helpful"))}, learned="helpful", trains="unhelpful"
    )
    dpo("with", continued(), turned(rows("helpful")), [callback], learning_rate=5e-2, max_steps=12)
    root = tmp_path / "with" / "retention"
    [cell] = read_run(root).findings.cells
    assert (cell.objective, cell.from_, cell.to) == ("helpful", "helpful", "helpful>unhelpful")
    assert cell.verdict.verdict == "DEGRADED"
    assert seqdpo("report", root)[0] == 0
    code, output, _ = seqdpo("gate", root, "--max-loss", 0.1)
    assert (code, "helpful" in output) == (1, True)
    assert seqdpo("pairs", root, "--objective", "helpful")[0] == 0


def test_a_training_that_has_lost_too_much_ends(dpo, continued, tmp_path):
    callback = PreferenceRetentionCallback(
        {"helpful": datasets.Dataset.from_list(rows("helpful"))},
        learned="helpful",
        every=2,
        stop_if_lost=0.1,
        output_dir=tmp_path / "watched",
    )
    trainer = dpo("with", continued(), turned(rows("helpful")), [callback], learning_rate=5e-2, max_steps=40)
    assert trainer.state.global_step < 40
    last = pq.read_table(tmp_path / "watched" / "retention.parquet").to_pylist()[-1]
    assert last["step"] == trainer.state.global_step
    assert last["kept"] < 0.9


def test_a_supervised_training_of_the_whole_model_is_watched_from_its_start(tiny_model_folder, tmp_path):
    def train(name, callbacks):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            trainer = trl.SFTTrainer(
                AutoModelForCausalLM.from_pretrained(tiny_model_folder),
                args=trl.SFTConfig(
                    str(tmp_path / name),
                    learning_rate=1e-3,
                    max_steps=3,
                    per_device_train_batch_size=4,
                    use_cpu=True,
                    bf16=False,
                    gradient_checkpointing=False,
                    report_to="none",
                    save_strategy="no",
                    disable_tqdm=True,
                    dataloader_pin_memory=False,
                ),
                train_dataset=datasets.Dataset.from_list(
                    [{"prompt": row["prompt"], "completion": row["rejected"]} for row in rows("helpful")]
                ),
                processing_class=AutoTokenizer.from_pretrained(tiny_model_folder),
                callbacks=callbacks,
            )
            trainer.train()
        return trainer

    objectives = {"helpful": datasets.Dataset.from_list(rows("helpful"))}
    with pytest.raises(ConfigError, match="no adapter to switch off"):
        train("refused", [PreferenceRetentionCallback(objectives)])
    without = train("without", [])
    watched = train("with", [PreferenceRetentionCallback(objectives, reference="start", trains="sft", every=1)])
    for (name, one), (_, other) in zip(without.model.named_parameters(), watched.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    table = pq.read_table(tmp_path / "with" / "retention" / "retention.parquet").to_pylist()
    assert (table[0]["margin"], table[0]["accuracy"], table[0]["kept"]) == (0.0, 0.5, None)
    assert table[-1]["margin"] < 0  # it was taught the rejected responses
    run = read_run(tmp_path / "with" / "retention")
    assert {row.checkpoint for row in run.findings.score_matrix} == {"base", "sft"}


class Dies(TrainerCallback):
    """What a machine does."""

    def on_step_end(self, args, state, control, **others):
        if state.global_step == 5:
            raise KeyboardInterrupt


def test_a_training_that_is_resumed_is_compared_with_its_own_start(dpo, continued, tmp_path):
    def watching():
        given = {"helpful": datasets.Dataset.from_list(rows("helpful"))}
        return PreferenceRetentionCallback(given, learned="helpful", trains="unhelpful", every=2)

    pairs, saving = turned(rows("helpful")), {"save_strategy": "steps", "save_steps": 3}
    dpo("whole", continued(), pairs, [watching()], **saving)
    with pytest.raises(KeyboardInterrupt):
        dpo("broken", continued(), pairs, [watching(), Dies()], **saving)
    assert not (tmp_path / "broken" / "retention" / "results.json").exists()
    with pytest.raises(KeyboardInterrupt):  # begun again, and broken off again
        dpo("broken", continued(), pairs, [watching(), Dies()], **saving)
    dpo("broken", continued(), pairs, [watching()], resumed=True, **saving)

    whole, broken = (tmp_path / name / "retention" for name in ("whole", "broken"))
    table = pq.read_table(broken / "retention.parquet").to_pylist()
    assert [row["step"] for row in table] == [0, 2, 4, 6]  # step 4 came twice, from step 3
    for one, other in zip(table, pq.read_table(whole / "retention.parquet").to_pylist(), strict=True):
        assert one == other
    assert read_run(broken).findings.cells == read_run(whole).findings.cells

    with pytest.raises(ConfigError, match="holds what another training left"):
        dpo("broken", continued(), turned(rows("other")), [watching()])
    dpo("broken", continued(), pairs, [watching()], resumed=True, **saving | {"max_steps": 8})  # and goes on
    assert [row["step"] for row in pq.read_table(broken / "retention.parquet").to_pylist()] == [0, 2, 4, 6, 8]


def test_a_resumed_training_whose_start_is_not_known_says_so(dpo, continued, tmp_path, caplog):
    pairs, saving = turned(rows("helpful")), {"save_strategy": "steps", "save_steps": 3}
    with pytest.raises(KeyboardInterrupt):
        dpo("broken", continued(), pairs, [Dies()], **saving)
    callback = PreferenceRetentionCallback({"helpful": datasets.Dataset.from_list(rows("helpful"))}, learned="helpful")
    dpo("broken", continued(), pairs, [callback], resumed=True, **saving)
    assert "no start of this training is known: it is compared with step 3" in caplog.text
    table = pq.read_table(tmp_path / "broken" / "retention" / "retention.parquet").to_pylist()
    assert [(row["step"], row["kept"] == 1) for row in table] == [(3, True), (6, False)]


def longest(completions, **others):
    return [float(len(completion[0]["content"])) for completion in completions]


def unpaired(pairs):
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs
        for side in ("chosen", "rejected")
    ]


#: trainer -> (its module, what it trains on, arguments of its configuration, of itself)
_DRAWN = {"num_generations": 2, "max_completion_length": 8}
TRAINERS = {
    "KTO": ("trl", unpaired, {}, {}),
    "GRPO": ("trl", list, _DRAWN, {"reward_funcs": longest}),
    "RLOO": ("trl", list, _DRAWN, {"reward_funcs": longest}),
    "ORPO": ("trl.experimental.orpo", list, {}, {}),
    "CPO": ("trl.experimental.cpo", list, {}, {}),
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", TRAINERS)
def test_other_trainers_of_trl_are_watched_and_not_touched(kind, continued, tiny_model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    name, prepared, arguments, more = TRAINERS[kind]
    module = importlib.import_module(name)

    def train(folder, callbacks):
        fixed = {
            "learning_rate": 1e-2,
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        with torch.random.fork_rng():
            torch.manual_seed(3)
            trainer = getattr(module, f"{kind}Trainer")(
                continued(),
                args=getattr(module, f"{kind}Config")(str(tmp_path / folder), **fixed, **arguments),
                train_dataset=datasets.Dataset.from_list(prepared(turned(rows("helpful")))),
                processing_class=AutoTokenizer.from_pretrained(tiny_model_folder),
                callbacks=callbacks,
                **more,
            )
            trainer.train()
        trainer.save_model(str(tmp_path / folder))

    train("without", [])
    given = {"helpful": datasets.Dataset.from_list(rows("helpful"))}
    train("with", [PreferenceRetentionCallback(given, learned="helpful", trains=kind.lower(), every=1)])
    with_it, without = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(torch.equal(with_it[name], without[name]) for name in without)
    table = pq.read_table(tmp_path / "with" / "retention" / "retention.parquet").to_pylist()
    assert [row["step"] for row in table] == [0, 1, 2]
    assert table[0]["kept"] == 1
    assert table[0]["margin"] > table[-1]["margin"]


def test_a_model_that_answers_nothing_is_refused(tiny_model_folder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model_folder, num_labels=1)
    model.config.pad_token_id = 0
    trainer = trl.RewardTrainer(
        model,
        args=trl.RewardConfig(str(tmp_path / "reward"), use_cpu=True, bf16=False, report_to="none"),
        train_dataset=datasets.Dataset.from_list(rows("helpful")),
        processing_class=AutoTokenizer.from_pretrained(tiny_model_folder),
        callbacks=[PreferenceRetentionCallback({"helpful": datasets.Dataset.from_list(rows("helpful"))})],
    )
    with pytest.raises(ConfigError, match="LlamaForSequenceClassification gives no probabilities of tokens"):
        trainer.train()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 0}, "every = 0; expected a number of steps from 1"),
        ({"reference": "bse"}, "reference = 'bse'; expected 'base', 'start' or a model"),
        ({"stop_if_lost": 10}, "stop_if_lost = 10; expected a share"),
        ({"reference": "start", "learned": "helpful"}, "nothing was learned before it"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(given, message):
    with pytest.raises(ConfigError, match=message):
        PreferenceRetentionCallback({"helpful": "helpful.jsonl"}, **given)
