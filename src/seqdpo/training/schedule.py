"""The learning rate over a stage."""

import math

import torch
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from seqdpo.errors import ConfigError
from seqdpo.policy.checks import reason
from seqdpo.study.keys import OptimiserKeys


def schedule(optimizer: Optimizer, keys: OptimiserKeys, n_steps: int) -> LRScheduler:
    """transformers' scheduler of that name over a stage's steps."""
    warmup = keys.warmup_steps or math.ceil(n_steps * keys.warmup_ratio)
    made: LRScheduler = get_scheduler(keys.lr_scheduler_type, optimizer, warmup, n_steps)
    return made


def check_schedule(keys: OptimiserKeys) -> None:
    """Raises: ConfigError for values that the scheduler refuses, before a step is made."""
    try:
        schedule(AdamW([torch.zeros(1)], lr=keys.learning_rate), keys, n_steps=10)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"lr_scheduler_type = {keys.lr_scheduler_type!r} with learning_rate = {keys.learning_rate}: not possible; "
            "expected values that go together. Raise learning_rate, or set lr_scheduler_type: linear. transformers "
            f"says: {reason(error)}"
        ) from error
