"""A LoRA layer's arithmetic as one autograd function: PEFT's numbers without its casts, copies and spare gradients."""

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from seqdpo.policy.products import product


def fuse_lora(policy: nn.Module) -> None:
    """Every LoRA layer around a plain linear one computes as below from now on; other kinds keep PEFT's forward."""
    for layer in policy.modules():
        if isinstance(layer, LoraLinear) and type(layer.get_base_layer()) is nn.Linear:
            layer.forward = partial(_forward, layer)


def _forward(layer: LoraLinear, x: Tensor, *args: Any, **options: Any) -> Tensor:
    adapters = [name for name in layer.active_adapters if name in layer.lora_A]
    if not adapters or layer.disable_adapters or layer.merged or args or options or _has_variant(layer, adapters):
        result: Tensor = LoraLinear.forward(layer, x, *args, **options)
        return result
    base = layer.get_base_layer()
    if len(adapters) == 1:
        name = adapters[0]
        a, b, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    else:  # [s1 B1, s2 B2] [A1; A2] is the sum of both
        a = torch.cat([layer.lora_A[name].weight for name in adapters])
        b = torch.cat([layer.scaling[name] * layer.lora_B[name].weight for name in adapters], dim=1)
        scale = 1.0
    dropout = layer.lora_dropout[adapters[-1]]
    dropped = dropout(x) if layer.training and isinstance(dropout, nn.Dropout) else None
    # rows go in and come out: a view made within the function could not be changed in place, as Gemma 3n does
    rows = (x.flatten(0, -2), None if dropped is None else dropped.flatten(0, -2))
    output: Tensor = _LoraLinear.apply(*rows, base.weight, base.bias, a, b, scale)
    return output.view(*x.shape[:-1], -1)


def _has_variant(layer: LoraLinear, adapters: list[str]) -> bool:
    """DoRA and its like, and adapters with a bias, are more than B A x."""
    return any(name in layer.lora_variant or layer.lora_bias.get(name, False) for name in adapters)


class _LoraLinear(torch.autograd.Function):
    """y = x W' + bias + scale (x A') B'.

    Kept for the backward pass: x, which layers that read the same x share, and x A', of the rank's width. The adapter's
    float32 weights are rounded to x's dtype for the products, as autocast does; their gradients arrive in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (n_rows, n_in)
        dropped: Tensor | None,  # x after LoRA's dropout; None: x itself
        weight: Tensor,  # (n_out, n_in), frozen
        bias: Tensor | None,
        a: Tensor,  # (rank, n_in)
        b: Tensor,  # (n_out, rank)
        scale: float,
    ) -> Tensor:
        rows = x if dropped is None else dropped
        down = rows @ a.to(x.dtype).T
        output = product(x, weight, bias)
        output.addmm_(down, b.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(rows, down, weight, a, b)
        ctx.scale, ctx.has_dropout = scale, dropped is not None
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, down, weight, a, b = ctx.saved_tensors
        grad_down = (grad @ b.to(grad.dtype)).mul_(ctx.scale)
        grad_a = (grad_down.T @ rows).to(a.dtype) if ctx.needs_input_grad[4] else None
        grad_b = (down.T @ grad).T.to(b.dtype).contiguous().mul_(ctx.scale) if ctx.needs_input_grad[5] else None
        grad_x = grad_dropped = None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad, weight.T)
            if not ctx.has_dropout:
                grad_x.addmm_(grad_down, a.to(grad.dtype))
        if ctx.has_dropout and ctx.needs_input_grad[1]:
            grad_dropped = grad_down @ a.to(grad.dtype)
        return grad_x, grad_dropped, None, None, grad_a, grad_b, None
