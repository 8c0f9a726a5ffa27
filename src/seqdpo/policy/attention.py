"""Attention within packed trees: a response attends to its prompt and to itself, never to the other response."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from seqdpo.policy.packing import Tree

NAME = "seqdpo_tree"
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def use_tree_attention(model: PreTrainedModel) -> None:
    """From now on the model's forward pass takes `calls` and reads packed pairs, and nothing else."""
    model.set_attn_implementation(NAME)


def is_tree_attention(model: PreTrainedModel) -> bool:
    return model.config._attn_implementation == NAME


class Call(NamedTuple):
    """One call of the kernel: these queries, over the keys of one or two stretches of the sequence."""

    queries: slice
    stretches: tuple[slice, ...]
    causal: bool
    mask: Tensor | None  # (n_queries, n_keys), added to the scores

    def of(self, tensor: Tensor) -> Tensor:
        parts = [tensor[:, :, stretch] for stretch in self.stretches]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    @property
    def n_keys(self) -> int:
        return sum(stretch.stop - stretch.start for stretch in self.stretches)

    def add(self, total: Tensor, grad: Tensor) -> None:
        sizes = [stretch.stop - stretch.start for stretch in self.stretches]
        for stretch, part in zip(self.stretches, grad.split(sizes, dim=2), strict=True):
            total[:, :, stretch] += part


def attention_calls(trees: Sequence[Tree]) -> list[Call]:
    """For each pair: prompt and chosen are one causal sequence; the rejected response looks at prompt and itself."""
    calls = []
    for tree in trees:
        whole, prompt = slice(tree.start, tree.rejected), slice(tree.start, tree.chosen)
        own = slice(tree.rejected, tree.end)
        n_own, n_prompt = tree.end - tree.rejected, tree.chosen - tree.start
        mask = torch.full((n_own, n_prompt + n_own), -torch.inf).triu(n_prompt + 1)
        calls += [Call(whole, (whole,), causal=True, mask=None), Call(own, (prompt, own), causal=False, mask=mask)]
    return calls


def _attention(
    module: nn.Module,
    query: Tensor,  # (1, n_heads, n_tokens, head_dim)
    key: Tensor,  # (1, n_kv_heads, n_tokens, head_dim)
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    calls: Sequence[Call],
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every layer; returns (1, n_tokens, n_heads, head_dim).

    Raises: NotImplementedError for what the kernel cannot express; `policy.engine` asks before a run begins.
    """
    unknown = {name: options[name] for name in ("softcap", "s_aux") if options.get(name) is not None}
    if unknown:
        raise NotImplementedError(f"attention with {unknown}")
    window = options.get("sliding_window")
    if window is not None and window < (longest := max(call.n_keys for call in calls)):
        raise NotImplementedError(f"a sliding window of {window} tokens over sequences of {longest}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _TreeAttention.apply(query, key, value, calls, scale), None


class _TreeAttention(torch.autograd.Function):
    """Two calls of the CPU's flash kernel a pair, on views; gradients are written in place, with no copy a slice.

    The kernel runs in float32 whatever the model's dtype: on CPUs it takes half the time that it takes in bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, calls: Sequence[Call], scale: float) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        queries, keys, values = query.float(), _repeated(key, groups).float(), _repeated(value, groups).float()
        output = torch.empty_like(queries.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        normalisers = []
        for call in calls:
            part, normaliser = flash(
                queries[:, :, call.queries],
                call.of(keys),
                call.of(values),
                0.0,
                call.causal,
                attn_mask=call.mask,
                scale=scale,
            )
            output[:, :, call.queries] = part
            normalisers.append(normaliser)
        output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, output, *normalisers)
        ctx.calls, ctx.scale, ctx.groups = calls, scale, groups
        return output.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, output, *normalisers = ctx.saved_tensors
        dtype, groups = query.dtype, ctx.groups
        query, output, grad = query.float(), output.float(), grad.transpose(1, 2).float()
        keys, values = _repeated(key, groups).float(), _repeated(value, groups).float()
        grad_query, grad_keys, grad_values = (torch.zeros_like(t) for t in (query, keys, values))
        for call, normaliser in zip(ctx.calls, normalisers, strict=True):
            q, k, v = flash_backward(
                grad[:, :, call.queries],
                query[:, :, call.queries],
                call.of(keys),
                call.of(values),
                output[:, :, call.queries],
                normaliser,
                0.0,
                call.causal,
                attn_mask=call.mask,
                scale=ctx.scale,
            )
            grad_query[:, :, call.queries] = q
            call.add(grad_keys, k)
            call.add(grad_values, v)
        grad_key, grad_value = _summed(grad_keys, groups), _summed(grad_values, groups)
        return grad_query.to(dtype), grad_key.to(dtype), grad_value.to(dtype), None, None


def _repeated(tensor: Tensor, groups: int) -> Tensor:
    """Each key or value head once for each of the query heads that share it."""
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


def _summed(grad: Tensor, groups: int) -> Tensor:
    return grad if groups == 1 else grad.unflatten(1, (-1, groups)).sum(dim=2)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)  # the trees are the mask
