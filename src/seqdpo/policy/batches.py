"""Batches by a budget of tokens, which shrinks where the accelerator's memory does not hold it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from seqdpo.policy.attention import is_tree_attention
from seqdpo.policy.logps import base_of
from seqdpo.policy.trees import TokenTree

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
    model: nn.Module, trees: Sequence[TokenTree], tokens_per_batch: int | None, work: Callable[[list[int]], None]
) -> None:
    """Calls `work` with the indices of every batch; None: the device's own budget.

    A batch that the accelerator's memory does not hold is cut, and all later ones of this process are as small; `work`
    must leave nothing behind when it raises torch.OutOfMemoryError.
    """
    base = base_of(model)
    budget = tokens_per_batch or default_tokens(base.device, base.dtype)
    waiting = list(range(len(trees)))
    while waiting:
        tokens = min(budget, memory.limit or budget)
        done: set[int] = set()
        for batch in batch_indices(model, [trees[i] for i in waiting], tokens):
            indices = [waiting[i] for i in batch]
            if not _fits(work, indices):
                _halve(tokens)
                break
            done.update(indices)
        waiting = [i for i in waiting if i not in done]


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


def batch_indices(model: nn.Module, trees: Sequence[TokenTree], tokens_per_batch: int) -> list[list[int]]:
    """Groups trees of like length so that each batch stays within the budget; a tree over it stands alone.

    Every tree is in exactly one batch, the final short one included. The budget counts the tokens that the model
    computes: distinct ones where trees are packed, padding included where they are not.
    """
    if is_tree_attention(base_of(model)):
        return _packed(trees, tokens_per_batch)
    return _padded(trees, tokens_per_batch)


def _packed(trees: Sequence[TokenTree], tokens_per_batch: int) -> list[list[int]]:
    """Trees with the very same prompt lie one after another, and where they fit into one batch they are in one."""
    batches: list[list[int]] = []
    left = 0
    for sharing in _by_prompt(trees):
        n_prompt = len(trees[sharing[0]].prompt)
        whole = n_prompt + sum(trees[i].n_tokens - n_prompt for i in sharing)
        if left < whole <= tokens_per_batch:
            left = 0
        shared = 0
        for i in sharing:
            if left < trees[i].n_tokens - shared:
                batches.append([])
                left, shared = tokens_per_batch, 0
            batches[-1].append(i)
            left -= trees[i].n_tokens - shared
            shared = n_prompt
    return batches


def _by_prompt(trees: Sequence[TokenTree]) -> list[list[int]]:
    """Indices of the trees of each prompt; those whose longest tree is shortest come first."""
    found: dict[int, list[int]] = {}
    for i, tree in enumerate(trees):
        found.setdefault(id(tree.prompt), []).append(i)
    return sorted(found.values(), key=lambda sharing: max(trees[i].longest for i in sharing))


def _padded(trees: Sequence[TokenTree], tokens_per_batch: int) -> list[list[int]]:
    batches: list[list[int]] = []
    n_sequences = 0
    for i in sorted(range(len(trees)), key=lambda i: trees[i].longest):
        n_sequences += len(trees[i].responses)
        # trees come shortest first, so this one decides how wide the batch is
        if not batches or n_sequences * trees[i].longest > tokens_per_batch:
            batches.append([])
            n_sequences = len(trees[i].responses)
        batches[-1].append(i)
    return batches
