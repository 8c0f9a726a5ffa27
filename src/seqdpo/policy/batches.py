"""Batches by a budget of tokens, which shrinks where the accelerator's memory does not hold it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from seqdpo.policy.attention import is_tree_attention
from seqdpo.policy.logps import base_of
from seqdpo.preferences.tokens import PairTokens

#: Tokens of one forward pass, on CPUs in float32: what a layer makes of them, or of twice as many in bfloat16, stays in
#: the cache. Accelerators want large products.
CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 8192

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Memory:
    """What this process has learned about the accelerator's memory."""

    limit: int | None = None  # tokens that a batch may have; None: no batch was too large yet


memory = _Memory()


def default_tokens(device: torch.device, dtype: torch.dtype) -> int:
    if device.type != "cpu":
        return ACCELERATOR_TOKENS
    return CPU_TOKENS * torch.float32.itemsize // dtype.itemsize


def for_each_batch(
    model: nn.Module, pairs: Sequence[PairTokens], tokens_per_batch: int | None, work: Callable[[list[int]], None]
) -> None:
    """Calls `work` with the indices of every batch; None: the device's own budget.

    A batch that the accelerator's memory does not hold is cut, and all later ones of this process are as small; `work`
    must leave nothing behind when it raises torch.OutOfMemoryError.
    """
    base = base_of(model)
    budget = tokens_per_batch or default_tokens(base.device, base.dtype)
    waiting = list(range(len(pairs)))
    while waiting:
        tokens = min(budget, memory.limit or budget)
        done = 0
        for batch in batch_indices(model, [pairs[i] for i in waiting], tokens):
            indices = [waiting[i] for i in batch]
            if not _fits(work, indices):
                _halve(tokens)
                break
            done += len(indices)
        waiting = _by_length(pairs, waiting)[done:]


def _fits(work: Callable[[list[int]], None], indices: list[int]) -> bool:
    try:
        work(indices)
    except torch.OutOfMemoryError:
        if len(indices) == 1:
            raise
        return False
    return True


def _halve(tokens: int) -> None:
    """Outside of the handler, where the error no longer holds the batch's tensors."""
    memory.limit = tokens // 2
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warning("out of memory with batches of %d tokens; going on with %d", tokens, memory.limit)


def batch_indices(model: nn.Module, pairs: Sequence[PairTokens], tokens_per_batch: int) -> list[list[int]]:
    """Groups pairs of like length so that each batch stays within the budget; a pair over it stands alone.

    Every pair is in exactly one batch, the final short one included. The budget counts the tokens that the model
    computes: distinct ones where pairs are packed, padding included where they are not.
    """
    packed = is_tree_attention(base_of(model))
    batches: list[list[int]] = []
    used = 0
    for index in _by_length(pairs, range(len(pairs))):
        pair = pairs[index]
        # pairs come shortest first, so this one decides how wide a padded batch is
        needed = used + pair.n_tokens if packed else 2 * (len(batches[-1]) + 1 if batches else 1) * pair.longest
        if batches and needed <= tokens_per_batch:
            batches[-1].append(index)
            used = needed
        else:
            batches.append([index])
            used = pair.n_tokens
    return batches


def _by_length(pairs: Sequence[PairTokens], indices: Sequence[int]) -> list[int]:
    return sorted(indices, key=lambda i: pairs[i].longest)
