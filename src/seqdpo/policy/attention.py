"""Attention within packed trees: a response attends to its prompt and to itself, never to another response.

`policy/segments.py` computes it on CPUs, `policy/sequences.py` and `policy/blocks.py` on accelerators.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from seqdpo.policy.blocks import BlockAttention
from seqdpo.policy.library import attention_of
from seqdpo.policy.packing import PackedTrees
from seqdpo.policy.segments import SegmentAttention
from seqdpo.policy.sequences import SequenceAttention

PREFIX = "seqdpo_"
_OWN = "seqdpo_own_attention"


class TreeAttention(Protocol):
    """The attention of one packed batch, the same in all layers but for caps and windows."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None, window: int | None
    ) -> Tensor:
        """(1, n_tokens, n_heads, head_dim) from (1, n_heads or n_kv_heads, n_tokens, head_dim).

        `softcap` c makes a score s into c tanh(s / c); with a window of w a token sees itself and w - 1 before it.
        """


#: What makes a batch's attention, by a name that transformers knows with the prefix before it.
BACK_ENDS: dict[str, Callable[[PackedTrees], TreeAttention]] = {
    "segments": SegmentAttention,
    "sequences": SequenceAttention,
    "blocks": BlockAttention,
}


def back_ends_for(device: torch.device, dtype: torch.dtype) -> list[str]:
    """The back ends that such a model may have, the one to try first before the others."""
    if device.type == "cpu":
        return ["segments"]
    if device.type == "cuda" and dtype == torch.bfloat16:
        return ["sequences", "blocks"]
    return ["blocks"]


def use_tree_attention(model: PreTrainedModel, back_end: str) -> None:
    """From now on the model's forward pass takes `trees` and reads packed trees, and nothing else.

    Raises: NotImplementedError for a family that computes attention by code of its own; `policy.engine` asks before.
    """
    if not is_tree_attention(model):
        setattr(model, _OWN, attention_of(model))
    model.set_attn_implementation(PREFIX + back_end)
    if not is_tree_attention(model):  # transformers only warns
        raise NotImplementedError("its attention is code of its own, which no other can replace")


@contextmanager
def own_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within, the model reads plain sequences by the attention that it was loaded with."""
    if not is_tree_attention(model):
        yield
        return
    trees = attention_of(model)
    model.set_attn_implementation(getattr(model, _OWN))
    try:
        yield
    finally:
        model.set_attn_implementation(trees)


def is_tree_attention(model: PreTrainedModel) -> bool:
    return attention_of(model).startswith(PREFIX)


def tree_attention(model: PreTrainedModel, batch: PackedTrees) -> TreeAttention:
    return BACK_ENDS[attention_of(model).removeprefix(PREFIX)](batch)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    trees: TreeAttention | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every layer.

    Raises: NotImplementedError for attention sinks, and for a family whose layers do not pass on what they are given;
    `policy.engine` asks before a run begins.
    """
    if trees is None:
        raise NotImplementedError("its layers pass on no arguments but those they know")
    if s_aux is not None:
        raise NotImplementedError("attention with sinks")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return trees.attend(query, key, value, scale, softcap, sliding_window), None


for _name in BACK_ENDS:
    AttentionInterface.register(PREFIX + _name, _attention)
    AttentionMaskInterface.register(PREFIX + _name, lambda *args, **kwargs: None)  # the trees are the mask
