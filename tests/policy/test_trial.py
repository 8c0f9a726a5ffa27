"""The adapter is tried before a run: what works leaves no trace, what cannot be done is refused by name."""

import json
import os
import stat
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3nTextConfig,
    GPTJConfig,
    MixtralConfig,
    OpenAIGPTConfig,
    RwkvConfig,
    StableLmConfig,
)

from seqdpo.errors import ConfigError
from seqdpo.measure.scores import pair_logps
from seqdpo.policy import trial
from seqdpo.policy.adapters import WEIGHTS_FILE, loaded_adapter, save_adapter, trainable_policy
from seqdpo.policy.engine import choose_engine, probe_pairs
from seqdpo.policy.load import load_model
from seqdpo.policy.singles import single_logps
from seqdpo.policy.trial import foresee_adapter, try_adapter

MODES = ["continue", "new_on_merged", "stack"]
SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
FAMILIES = {
    "mixtral": MixtralConfig(**SIZES, **HEADS, num_local_experts=4),
    "rwkv": RwkvConfig(**SIZES, attention_hidden_size=32, context_length=256),
    "gptj": GPTJConfig(vocab_size=300, n_embd=32, n_layer=2, n_head=2, rotary_dim=4),
    "stablelm": StableLmConfig(**SIZES, **HEADS),
    "openai-gpt": OpenAIGPTConfig(vocab_size=300, n_embd=32, n_layer=2, n_head=2),
}


@pytest.fixture
def family(make_study, tmp_path):
    """A random model of a family as a study loads it, with the study."""

    def make(name, **keys):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(FAMILIES[name]).save_pretrained(tmp_path / name)
        study = make_study(model_name_or_path=str(tmp_path / name), **keys)
        return load_model(study).cpu(), study

    return make


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["mixtral", "rwkv"])
def test_a_family_that_works_comes_through_and_is_left_as_it_was(name, mode, family):
    base, study = family(name, adapter_mode=mode)
    choose_engine(base, 40)
    before = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    random = torch.random.get_rng_state()
    found = try_adapter(base, study, study)
    assert found.idle == 0
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in base.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_scores_of_a_model_that_ignores_the_mask_are_those_of_each_text_alone(family, random_pairs):
    base, _ = family("rwkv")
    pairs = random_pairs(5, 1)
    with torch.no_grad():
        expected = single_logps(base, pairs).view(-1, 2).T.double().numpy()
    padded = np.stack(pair_logps(base, pairs, 500))
    assert np.abs(padded / expected - 1).max() > 1e-3  # padding is seen
    assert choose_engine(base, 40).startswith("single sequences: padding changes scores")
    np.testing.assert_allclose(np.stack(pair_logps(base, pairs, 500)), expected, rtol=1e-6)


def test_made_up_pairs_have_tokens_that_every_embedding_has():
    """Gemma 3n embeds tokens in each layer, too, and fewer of them; transformers 5.12 reads beyond the end."""
    config = Gemma3nTextConfig(vocab_size=400, vocab_size_per_layer_input=40)
    ids = [ids for pair in probe_pairs(SimpleNamespace(config=config), 200) for ids in pair[:3]]
    assert max(one.max() for one in ids) < 40


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gptj", "GPTJForCausalLM cannot read packed trees: its attention is code of its own"),
        ("stablelm", "StableLmForCausalLM cannot read packed trees: its layers pass on no arguments"),
    ],
)
def test_a_family_that_cannot_be_given_trees_is_padded_and_says_why(name, why, family):
    base, _ = family(name)
    assert choose_engine(base, 40).startswith(f"padded: {why}")


def test_an_adapter_on_the_head_is_saved_as_two_matrices_and_scores_as_trained(tiny_model, make_study):
    study = make_study(lora_target_modules=["q_proj", "lm_head"])
    assert choose_engine(tiny_model, 40, study.lora_target_modules).startswith("padded: an adapter on the head")
    assert try_adapter(tiny_model, study, study).idle == 0


def test_a_model_whose_training_mode_is_another_function_is_refused(tiny_model, make_study):
    class Noisy(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *inputs):
            return self.module(*inputs) * (1.5 if self.training else 1.0)

    tiny_model.model.norm = Noisy(tiny_model.model.norm)
    with pytest.raises(ConfigError, match=r"scores otherwise in training mode.*draws experts or noise"):
        try_adapter(tiny_model, make_study(), make_study())


def test_a_saved_adapter_that_scores_otherwise_is_refused(tiny_model, make_study, monkeypatch):
    """As when something is left out of the file: here the adapter it was stacked on."""
    monkeypatch.setattr(
        trial,
        "save_adapter",
        lambda policy, keys, parent, folder: save_adapter(
            policy, keys.model_copy(update={"adapter_mode": "continue"}), None, folder
        ),
    )
    study = make_study(adapter_mode="stack")
    with pytest.raises(ConfigError, match=r"scores otherwise once it is saved and loaded \(adapter_mode: stack\)"):
        try_adapter(tiny_model, study, study)


def test_checkpointing_that_a_family_lacks_is_said_without_weights(family):
    _, study = family("openai-gpt", gradient_checkpointing=True)
    with pytest.raises(ConfigError, match="gradient_checkpointing = True: OpenAIGPTLMHeadModel has none"):
        foresee_adapter(study, study)


def test_adapter_files_are_readable_by_others_and_ask_no_hub(tiny_model, make_study, tmp_path, monkeypatch):
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", pytest.fail)
    study = make_study().model_copy(update={"model_name_or_path": "someone/model"})
    before = os.umask(0o022)
    try:
        with trainable_policy(tiny_model, study, None, seed=0) as policy:
            save_adapter(policy, study, None, tmp_path / "adapter")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "adapter" / WEIGHTS_FILE).stat().st_mode) == 0o644
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert written == sorted(written)
    with loaded_adapter(tiny_model, tmp_path / "adapter"):
        pass
