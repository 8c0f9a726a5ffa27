"""A pull back to where a stage began: elastic weight consolidation, and the same on every weight alike."""

from collections.abc import Callable, Sequence

import torch
from peft import PeftModel
from torch import Tensor

from seqdpo.policy.logps import response_logps
from seqdpo.policy.ranks import own_share, summed_gradients
from seqdpo.study.keys import StageKeys
from seqdpo.training.loss import TORCH, pair_rewards
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.stage import StageHook


class Pull(StageHook):
    """Adds the gradient of 1/2 * sum_j strength_j * (theta_j - start_j)^2 to every step's, before it is clipped.

    `strengths`: for each trainable parameter a tensor of its shape.
    Source: Kirkpatrick et al. 2017 (arXiv 1612.00796), eq. 3, with strength = `ewc` * Fisher information.
    """

    def __init__(self, parameters: Sequence[Tensor], strengths: Sequence[Tensor]) -> None:
        self._start = [parameter.detach().clone() for parameter in parameters]
        self._strengths = strengths

    def before_update(self, parameters: Sequence[Tensor]) -> None:
        for parameter, start, strength in zip(parameters, self._start, self._strengths, strict=True):
            pull = strength * (parameter.detach() - start)
            parameter.grad = pull if parameter.grad is None else parameter.grad + pull


def preference_fisher(
    policy: PeftModel, pairs: TrainingPairs, keys: StageKeys, on_batch: Callable[[int], None] = lambda n_pairs: None
) -> list[Tensor]:
    """The diagonal of the Fisher information of the Bradley-Terry model behind the loss, for each trainable parameter.

    F_j = mean over pairs of s(r) * s(-r) * (d r / d theta_j)^2, with r the pair's reward margin (beta * margin less
    what the reference adds) and s the sigmoid: the label's own variance, so that confident pairs count less, but count,
    while squares of the loss's gradient, which has s(-r) twice, would forget exactly these. Squares are of single
    pairs; those of a batch's mean would be too small by its size.
    """
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for i in own_share(pairs.tokens):
        one = pairs.take([i])
        margin = pair_rewards(response_logps(policy, one.tokens, keys.ld_alpha), one, keys).margin.sum()
        weight = (TORCH.sigmoid(margin) * TORCH.sigmoid(-margin)).item()
        gradients = torch.autograd.grad(margin, parameters, allow_unused=True)
        for so_far, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                so_far.addcmul_(gradient, gradient, value=weight / pairs.n_pairs)
        on_batch(1)
    summed = summed_gradients(total, parameters)
    return [torch.zeros_like(p) if f is None else f for f, p in zip(summed, parameters, strict=True)]
