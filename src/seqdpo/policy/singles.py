"""The plain pass: every sequence by itself, without padding, as any causal model is meant to be read.

What the two faster ways are measured by, and the way of the models that neither can express.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from seqdpo.policy.library import accepts
from seqdpo.policy.trees import TokenTree
from seqdpo.preferences.tokens import TokenIds

_MARK = "seqdpo_reads_singly"


def use_singles(model: PreTrainedModel, singly: bool) -> None:
    """From now on the model reads one sequence at a time, or no longer does."""
    setattr(model, _MARK, singly)


def reads_singly(model: PreTrainedModel) -> bool:
    return bool(getattr(model, _MARK, False))


def single_logps(model: PreTrainedModel, trees: Sequence[TokenTree], weights: Tensor | None = None) -> Tensor:
    """(n_responses,) log p(response | prompt) in nats, tree after tree; differentiable.

    `weights` (n_response_tokens,) of the tokens, response after response; None: 1 each.
    """
    logps = [_token_logps(model, prompt, response) for prompt, response in responses_of(trees)]
    if weights is not None:
        of_each = weights.split([len(one) for one in logps])
        logps = [one * weight for one, weight in zip(logps, of_each, strict=True)]
    return torch.stack([one.sum() for one in logps])


def responses_of(trees: Sequence[TokenTree]) -> list[tuple[TokenIds, TokenIds]]:
    """(prompt, response) of every response, tree after tree."""
    return [(tree.prompt, response) for tree in trees for response in tree.responses]


def single_logits(model: PreTrainedModel, prompt: TokenIds, response: TokenIds) -> Tensor:
    """(n_response_tokens, vocabulary) float32 logits that predict the response."""
    ids = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64)).to(model.device)
    options = {"use_cache": False, "logits_to_keep": len(response) + 1}
    options = {name: value for name, value in options.items() if accepts(model, name)}
    logits: Tensor = model(input_ids=ids[None], **options).logits[0, -len(response) - 1 : -1]
    return logits.float()


def _token_logps(model: PreTrainedModel, prompt: TokenIds, response: TokenIds) -> Tensor:
    logits = single_logits(model, prompt, response)
    targets = torch.from_numpy(response.astype(np.int64)).to(logits.device)
    return logits.gather(1, targets[:, None]).squeeze(1) - torch.logsumexp(logits, dim=1)
