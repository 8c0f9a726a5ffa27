"""The adapter between two checkpoints: on delta W, exact along the rank, and loadable as any other."""

import pytest
from peft import LoraConfig
from safetensors.torch import load_file
from test_adapters import logps, move

from seqdpo.policy.adapters import (
    WEIGHTS_FILE,
    line_between,
    loaded_adapter,
    save_adapter,
    save_between,
    trainable_policy,
)


@pytest.fixture
def checkpoints(tiny_model, make_study, tmp_path):
    """Two adapters of one base, of different rank and scale (5/3 and 2)."""
    folders = []
    for name, rank, alpha in (("previous", 3, 5), ("new", 4, 8)):
        study = make_study(lora_r=rank, lora_alpha=alpha)
        with trainable_policy(tiny_model, study, None, seed=11) as policy:
            move(policy, seed=rank)
            save_adapter(policy, study, None, tmp_path / name)
        folders.append(tmp_path / name)
    return folders


def delta_w(folder):
    """By module, the dense product in float64."""
    tensors, config = load_file(folder / WEIGHTS_FILE), LoraConfig.from_pretrained(str(folder))
    scale = config.lora_alpha / config.r
    return {
        name: scale * tensors[name.replace("lora_A", "lora_B")].double() @ tensors[name].double()
        for name in tensors
        if "lora_A" in name
    }


@pytest.mark.parametrize("a", [0.25, 0.5, 0.9])
def test_delta_w_is_the_mean_of_both(a, checkpoints, tmp_path):
    previous, new = map(delta_w, checkpoints)
    save_between(*checkpoints, a, tmp_path / "between")
    found = delta_w(tmp_path / "between")
    assert found.keys() == previous.keys()
    for name, value in found.items():
        expected = (1 - a) * previous[name] + a * new[name]
        assert (value - expected).norm() <= 1e-6 * expected.norm()
    assert LoraConfig.from_pretrained(str(tmp_path / "between")).r == 3 + 4


def test_it_says_of_pairs_what_the_place_on_the_line_does(checkpoints, tiny_model, random_pairs, tmp_path):
    pairs = random_pairs(4, seed=1)
    save_between(*checkpoints, 0.25, tmp_path / "between")
    with loaded_adapter(tiny_model, tmp_path / "between") as policy:
        found = logps(policy, pairs)
    with line_between(tiny_model, *checkpoints) as line:
        line.move_to(0.25)
        expected = logps(line.policy, pairs)
    assert found == pytest.approx(expected, abs=1e-4)  # nats, of sums of some tens: float32 in another order
