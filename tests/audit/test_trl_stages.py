"""Two stages that TRL's DPOTrainer trained, as its users train them, audited."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from audited import assert_same, found, peft_model, plain_scores, scores
from seqdpo.measure.scores import pair_logps
from seqdpo.policy.adapters import loaded_adapter
from seqdpo.preferences.pairs import Message, Pair
from seqdpo.preferences.tokens import Tokeniser

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'seqdpo[test]'")

#: TRL 1.16 gives transformers 5.23 its setting by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

#: A merged model's weights are rounded to float32 once more: 1e-7 of a weight, and sums in another order.
MERGED = 1e-4


def lora() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture
def train(tiny_model_folder, pairs_folder, tmp_path) -> Callable[..., Path]:
    """`train("first", model, "helpful")`: a stage of a few steps, saved by TRL."""

    def stage(name: str, model: Any, objective: str, peft_config: Any = None) -> Path:
        from datasets import Dataset

        rows = [json.loads(line) for line in (pairs_folder / f"{objective}.jsonl").read_text().splitlines()]
        arguments = trl.DPOConfig(
            str(tmp_path / name),
            learning_rate=1e-2,
            num_train_epochs=2,
            per_device_train_batch_size=4,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        with torch.random.fork_rng():
            trainer = trl.DPOTrainer(
                model,
                args=arguments,
                train_dataset=Dataset.from_list(rows),
                processing_class=AutoTokenizer.from_pretrained(tiny_model_folder),
                peft_config=peft_config,
            )
            trainer.train()
        trainer.save_model(str(tmp_path / name))
        return tmp_path / name

    return stage


@pytest.fixture
def first(train, tiny_model_folder) -> Path:
    return train("first", AutoModelForCausalLM.from_pretrained(tiny_model_folder), "helpful", lora())


@pytest.fixture
def continued(train, first, tiny_model_folder) -> Path:
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    return train("second", PeftModel.from_pretrained(base, str(first), is_trainable=True), "harmless")


@pytest.fixture
def own_scores(tiny_model, tiny_model_folder, pairs_folder) -> Callable[[Path], dict[str, np.ndarray]]:
    """What seqdpo's own scoring of a stage says of an adapter's weights; as `audited.scores`."""

    def score(adapter: Path) -> dict[str, np.ndarray]:
        result = {}
        for name in ("harmless", "helpful"):
            rows = [json.loads(line) for line in (pairs_folder / f"{name}.jsonl").read_text().splitlines()]
            pairs = [
                Pair(
                    tuple(Message(**turn) for turn in row["prompt"]),
                    row["chosen"][0]["content"],
                    row["rejected"][0]["content"],
                )
                for row in rows
            ]
            pairs.sort(key=lambda pair: pair.pair_id)
            tokeniser = Tokeniser(AutoTokenizer.from_pretrained(tiny_model_folder), 256, "raise")
            with loaded_adapter(tiny_model, adapter) as policy:
                logps = pair_logps(policy, [tokens for _, tokens in tokeniser.tokenise(pairs)], None)
            result[name] = np.column_stack([logps.chosen, logps.rejected])
        return result

    return score


def test_a_continued_adapter_has_the_scores_of_seqdpo_and_of_peft(
    audit, first, continued, own_scores, tiny_model_folder
):
    folder = audit({"helpful": first, "helpful>harmless": continued})
    for name, adapter in (("helpful", first), ("helpful>harmless", continued)):
        assert found(folder)[name]["stands_on"] == "base"
        assert_same(scores(folder, name), own_scores(adapter))
        assert_same(scores(folder, name), plain_scores(peft_model(tiny_model_folder, on=adapter), folder))
        assert_same(scores(folder, name), plain_scores(peft_model(tiny_model_folder, adapter), folder), rtol=MERGED)
    before, after = scores(folder, "helpful"), scores(folder, "helpful>harmless")
    assert np.abs(after["helpful"] - before["helpful"]).max() > 0.1  # the second stage did something to the first


def test_trls_ref_folder_is_the_previous_policy(audit, first, continued):
    """TRL keeps a copy of the adapter that the second stage started from; an audit reads it where it is not given."""
    assert (continued / "ref" / "adapter_config.json").is_file()
    folder = audit({"helpful>harmless": continued})
    from_ref = scores(folder, "helpful")
    assert found(folder)["helpful"]["path"] == str(continued / "ref")
    [note] = [note for note in found(folder)["helpful>harmless"]["notes"] if note.startswith("ref/")]
    assert "the weights of 'helpful'" in note
    shutil.rmtree(folder.root)
    assert_same(from_ref, scores(audit({"helpful": first}), "helpful"))


def test_stages_merged_between_are_found_and_agree_with_the_chain(audit, train, first, merge_into, tiny_model_folder):
    """Stage two stands on the merged model: found by its folder, or merged again from the first adapter."""
    merged = merge_into(first, "merged")
    second = train("second", AutoModelForCausalLM.from_pretrained(merged), "harmless", lora())
    config = json.loads((second / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(merged)
    folder = audit({"helpful": first, "helpful>harmless": second})
    by_folder = scores(folder, "helpful>harmless")
    assert found(folder)["helpful>harmless"]["stands_on"] == f"the model in {merged}"
    assert_same(by_folder, plain_scores(peft_model(merged, on=second), folder))
    shutil.rmtree(folder.root)
    shutil.rmtree(merged)
    folder = audit({"helpful": first, "helpful>harmless": {"path": str(second), "on": "helpful"}})
    assert_same(scores(folder, "helpful>harmless"), by_folder, rtol=MERGED)
    assert [line.partition("(")[0] for line in found(folder)["helpful>harmless"]["python"]] == [
        "base = AutoModelForCausalLM.from_pretrained",
        "base = PeftModel.from_pretrained",
        "policy = PeftModel.from_pretrained",
    ]
