"""Tree attention on accelerators in half precision: FlashAttention over sequences of any length, which torch ships."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from seqdpo.policy.packing import PackedTrees


class SequenceAttention:
    """One kernel call a layer and no mask: a response is a sequence whose queries are the last of its keys.

    Queries are the packed tokens as they lie: prompt with first response, then each other response. The keys of the
    others are the prompt, once more, and the response.
    """

    def __init__(self, batch: PackedTrees) -> None:
        device = batch.input_ids.device
        queries, keys = _sequences(batch)
        self._keys = torch.from_numpy(np.concatenate(keys)).to(device)
        self._query_ends, self._longest_query = _ends(queries, device)
        self._key_ends, self._longest_key = _ends([len(key) for key in keys], device)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None, window: int | None
    ) -> Tensor:
        """Raises: NotImplementedError for a soft cap, which this kernel lacks."""
        if softcap is not None:
            raise NotImplementedError("a soft cap on attention scores")
        by_token = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (n_tokens, n_heads, head_dim)
        output = varlen_attn(
            by_token[0],
            by_token[1].index_select(0, self._keys),
            by_token[2].index_select(0, self._keys),
            self._query_ends,
            self._key_ends,
            self._longest_query,
            self._longest_key,
            scale=scale,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(output, Tensor)
        return output[None]


def _sequences(batch: PackedTrees) -> tuple[list[int], list[np.ndarray]]:
    """(how many queries, places of the keys) of each sequence; tokens of no tree are one of their own."""
    queries, keys = [], []
    for tree in batch.trees:
        prompt = np.arange(tree.start, tree.ends[0])
        own = [np.concatenate([prompt, np.arange(one.start, one.stop)]) for one in tree.responses]
        queries += [len(own[0]), *(len(one) - len(prompt) for one in own[1:])]
        keys += own
    rest = np.arange(batch.trees[-1].end, batch.input_ids.shape[1])
    if len(rest):
        queries.append(len(rest))
        keys.append(rest)
    return queries, keys


def _ends(lengths: list[int], device: torch.device) -> tuple[Tensor, int]:
    """(n_sequences + 1,) int32 places where one sequence ends and the next begins, and the longest length."""
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return torch.from_numpy(ends).to(device), max(lengths)
