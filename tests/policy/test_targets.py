"""Which layers an adapter sits on: plain linear ones of the part that reads text, spelled out and checked."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config, LlamaConfig, MambaConfig, MixtralConfig

from seqdpo.errors import ConfigError
from seqdpo.policy.targets import lora_targets

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


def outline(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.fixture
def targets(make_study):
    return lambda config, **keys: lora_targets(outline(config), make_study(**keys))


def test_all_linear_of_a_llama_is_its_seven_layers_in_order(targets):
    names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert targets(LlamaConfig(**SMALL)) == (names, [])


def test_fused_experts_are_left_out_and_said(targets):
    found = targets(MixtralConfig(**SMALL, num_local_experts=2))
    assert found.names == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert any("experts.gate_up_proj" in note and "in no linear layer" in note for note in found.notes)


@pytest.mark.parametrize("named", ["all-linear", ["q_proj", "v_proj"]])
def test_layers_that_text_does_not_pass_through_are_left_out_and_said(named, targets):
    """The vision tower has layers of the same names, so those of the text model are spelled out in full."""
    config = Gemma3Config(text_config={**SMALL, "head_dim": 16}, vision_config=VISION)
    found = targets(config, lora_target_modules=named)
    assert found.names
    assert not any("vision" in name for name in found.names)
    assert "q_proj" not in found.names
    assert any(name.endswith("language_model.layers.0.self_attn.q_proj") for name in found.names)
    assert any("vision_tower" in note and "text does not pass" in note for note in found.notes)


def test_a_router_that_is_more_than_a_linear_layer_is_left_out(targets):
    from transformers import Llama4TextConfig

    config = Llama4TextConfig(**SMALL, num_local_experts=2, intermediate_size_mlp=32, head_dim=16)
    found = targets(config)
    assert "router" not in found.names
    assert any("router" in note for note in found.notes)
    with pytest.raises(ConfigError, match=r"'router'\] does not fit the model: .* is of type Llama4Router"):
        targets(config, lora_target_modules=["router"])


def test_a_linear_layer_of_a_familys_own_is_one(targets):
    from transformers import FalconConfig

    found = targets(FalconConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    assert found == (["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"], [])


def test_all_linear_of_a_mamba_is_refused_with_the_names_that_fit(targets):
    config = MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, state_size=4)
    with pytest.raises(ConfigError, match=r"Set lora_target_modules: \[dt_proj, in_proj, x_proj\]"):
        targets(config)
    assert targets(config, lora_target_modules=["x_proj", "in_proj"]) == (["in_proj", "x_proj"], [])


@pytest.mark.parametrize("name", ["embed_tokens", "norm", "mlp"])
def test_what_is_no_linear_layer_is_refused(name, targets):
    with pytest.raises(ConfigError, match=rf"lora_target_modules = \['{name}'\] does not fit the model"):
        targets(LlamaConfig(**SMALL), lora_target_modules=["q_proj", name])


def test_a_head_that_shares_the_embeddings_is_not_merged(targets):
    config = LlamaConfig(**SMALL, tie_word_embeddings=True)
    head = {"lora_target_modules": ["q_proj", "lm_head"]}
    assert targets(config, **head).names == ["lm_head", "q_proj"]
    with pytest.raises(ConfigError, match="'lm_head' shares its weights with the embeddings"):
        targets(config, **head, adapter_mode="new_on_merged")
