"""How far apart two states of one model are on given responses: exact KL of the next token, vocabulary and all."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from seqdpo.policy.attention import is_tree_attention
from seqdpo.policy.head import chunk_size, head_of, logits_of
from seqdpo.policy.logps import packed_batch, packed_states
from seqdpo.policy.padding import padded_logits, padded_responses
from seqdpo.policy.singles import reads_singly, responses_of, single_logits
from seqdpo.policy.trees import TokenTree


def response_kl(
    base: PreTrainedModel, trees: Sequence[TokenTree], to_first: Callable[[], None], to_second: Callable[[], None]
) -> Tensor:
    """(n_responses,) KL(first || second) of the next token summed along each response, nats, tree after tree.

    First and second are the states that the callables put the model in. The responses are given, not sampled: this is
    how differently the two continue the same texts.
    """
    if is_tree_attention(base):
        return _packed(base, trees, to_first, to_second)
    if reads_singly(base):
        return _singly(base, trees, to_first, to_second)
    return _padded(base, trees, to_first, to_second)


def _packed(
    base: PreTrainedModel, trees: Sequence[TokenTree], to_first: Callable[[], None], to_second: Callable[[], None]
) -> Tensor:
    batch = packed_batch(trees, base.device)
    to_first()
    first = packed_states(base, batch)
    to_second()
    second = packed_states(base, batch)
    head = head_of(base)
    size = chunk_size(head)
    chunks = zip(first.split(size), second.split(size), strict=True)
    kl = torch.cat([_kl(logits_of(one, head), logits_of(other, head)) for one, other in chunks])
    return torch.zeros(batch.n_responses, device=kl.device).index_add(0, batch.responses, kl)


def _padded(
    base: PreTrainedModel, trees: Sequence[TokenTree], to_first: Callable[[], None], to_second: Callable[[], None]
) -> Tensor:
    batch = padded_responses(trees, base.device)
    to_first()
    first = padded_logits(base, batch)
    to_second()
    kl = _kl(first.flatten(0, 1), padded_logits(base, batch).flatten(0, 1)).view_as(batch.response_mask)
    return torch.where(batch.response_mask.bool(), kl, 0.0).sum(dim=1)


def _singly(
    base: PreTrainedModel, trees: Sequence[TokenTree], to_first: Callable[[], None], to_second: Callable[[], None]
) -> Tensor:
    kl = []
    for prompt, response in responses_of(trees):
        to_first()
        first = single_logits(base, prompt, response)
        to_second()
        kl.append(_kl(first, single_logits(base, prompt, response)).sum())
    return torch.stack(kl)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of each row of logits (n, vocabulary); returns (n,)."""
    log_p, log_q = first.log_softmax(dim=1), second.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)
