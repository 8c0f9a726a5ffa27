"""Names of transformers and PEFT that are no documented interface still mean what seqdpo takes them for.

Run at the newest releases and at the lower bounds; what an older release lacks is asked for in one place only.
"""

import re
from copy import deepcopy
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import LlamaConfig, MambaConfig, OpenAIGPTConfig, Qwen2MoeConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import seqdpo
from seqdpo.policy.library import (
    accepts,
    attention_of,
    can_checkpoint,
    checkpointing,
    forget_adapters,
    fused_by_peft,
    refused_by_peft,
)

_SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}


def model_of(config):
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)


@pytest.fixture(scope="module")
def llama():
    return model_of(LlamaConfig(**_SMALL, num_attention_heads=2, num_key_value_heads=2))


def test_adapters_that_were_taken_off_are_forgotten_whatever_they_were_called():
    """PEFT 0.18 leaves their names, and would then not load another of that name."""
    base = model_of(LlamaConfig(**_SMALL, num_attention_heads=2, num_key_value_heads=2))
    policy = get_peft_model(base, LoraConfig(target_modules=["q_proj"]), adapter_name="earlier")
    forget_adapters(policy.unload())
    assert not hasattr(base, "peft_config")
    again = get_peft_model(base, LoraConfig(target_modules=["v_proj"]), adapter_name="earlier")
    assert sum(isinstance(module, LoraLayer) for module in again.modules()) == 1


def test_private_names_are_asked_for_in_one_place():
    """`thing._name` of another object, but namedtuples' own and torch's operators, stands in policy/library.py only."""
    foreign = re.compile(r"(?:config|model|base|peft|hub|datasets)\._[a-z]\w+|[\"']_[a-z]\w*_(?:hook|implementation)")
    source = Path(seqdpo.__file__).parent
    found = [
        f"{path.name}: {match.group()}"
        for path in sorted(source.rglob("*.py"))
        for match in foreign.finditer(path.read_text(encoding="utf-8"))
        if path.name != "library.py"
    ]
    assert found == []


def test_attention_is_the_one_that_was_set(llama):
    model = deepcopy(llama)
    model.set_attn_implementation("eager")
    assert attention_of(model) == "eager"


def test_checkpointing_is_on_within_and_leaves_no_hook(llama):
    model = deepcopy(llama)
    hooks = len(model.get_input_embeddings()._forward_hooks)
    for _ in range(2):
        with checkpointing(model):
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert len(model.get_input_embeddings()._forward_hooks) == hooks


def test_a_family_without_checkpointing_is_known(llama):
    assert can_checkpoint(llama)
    assert not can_checkpoint(model_of(OpenAIGPTConfig(vocab_size=50, n_embd=32, n_layer=1, n_head=2)))


def test_an_option_is_accepted_by_name_only(llama):
    assert accepts(llama, "logits_to_keep")
    assert not accepts(llama, "no_such_option")


def test_peft_refuses_the_projection_that_mambas_kernels_read():
    model = model_of(MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, state_size=4))
    assert refused_by_peft(model, ["in_proj", "out_proj", "x_proj"]) == {"out_proj"}


def test_names_that_peft_takes_for_fused_experts_make_no_plain_adapter():
    """Qwen2-MoE has a shared expert of plain layers whose names were those of experts before they were fused."""
    model = model_of(Qwen2MoeConfig(**_SMALL, num_attention_heads=2, num_key_value_heads=2, num_experts=2))
    assert "q_proj" not in fused_by_peft(model, ["q_proj", "gate_proj", "up_proj"])
    assert fused_by_peft(nn.Linear(2, 2), ["gate_proj"]) == set()
