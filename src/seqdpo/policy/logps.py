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
from seqdpo.policy.packing import PackedPairs, packed_pairs
from seqdpo.policy.padding import padded_logps, padded_pairs
from seqdpo.policy.singles import reads_singly, single_logps
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
    device = next(model.parameters()).device
    base = base_of(model)
    weights = None if tail_weight is None else _tail_weights(pairs, tail_weight, device)
    if is_tree_attention(base):
        logps = packed_logps(base, packed_batch(pairs, device), weights)
    elif reads_singly(base):
        logps = single_logps(base, pairs, weights)
    else:
        logps = padded_logps(model, padded_pairs(pairs, device), weights)
    chosen, rejected = logps.chunk(2)
    return ResponseLogps(chosen, rejected)


def _tail_weights(pairs: Sequence[PairTokens], tail_weight: float, device: torch.device) -> Tensor:
    """(n_response_tokens,) float32, response after response, the chosen ones first."""
    shared = [min(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    lengths = [len(pair.chosen) for pair in pairs] + [len(pair.rejected) for pair in pairs]
    weights = [np.where(np.arange(n) < common, 1.0, tail_weight) for n, common in zip(lengths, shared * 2, strict=True)]
    return torch.as_tensor(np.concatenate(weights), dtype=torch.float32, device=device)


def packed_batch(pairs: Sequence[PairTokens], device: torch.device) -> PackedPairs:
    """The pairs packed as the device's attention wants them."""
    return packed_pairs(pairs, device, multiple=1 if device.type == "cpu" else BUCKET)


def packed_logps(model: PreTrainedModel, batch: PackedPairs, weights: Tensor | None = None) -> Tensor:
    """(2 n_pairs,) as `padding.padded_logps`, each distinct token computed once, the head on response tokens only."""
    head = head_of(model)
    logps = token_logps(packed_states(model, batch), batch.targets, head)
    if weights is not None:
        logps = logps * weights
    return torch.zeros(2 * len(batch.trees), device=logps.device).index_add(0, batch.responses, logps)


def packed_states(model: PreTrainedModel, batch: PackedPairs) -> Tensor:
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
