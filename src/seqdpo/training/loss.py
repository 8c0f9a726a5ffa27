"""The study's loss in torch; `seqdpo.study.losses` has what each is."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from seqdpo.policy.logps import ResponseLogps
from seqdpo.study.keys import LossKeys
from seqdpo.study.losses import Ops, Rewards, loss_of, rewards
from seqdpo.training.pairs import TrainingPairs

TORCH = Ops(logsigmoid, torch.sigmoid, torch.relu)


def pair_rewards(policy: ResponseLogps, pairs: TrainingPairs, keys: LossKeys) -> Rewards:
    """Rewards of the policy against the reference of the pairs, each (n_pairs,) float32; differentiable.

    What the reference adds is worked out in float64, and rounded once.
    """
    chosen, rejected = policy
    lengths = pairs.response_tokens
    here = rewards(chosen, rejected, (_like(chosen, lengths[0]), _like(chosen, lengths[1])), keys)
    reference = rewards(*pairs.reference, lengths, keys)
    return here.less(Rewards(*(_like(chosen, column) for column in reference)))


def pair_losses(of: Rewards, keys: LossKeys) -> Tensor:
    """(n_pairs,)"""
    losses: Tensor = loss_of(keys).losses(of, keys, TORCH)
    return losses


def _like(tensor: Tensor, column: object) -> Tensor:
    return torch.as_tensor(column, dtype=tensor.dtype, device=tensor.device)
