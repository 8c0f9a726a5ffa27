"""Log-probabilities of responses under a model: by packed trees, padded, or one by one, as its engine was chosen."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdpo.policy.attention import is_tree_attention, tree_attention
from seqdpo.policy.blocks import BUCKET
from seqdpo.policy.head import head_of, token_logps
from seqdpo.policy.packing import PackedTrees, packed_trees
from seqdpo.policy.padding import padded_logps, padded_responses
from seqdpo.policy.singles import reads_singly, single_logps
from seqdpo.policy.trees import TokenTree
from seqdpo.preferences.tokens import PairTokens


class ResponseLogps(NamedTuple):
    """Log-probabilities of both responses of each pair, in nats, summed over response tokens."""

    chosen: Tensor  # (n_pairs,) float32
    rejected: Tensor  # (n_pairs,) float32


def response_logps(model: nn.Module, pairs: Sequence[PairTokens], tail_weight: float | None = None) -> ResponseLogps:
    """log p(response | prompt) of every pair; differentiable. One forward pass.

    `tail_weight`: of a response's tokens beyond the length of the pair's shorter response, Liu et al. 2024 (LD-DPO,
    arXiv 2409.06411); None: 1.
    """
    return ResponseLogps(*tree_logps(model, pairs, tail_weights(pairs, tail_weight)).view(-1, 2).unbind(dim=1))


def tree_logps(model: nn.Module, trees: Sequence[TokenTree], weights: Tensor | None = None) -> Tensor:
    """(n_responses,) float32 log p(response | prompt) in nats, tree after tree; differentiable. One forward pass.

    `weights` (n_response_tokens,) of the tokens, response after response; None: 1 each.
    """
    device, base = next(model.parameters()).device, base_of(model)
    weights = None if weights is None else weights.to(device)
    if is_tree_attention(base):
        return packed_logps(base, packed_batch(trees, device), weights)
    if reads_singly(base):
        return single_logps(base, trees, weights)
    return padded_logps(model, padded_responses(trees, device), weights)


def tail_weights(pairs: Sequence[PairTokens], tail_weight: float | None) -> Tensor | None:
    """(n_response_tokens,) float32, pair after pair, of the tokens of its responses; None for None."""
    if tail_weight is None:
        return None
    shared = [min(map(len, pair.responses)) for pair in pairs for _ in pair.responses]
    lengths = [len(response) for pair in pairs for response in pair.responses]
    weights = [np.where(np.arange(n) < common, 1.0, tail_weight) for n, common in zip(lengths, shared, strict=True)]
    return torch.as_tensor(np.concatenate(weights), dtype=torch.float32)


def packed_batch(trees: Sequence[TokenTree], device: torch.device) -> PackedTrees:
    """The trees packed as the device's attention wants them."""
    return packed_trees(trees, device, multiple=1 if device.type == "cpu" else BUCKET)


def packed_logps(model: PreTrainedModel, batch: PackedTrees, weights: Tensor | None = None) -> Tensor:
    """(n_responses,) as `padding.padded_logps`, each distinct token computed once, the head on response tokens only."""
    head = head_of(model)
    logps = token_logps(packed_states(model, batch), batch.targets, head)
    if weights is not None:
        logps = logps * weights
    return torch.zeros(batch.n_responses, device=logps.device).index_add(0, batch.responses, logps)


def packed_states(model: PreTrainedModel, batch: PackedTrees) -> Tensor:
    """(n_response_tokens, hidden) last hidden states that predict the response tokens."""
    backbone = getattr(model, model.base_model_prefix)
    hidden = backbone(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,
        trees=tree_attention(model, batch),
    ).last_hidden_state[0]  # (n_tokens, hidden)
    return hidden.index_select(0, batch.predictors)


def base_of(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside a PEFT one; LoRA layers sit in the same modules."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
