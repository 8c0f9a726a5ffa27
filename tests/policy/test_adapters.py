"""Adapters: what a new one starts from, what a saved one holds, and that the base comes back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from seqdpo.errors import ConfigError, RunError
from seqdpo.measure.scores import pair_logps
from seqdpo.policy.adapters import WEIGHTS_FILE, loaded_adapter, save_adapter, trainable_policy
from seqdpo.policy.load import count_parameters
from seqdpo.policy.logps import response_logps

MODES = ["continue", "new_on_merged", "stack"]


@pytest.fixture
def pairs(random_pairs):
    return random_pairs(6, seed=1)


@pytest.fixture
def parent(tiny_model, make_study, tmp_path):
    """The adapter of a first stage (rank 3, scale 5/3) whose B is not zero."""
    study = make_study(lora_r=3, lora_alpha=5)
    with trainable_policy(tiny_model, study, None, seed=11) as policy:
        move(policy, seed=12)
        save_adapter(policy, study, None, tmp_path / "parent")
    return tmp_path / "parent"


def move(policy: PeftModel, seed: int) -> None:
    """Stands in for training: trainable weights change by an amount that is well seen in log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def logps(model, pairs) -> np.ndarray:
    """(2, n_pairs) float64."""
    return np.stack(pair_logps(model, pairs, 1000))


def weights(model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_bit_identical(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


def lora_weights(policy: PeftModel) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights(policy).items() if "lora_" in name}


@contextmanager
def fresh(folder: Path, adapter: Path) -> Iterator[PeftModel]:
    """A user's way to load what a study wrote: nothing of seqdpo."""
    base = AutoModelForCausalLM.from_pretrained(folder)
    yield PeftModel.from_pretrained(base, str(adapter)).eval()


def delta_weights(folder: Path, adapter: Path) -> dict[str, Tensor]:
    """dW of each adapted layer, as PEFT itself materialises it."""
    with fresh(folder, adapter) as policy:
        return {
            name: layer.get_delta_weight("default").detach()
            for name, layer in policy.named_modules()
            if hasattr(layer, "get_delta_weight")
        }


def test_new_adapter_is_the_base_function_bit_for_bit(tiny_model, make_study, pairs):
    """B is 0, so every layer adds an exact 0."""
    before = logps(tiny_model, pairs)
    with trainable_policy(tiny_model, make_study(), None, seed=0) as policy:
        assert len(lora_weights(policy)) == 2 * 7 * 2  # A and B of seven linear layers in two blocks
        np.testing.assert_array_equal(logps(policy.eval(), pairs), before)


@pytest.mark.parametrize("mode", MODES)
def test_later_stage_starts_at_its_parents_function(mode, tiny_model, make_study, parent, pairs):
    """1e-5: `new_on_merged` adds dW into the weights, which rounds otherwise than adding two outputs."""
    study = make_study(adapter_mode=mode)
    with loaded_adapter(tiny_model, parent) as policy:
        expected = logps(policy, pairs)
    assert np.abs(expected - logps(tiny_model, pairs)).min() > 0.01  # the parent is not the base
    with trainable_policy(tiny_model, study, parent, seed=0) as policy:
        np.testing.assert_allclose(logps(policy.eval(), pairs), expected, rtol=1e-5)


def test_initial_weights_depend_on_the_seed_alone(tiny_model, make_study):
    def initial(seed: int) -> dict[str, Tensor]:
        with trainable_policy(tiny_model, make_study(), None, seed) as policy:
            return lora_weights(policy)

    first = initial(3)
    torch.rand(5)  # whatever was drawn before
    assert_bit_identical(initial(3), first)
    other = initial(4)
    assert all(not torch.equal(other[name], first[name]) for name in first if "lora_A" in name)


@pytest.mark.parametrize("mode", MODES)
def test_global_random_state_is_left_as_it_was(mode, tiny_model, make_study, parent):
    before = torch.random.get_rng_state()
    with trainable_policy(tiny_model, make_study(adapter_mode=mode), parent, seed=5):
        pass
    with loaded_adapter(tiny_model, parent):
        pass
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("mode", MODES)
def test_base_is_bit_identical_after_a_stage(mode, tiny_model, make_study, parent):
    before = weights(tiny_model)
    study = make_study(adapter_mode=mode)
    with trainable_policy(tiny_model, study, parent, seed=5) as policy:
        move(policy, seed=6)
    assert_bit_identical(weights(tiny_model), before)
    assert not any(parameter.requires_grad for parameter in tiny_model.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_base_is_bit_identical_after_a_stage_that_failed(mode, tiny_model, make_study, parent):
    before = weights(tiny_model)
    with (
        pytest.raises(ZeroDivisionError),
        trainable_policy(tiny_model, make_study(adapter_mode=mode), parent, seed=5) as policy,
    ):
        move(policy, seed=6)
        raise ZeroDivisionError
    assert_bit_identical(weights(tiny_model), before)


def test_base_is_bit_identical_after_scoring_an_adapter(tiny_model, parent, pairs):
    before = weights(tiny_model)
    with loaded_adapter(tiny_model, parent) as policy:
        logps(policy, pairs)
    assert_bit_identical(weights(tiny_model), before)


@pytest.mark.parametrize("mode", MODES)
def test_saved_adapter_stands_on_the_base_alone_and_scores_like_the_live_policy(
    mode, tiny_model, tiny_model_folder, make_study, parent, tmp_path, pairs
):
    """1e-5: two adapters in one are added in another order than two after one another."""
    study = make_study(adapter_mode=mode, **({"lora_r": 3, "lora_alpha": 5} if mode == "continue" else {}))
    with trainable_policy(tiny_model, study, parent, seed=5) as policy:
        move(policy, seed=6)
        live = logps(policy.eval(), pairs)
        save_adapter(policy, study, parent, tmp_path / "saved")
    with fresh(tiny_model_folder, parent) as policy:
        assert np.abs(live - logps(policy, pairs)).min() > 0.01  # the stage is not its parent
    with fresh(tiny_model_folder, tmp_path / "saved") as policy:
        np.testing.assert_allclose(logps(policy, pairs), live, rtol=1e-5)
    with loaded_adapter(tiny_model, tmp_path / "saved") as policy:
        np.testing.assert_allclose(logps(policy, pairs), live, rtol=1e-5)


@pytest.mark.parametrize("mode", ["new_on_merged", "stack"])
def test_joined_adapter_is_the_sum_of_both(mode, tiny_model, tiny_model_folder, make_study, parent, tmp_path):
    """dW of the joined file = dW of the parent + s B A of the new one (r 4, s = 6/4), multiplied out here.

    1e-6 absolute: entries of dW are below 1, so this is a few roundings of float32.
    """
    study = make_study(adapter_mode=mode, lora_r=4, lora_alpha=6)
    with trainable_policy(tiny_model, study, parent, seed=5) as policy:
        move(policy, seed=6)
        new = {
            name: 6 / 4 * layer.lora_B["default"].weight.detach() @ layer.lora_A["default"].weight.detach()
            for name, layer in policy.named_modules()
            if hasattr(layer, "lora_A") and "default" in layer.lora_A
        }
        save_adapter(policy, study, parent, tmp_path / "joined")
    earlier = delta_weights(tiny_model_folder, parent)
    joined = delta_weights(tiny_model_folder, tmp_path / "joined")
    assert joined.keys() == earlier.keys() == new.keys()
    assert len(joined) == 7 * 2
    for name, delta in joined.items():
        torch.testing.assert_close(delta, earlier[name] + new[name], rtol=0, atol=1e-6)
    with fresh(tiny_model_folder, tmp_path / "joined") as policy:
        assert policy.peft_config["default"].r == 3 + 4


@pytest.mark.parametrize("mode", ["new_on_merged", "stack"])
def test_third_stage_holds_all_three_adapters(mode, tiny_model, tiny_model_folder, make_study, parent, tmp_path, pairs):
    study = make_study(adapter_mode=mode)
    for stage, before in (("second", parent), ("third", tmp_path / "second")):
        with trainable_policy(tiny_model, study, before, seed=5) as policy:
            move(policy, seed=6)
            live = logps(policy.eval(), pairs)
            save_adapter(policy, study, before, tmp_path / stage)
    with fresh(tiny_model_folder, tmp_path / "third") as policy:
        assert policy.peft_config["default"].r == 3 + 4 + 4
        np.testing.assert_allclose(logps(policy, pairs), live, rtol=1e-5)


def test_stacked_stage_trains_its_new_adapter_only(tiny_model, make_study, parent, pairs):
    study = make_study(adapter_mode="stack")
    with trainable_policy(tiny_model, study, parent, seed=5) as policy:
        before = weights(policy)
        chosen, rejected = response_logps(policy.train(), pairs)
        optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.1)
        (chosen - rejected).sum().backward()
        with_gradient = {name for name, p in policy.named_parameters() if p.grad is not None}
        optimizer.step()
        changed = {name for name, tensor in weights(policy).items() if not torch.equal(tensor, before[name])}
    new = {name for name in before if ".default." in name}
    assert with_gradient == new
    assert changed == {name for name in new if "lora_B" in name}  # A's gradient is 0 while B is 0
    assert any(".earlier." in name for name in before)


def test_continued_stage_trains_the_parents_weights(tiny_model, make_study, parent):
    with trainable_policy(tiny_model, make_study(lora_r=3, lora_alpha=5), parent, seed=5) as policy:
        trainable = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
        assert trainable == lora_weights(policy).keys()
        assert len(trainable) == 2 * 7 * 2


def test_saved_weights_are_float32_whatever_the_base_is(tiny_model, make_study, tmp_path):
    from safetensors.torch import load_file

    study = make_study(dtype="bfloat16")
    with trainable_policy(tiny_model.to(torch.bfloat16), study, None, seed=5) as policy:
        save_adapter(policy, study, None, tmp_path / "saved")
        assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    assert {tensor.dtype for tensor in load_file(tmp_path / "saved" / WEIGHTS_FILE).values()} == {torch.float32}


def test_unknown_target_module_is_refused_by_its_key(tiny_model, make_study):
    study = make_study(lora_target_modules=["no_such_proj"])
    with (
        pytest.raises(ConfigError, match=r"lora_target_modules: 'no_such_proj' is no module"),
        trainable_policy(tiny_model, study, None, seed=0),
    ):
        pass


def test_adapter_folder_that_is_not_there_is_named(tiny_model, tmp_path):
    with (
        pytest.raises(RunError, match=r"gone: the adapter cannot be loaded"),
        loaded_adapter(tiny_model, tmp_path / "gone"),
    ):
        pass


def test_published_configuration_trains_83_886_080_parameters(make_study, tmp_path):
    """Llama-3.1-8B, r 32 on all linear layers; from the configuration alone, without weights.

    By hand, r (inputs + outputs) a layer: q and o 32 (4096 + 4096) each, k and v 32 (4096 + 1024) each, gate, up
    and down 32 (4096 + 14336) each: 524288 + 327680 + 1769472 = 2621440 a block, 32 blocks: 83886080.
    The base has 8030261248, so the share of the whole is 83886080 / 8114147328 = 1.034 %.
    """
    llama = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )
    llama.save_pretrained(tmp_path / "llama")
    count = count_parameters(make_study(model_name_or_path=str(tmp_path / "llama"), lora_r=32, lora_alpha=64))
    assert count.trainable == 83_886_080
    assert count.total == 8_030_261_248 + 83_886_080
    assert round(count.percent, 2) == 1.03
