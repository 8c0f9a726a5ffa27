"""Attention within packed trees: a response attends to its prompt and to itself, never to the other response.

`policy/segments.py` computes it on CPUs, `policy/blocks.py` on accelerators.
"""

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from seqdpo.policy.blocks import BlockAttention
from seqdpo.policy.packing import PackedPairs
from seqdpo.policy.segments import SegmentAttention

NAME = "seqdpo_tree"


class TreeAttention(Protocol):
    """The attention of one packed batch, the same in all layers but for caps and windows."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None, window: int | None
    ) -> Tensor:
        """(1, n_tokens, n_heads, head_dim) from (1, n_heads or n_kv_heads, n_tokens, head_dim).

        `softcap` c makes a score s into c tanh(s / c); with a window of w a token sees itself and w - 1 before it.
        """


def use_tree_attention(model: PreTrainedModel) -> None:
    """From now on the model's forward pass takes `trees` and reads packed pairs, and nothing else."""
    model.set_attn_implementation(NAME)


def is_tree_attention(model: PreTrainedModel) -> bool:
    return model.config._attn_implementation == NAME


def tree_attention(batch: PackedPairs) -> TreeAttention:
    if batch.input_ids.device.type == "cpu":
        return SegmentAttention(batch.trees)
    return BlockAttention(batch.trees, batch.position_ids[0])


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    trees: TreeAttention,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every layer.

    Raises: NotImplementedError for attention sinks; `policy.engine` asks before a run begins.
    """
    if s_aux is not None:
        raise NotImplementedError("attention with sinks")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return trees.attend(query, key, value, scale, softcap, sliding_window), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)  # the trees are the mask
