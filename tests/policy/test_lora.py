"""The fused LoRA layer against PEFT's own forward: outputs and gradients, one adapter or several, with dropout."""

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from seqdpo.policy.lora import fuse_lora
from seqdpo.policy.products import product


class Two(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.first, self.second = nn.Linear(12, 20, bias=bias), nn.Linear(20, 7, bias=bias)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def policy(bias=True, dropout=0.0, adapters=1, dtype=torch.float32, **keys):
    """Both layers with random adapters of rank 3, scaled by 2.5."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=3,
        lora_alpha=7.5,
        lora_dropout=dropout,
        target_modules=["first", "second"],
        init_lora_weights=False,
        **keys,
    )
    model = get_peft_model(Two(bias).to(dtype).requires_grad_(False), config)
    for number in range(1, adapters):
        model.add_adapter(f"more{number}", config)
    model.base_model.set_adapter(["default", *(f"more{number}" for number in range(1, adapters))])
    return model


def results(model, dtype=torch.float32):
    """Output, gradient of the input, gradients of the adapters."""
    torch.manual_seed(1)
    x = torch.randn(2, 5, 12).to(dtype).requires_grad_(True)
    output = model(x)
    upstream = torch.randn(output.shape).to(dtype)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [output, *torch.autograd.grad(output, [x, *parameters], upstream)]


CASES = [{"bias": True}, {"bias": False}, {"adapters": 2}, {"dropout": 0.4}, {"adapters": 3}, {"use_dora": True}]


@pytest.mark.parametrize("keys", CASES, ids=[str(case) for case in CASES])
def test_fused_layers_equal_pefts(keys):
    plain = policy(**keys)
    fused = deepcopy(plain)
    fuse_lora(fused)
    for model in (plain, fused):
        model.train()
    for found, expected in zip(results(fused), results(plain), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_disabled_or_scaled_adapter_is_heard():
    model = policy()
    fuse_lora(model)
    x = torch.randn(3, 12)
    with_adapter = model(x)
    with model.disable_adapter():
        base = model(x)
    torch.testing.assert_close(
        base, model.get_base_model().second.base_layer(torch.tanh(model.get_base_model().first.base_layer(x)))
    )
    assert not torch.allclose(with_adapter, base)
    for layer in (model.get_base_model().first, model.get_base_model().second):
        layer.scaling["default"] = 0.0
    torch.testing.assert_close(model(x), base)


def test_unloading_gives_the_base_back():
    model = policy()
    layers = model.get_base_model()
    expected = [layers.first.base_layer, layers.second.base_layer]
    fuse_lora(model)
    base = model.unload()
    assert [base.first, base.second] == expected


def test_gradients_of_a_bfloat16_model_arrive_in_float32():
    """bfloat16 carries 8 bits: 2^-8 = 0.4% a product; gradients lie within 3% of the float32 model's, in norm."""
    model = policy(dtype=torch.bfloat16)
    fuse_lora(model)
    exact = deepcopy(model).float()
    fuse_lora(exact)
    parameters = sum(parameter.requires_grad for parameter in model.parameters())
    found, expected = results(model, torch.bfloat16)[-parameters:], results(exact)[-parameters:]
    for gradient, other in zip(found, expected, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - other).norm() <= 0.03 * other.norm()


@pytest.mark.parametrize("shape", [(1, 5, 3), (7, 64, 32), (130, 48, 1000)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_products_equal_those_in_float64(shape, with_bias):
    n, n_in, n_out = shape
    torch.manual_seed(0)
    x, weight, bias = torch.randn(n, n_in), torch.randn(n_out, n_in), torch.randn(n_out) if with_bias else None
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    assert (product(x, weight, bias) - expected).norm() <= 1e-6 * expected.norm()
    wide = torch.randn(n, n_out)  # a transposed view as the weight
    expected = wide.double() @ weight.double()
    assert (product(wide, weight.T) - expected).norm() <= 1e-6 * expected.norm()
