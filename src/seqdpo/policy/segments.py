"""Tree attention on CPUs, segment by segment."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqdpo.policy.packing import PackedTrees, Tree

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

#: The kernel takes bfloat16 at half the speed of float32, but forward on CPUs that multiply it in tiles.
FAST_BFLOAT16 = bool(torch.cpu.get_capabilities().get("amx_bf16"))


class SegmentAttention:
    """By the flash kernel of CPUs; a cap or a window that it cannot express by the plain formula."""

    def __init__(self, batch: PackedTrees) -> None:
        self._trees = batch.trees
        self._longest = max(tree.longest for tree in batch.trees)
        self._calls = _flash_calls(batch.trees)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None, window: int | None
    ) -> Tensor:
        if softcap is None and (window is None or window >= self._longest):
            output: Tensor = _FlashSegments.apply(query, key, value, self._calls, scale)
            return output
        groups = query.shape[1] // key.shape[1]
        tensors = (query.float(), _repeated(key, groups).float(), _repeated(value, groups).float())
        parts = [_plain(*segment, scale, softcap, window) for segment in _segments(self._trees, *tensors)]
        return torch.cat(parts, dim=2).transpose(1, 2).to(query.dtype)


def _segments(trees: Sequence[Tree], *tensors: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(queries, keys, values): of each tree its prompt with the first response, then each other one over both.

    Split once, so that the backward pass writes each part once.
    """
    sizes = [part.stop - part.start for tree in trees for part in (tree.prompt, *tree.responses)]
    queries, keys, values = (tensor.split(sizes, dim=2) for tensor in tensors)
    prompt = 0
    for tree in trees:
        first = prompt + 1
        for response in range(first, first + len(tree.responses)):
            own = torch.cat(queries[prompt : first + 1], dim=2) if response == first else queries[response]
            key, value = (torch.cat([parts[prompt], parts[response]], dim=2) for parts in (keys, values))
            yield own, key, value
        prompt = first + len(tree.responses)


def _plain(
    query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None, window: int | None
) -> Tensor:
    """The queries are the last of the keys' positions."""
    scores = query @ key.transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    n_queries, n_keys = scores.shape[2:]
    distance = torch.arange(n_keys - n_queries, n_keys)[:, None] - torch.arange(n_keys)
    hidden = (distance < 0) if window is None else (distance < 0) | (distance >= window)
    return scores.masked_fill(hidden, -torch.inf).softmax(dim=3) @ value


class Call(NamedTuple):
    """One call of the kernel: these queries, over the keys of one or two stretches of the sequence."""

    queries: slice
    stretches: tuple[slice, ...]
    causal: bool
    mask: Tensor | None  # (n_queries, n_keys), added to the scores

    def of(self, tensor: Tensor) -> Tensor:
        parts = [tensor[:, :, stretch] for stretch in self.stretches]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def add(self, total: Tensor, grad: Tensor) -> None:
        sizes = [stretch.stop - stretch.start for stretch in self.stretches]
        for stretch, part in zip(self.stretches, grad.split(sizes, dim=2), strict=True):
            total[:, :, stretch] += part


def _flash_calls(trees: Sequence[Tree]) -> list[Call]:
    """For each tree: prompt and first response are one causal sequence; every other looks at prompt and itself."""
    calls = []
    for tree in trees:
        first, *others = tree.responses
        whole = slice(tree.start, first.stop)
        calls.append(Call(whole, (whole,), causal=True, mask=None))
        for own in others:
            n_own, n_prompt = own.stop - own.start, tree.ends[0] - tree.start
            mask = torch.full((n_own, n_prompt + n_own), -torch.inf).triu(n_prompt + 1)
            calls.append(Call(own, (tree.prompt, own), causal=False, mask=mask))
    return calls


class _FlashSegments(torch.autograd.Function):
    """A call of the CPU's flash kernel a response, on views; gradients are written in place, with no copy a slice."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, calls: Sequence[Call], scale: float) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        dtype = query.dtype if FAST_BFLOAT16 else torch.float32
        queries = query.to(dtype)
        keys, values = _repeated(key, groups).to(dtype), _repeated(value, groups).to(dtype)
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
        grad_query, grad_keys, grad_values = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(values)
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
