"""Every kind of adapter is scored as plain PEFT and transformers score it."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from audited import assert_same, found, peft_model, plain_scores, scores

KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "another rank and other modules": {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "down_proj"]},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "modules_to_save": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]},
    "an embedding saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "rank_pattern": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"layers.0.self_attn.q_proj": 32}},
    "LoRA on the head": {"target_modules": ["q_proj", "lm_head"]},
    "LoRA on the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "some layers": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings", "ignore:Model with `tie_word", "ignore:Setting")
@pytest.mark.parametrize("kind", KINDS)
def test_adapter_is_scored_as_by_peft(kind, make_adapter, audit, tiny_model_folder):
    adapter = make_adapter("adapter", **KINDS[kind])
    plain = make_adapter("plain")
    folder = audit({"helpful": adapter, "harmless": plain})
    assert_same(scores(folder, "helpful"), plain_scores(peft_model(tiny_model_folder, on=adapter), folder))
    # and left the base as it was for what came after it
    assert_same(scores(folder, "harmless"), plain_scores(peft_model(tiny_model_folder, on=plain), folder))
    assert_same(scores(folder, "base"), plain_scores(AutoModelForCausalLM.from_pretrained(tiny_model_folder), folder))


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "modules_to_save", "rank_pattern"])
def test_adapter_on_a_merged_one_is_scored_as_by_peft(kind, make_adapter, audit, tiny_model_folder):
    first, second = make_adapter("first", **KINDS[kind]), make_adapter("second")
    third = make_adapter("third", use_dora=True)
    checkpoints = {
        "helpful": first,
        "helpful>harmless": {"path": str(second), "on": "helpful"},
        "harmless": third,
    }
    folder = audit(checkpoints)
    assert found(folder)["helpful>harmless"]["stands_on"] == "helpful, merged"
    expected = plain_scores(peft_model(tiny_model_folder, first, on=second), folder)
    assert_same(scores(folder, "helpful>harmless"), expected)
    assert_same(scores(folder, "harmless"), plain_scores(peft_model(tiny_model_folder, on=third), folder))


def test_a_chain_is_merged_in_float32_and_rounded_once(make_adapter, audit, tiny_model_folder):
    """In bfloat16, each merge by itself would round what the one before it left."""
    first, second, third = (make_adapter(name, scale=0.05) for name in ("one", "two", "three"))
    checkpoints = {"helpful": first, "helpful>harmless": {"path": str(third), "on": str(second)}}
    config = second / "adapter_config.json"
    config.write_text(config.read_text().replace(str(tiny_model_folder), str(first)))
    folder = audit(checkpoints, dtype="bfloat16")
    model = peft_model(tiny_model_folder, first, second).to(torch.bfloat16)
    expected = plain_scores(PeftModel.from_pretrained(model, str(third)), folder)
    assert_same(scores(folder, "helpful>harmless"), expected, rtol=2e-2)


def test_merged_and_whole_models_are_scored_in_place_of_the_base(make_adapter, merge_into, audit, tiny_model_folder):
    first = make_adapter("first")
    merged = merge_into(first, "merged")
    second = make_adapter("second", base=merged)
    folder = audit({"helpful": merged, "helpful>harmless": second})
    assert found(folder)["helpful"]["kind"] == "model"
    assert found(folder)["helpful>harmless"]["stands_on"] == "helpful, a whole model"
    assert_same(scores(folder, "helpful"), plain_scores(AutoModelForCausalLM.from_pretrained(merged), folder))
    expected = plain_scores(peft_model(merged, on=second), folder)
    assert_same(scores(folder, "helpful>harmless"), expected)
    assert_same(scores(folder, "base"), plain_scores(AutoModelForCausalLM.from_pretrained(tiny_model_folder), folder))
