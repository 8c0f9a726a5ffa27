"""Log-probabilities of given tokens from hidden states, without logits that outlive a chunk."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdpo.policy.products import product

#: Logits that exist at one time, 64 MiB in float32; smaller chunks read the head's weights more often.
LOGITS_PER_CHUNK = 2**24


class Head(NamedTuple):
    """What turns the last hidden states into logits: weight and bias, a scale, and a soft cap where there is one."""

    weight: Tensor  # (vocabulary, hidden), frozen
    bias: Tensor | None
    scale: float
    softcap: float | None


def head_of(model: PreTrainedModel) -> Head:
    """The head of a causal language model, with what its family does to logits.

    Gemma caps them (`final_logit_softcapping`), Cohere multiplies them (`logit_scale`), Granite divides them
    (`logits_scaling`).

    Raises: NotImplementedError if the head is no plain linear layer.
    """
    output, config = model.get_output_embeddings(), model.config.get_text_config()
    if type(output) is not nn.Linear:  # an adapter on the head, say: its weight alone would be the wrong function
        raise NotImplementedError(f"a head of type {type(output).__name__}")
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(output.weight, getattr(output, "bias", None), scale, softcap)


def chunk_size(head: Head) -> int:
    """Hidden states whose logits may exist at one time."""
    return max(LOGITS_PER_CHUNK // head.weight.shape[0], 1)


def logits_of(hidden: Tensor, head: Head) -> Tensor:
    """(n_tokens, vocabulary) float32 logits of the hidden states (n_tokens, hidden)."""
    logits = product(hidden, head.weight, head.bias).float()
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap is not None:
        logits = torch.tanh_(logits.div_(head.softcap)).mul_(head.softcap)
    return logits


def token_logps(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """log p(target) at each hidden state, normalised in float32.

    Shapes: hidden (n_tokens, hidden), targets (n_tokens,); returns (n_tokens,) float32.
    """
    return _TokenLogps.apply(hidden, targets, head)


class _TokenLogps(torch.autograd.Function):
    """The gradient with respect to the hidden states is taken in the forward pass, while a chunk's logits exist.

    d log p(y) / d z = onehot(y) - softmax(z), so what is kept is one vector of the hidden size for each token.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
        logps = hidden.new_empty(len(targets), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size = chunk_size(head)
        for start in range(0, len(targets), size):
            rows = slice(start, start + size)
            logps[rows], slope = _chunk(hidden[rows], targets[rows], head, gradient is not None)
            if gradient is not None and slope is not None:
                gradient[rows] = slope
        ctx.save_for_backward(gradient)
        return logps

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad[:, None]).to(gradient.dtype), None, None


def _chunk(hidden: Tensor, targets: Tensor, head: Head, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """(log-probabilities, their gradient with respect to the hidden states); the logits become the softmax in place."""
    logits = logits_of(hidden, head)
    cap_slope = None if head.softcap is None or not with_slope else 1 - (logits / head.softcap).square_()
    logits -= logits.amax(dim=1, keepdim=True)
    target_logits = logits.gather(1, targets[:, None]).squeeze(1)
    total = logits.exp_().sum(dim=1)
    logps = target_logits - total.log()
    if not with_slope:
        return logps, None
    slope = logits.mul_(-head.scale / total[:, None])  # -softmax
    slope[torch.arange(len(targets), device=slope.device), targets] += head.scale
    if cap_slope is not None:
        slope *= cap_slope
    return logps, product(slope.to(head.weight.dtype), head.weight.T)
