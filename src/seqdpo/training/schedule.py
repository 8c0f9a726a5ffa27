"""The learning rate over a stage."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from seqdpo.study.keys import OptimiserKeys


def schedule(optimizer: Optimizer, keys: OptimiserKeys, n_steps: int) -> LRScheduler:
    """transformers' scheduler of that name over a stage's steps."""
    warmup = keys.warmup_steps or math.ceil(n_steps * keys.warmup_ratio)
    made: LRScheduler = get_scheduler(keys.lr_scheduler_type, optimizer, warmup, n_steps)
    return made
