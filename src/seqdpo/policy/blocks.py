"""Tree attention on accelerators: FlexAttention, compiled, with a block mask."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from seqdpo.policy.packing import PackedTrees, Tree

#: Sequences are padded to a multiple of this, so that few lengths are compiled for.
BUCKET = 512
PROMPT = 0  # the part of a tree that its responses, 1 and on, all see
PADDING = -1  # of no tree


class BlockAttention:
    """One kernel call a layer. Blocks of 128 by 128 in which no token sees another are never computed."""

    def __init__(self, batch: PackedTrees) -> None:
        self._positions = batch.position_ids[0]
        self._trees, self._parts = _places(batch.trees, self._positions)
        self._longest = max(tree.longest for tree in batch.trees)
        self._masks: dict[int | None, BlockMask] = {}

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None, window: int | None
    ) -> Tensor:
        attention = flex_attention if query.device.type == "cpu" else _compiled()
        output = attention(
            query,
            key,
            value,
            score_mod=None if softcap is None else _capped(softcap),
            block_mask=self.mask(window),
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return output.transpose(1, 2)

    def mask(self, window: int | None) -> BlockMask:
        """Made once a batch, for all layers with the same window."""
        if window is not None and window >= self._longest:
            window = None
        if window not in self._masks:
            n = len(self._positions)
            self._masks[window] = create_block_mask(self._sees(window), None, None, n, n, self._positions.device)
        return self._masks[window]

    def _sees(self, window: int | None) -> Callable[..., Tensor]:
        trees, parts, positions = self._trees, self._parts, self._positions

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same_branch = (parts[key] == PROMPT) | (parts[key] == parts[query])
            seen = (trees[query] == trees[key]) & same_branch & (key <= query)
            return seen if window is None else seen & (positions[query] - positions[key] < window)

        return sees


def _places(trees: Sequence[Tree], positions: Tensor) -> tuple[Tensor, Tensor]:
    """(n_tokens,) the tree of each token, and its part of it; padding, after the last tree, sees itself alone."""
    owners = np.full(len(positions), PADDING)
    parts = np.full(len(positions), PROMPT)
    for index, tree in enumerate(trees):
        owners[tree.start : tree.end] = index
        for part, response in enumerate(tree.responses, start=PROMPT + 1):
            parts[response] = part
    return torch.from_numpy(owners).to(positions.device), torch.from_numpy(parts).to(positions.device)


@cache
def _capped(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention)
