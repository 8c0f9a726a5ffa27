"""The padded path: every response after its prompt. Every causal model can read it; the packed path is tested on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from seqdpo.policy.trees import TokenTree
from seqdpo.preferences.tokens import TokenIds


@dataclass(frozen=True, slots=True)
class PaddedResponses:
    """Responses of trees, tree after tree, each after its prompt, padded on the left so that all end together."""

    input_ids: Tensor  # (n_responses, longest)
    attention_mask: Tensor  # (n_responses, longest), 1 for a token, 0 for padding
    response_mask: Tensor  # (n_responses, longest_response), 1 for a response token; the last columns of input_ids


def padded_responses(trees: Sequence[TokenTree], device: torch.device) -> PaddedResponses:
    """Pads on the left: [pad pad p p p c c] over [p p p r r r r]. The padding token is 0, never attended to."""
    responses = [response for tree in trees for response in tree.responses]
    sequences = [np.concatenate([tree.prompt, response]) for tree in trees for response in tree.responses]
    longest, longest_response = (max(map(len, rows)) for rows in (sequences, responses))
    return PaddedResponses(
        _left_padded(sequences, longest).to(device),
        _left_padded([np.ones_like(sequence) for sequence in sequences], longest).to(device),
        _left_padded([np.ones_like(response) for response in responses], longest_response).to(device),
    )


def padded_logps(model: nn.Module, batch: PaddedResponses, weights: Tensor | None = None) -> Tensor:
    """(n_responses,) log p(response | prompt) in nats, differentiable.

    `weights` (n_response_tokens,) of the tokens, response after response; None: 1 each. The head runs only on the last
    positions, those that can predict a response token; the normaliser is taken in float32 whatever the model's dtype.
    """
    logits = padded_logits(model, batch)
    targets = batch.input_ids[:, -logits.shape[1] :]
    token_logps = logits.gather(2, targets.unsqueeze(2)).squeeze(2) - torch.logsumexp(logits, dim=2)
    of_responses = batch.response_mask.bool()
    if weights is not None:
        token_logps = token_logps * torch.zeros_like(token_logps).masked_scatter(of_responses, weights)
    return torch.where(of_responses, token_logps, 0.0).sum(dim=1)


def padded_logits(model: nn.Module, batch: PaddedResponses) -> Tensor:
    """(n_responses, longest_response, vocabulary) float32 logits that predict the last columns of input_ids."""
    width = batch.response_mask.shape[1]
    # generation counts positions from the first real token; a forward pass has to be told
    positions = (batch.attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    logits: Tensor = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=width + 1,  # the token before a response predicts its first token
    ).logits[:, -width - 1 : -1]
    return logits.float()


def _left_padded(rows: Sequence[TokenIds], width: int) -> Tensor:
    padded = np.zeros((len(rows), width), dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[width - len(values) :] = values
    return torch.from_numpy(padded)
