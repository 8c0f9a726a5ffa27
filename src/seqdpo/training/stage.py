"""One DPO stage: from a policy with trainable LoRA weights to the same policy, trained."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from peft import PeftModel
from torch import Tensor
from torch.optim import AdamW
from transformers import PreTrainedModel, get_scheduler

from seqdpo.errors import RunError
from seqdpo.policy.batches import for_each_batch
from seqdpo.policy.logps import response_logps
from seqdpo.study.keys import StageKeys
from seqdpo.training.loss import dpo_losses, preference_logits
from seqdpo.training.placebo import TrainingPairs
from seqdpo.training.resume import Keeper, RunningStage, State


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step; means are over its pairs. A row of train.parquet."""

    step: int  # from 1
    epoch: int  # from 1
    n_pairs: int
    n_tokens: int  # of prompts (once a pair) and responses
    loss: float
    accuracy: float  # share of pairs that the loss's own logits favour; a tie counts one half
    reward_margin: float  # mean of those logits: beta x (margin against the stage's reference)
    chosen_logp: float  # mean, nats
    rejected_logp: float  # mean, nats
    grad_norm: float  # before clipping
    learning_rate: float  # that this step used
    seconds: float


class Observer(Protocol):
    """Looks at a stage while it trains, and leaves no trace in it: not in parameters, random states or modes."""

    def before_step(self, steps_done: int, optimizer: AdamW) -> None:
        """Called before every step; gradients are there to be used, and are discarded after."""

    def after_stage(self, steps_done: int) -> None:
        """Called once, after the last step."""

    def state(self) -> State:
        """What it has to remember from one step to the next."""

    def restore(self, state: State) -> None:
        """Goes on from what `state` gave, in another process."""


def n_steps(n_pairs: int, keys: StageKeys) -> int:
    """Optimiser steps of a stage; the final short batch of an epoch is a step."""
    return keys.num_train_epochs * math.ceil(n_pairs / keys.pairs_per_step)


def train_stage(
    policy: PeftModel,
    pairs: TrainingPairs,
    keys: StageKeys,
    seed: int,
    on_step: Callable[[Step], None],
    observer: Observer | None = None,
    keeper: Keeper | None = None,
) -> pa.Table:
    """Trains the policy in place, on from where a keeper has it; returns one row a step (the fields of `Step`).

    The order of the pairs and any LoRA dropout depend on `seed` alone, with an observer as without.

    Raises: RunError at the first loss or gradient that is not finite, with the step and its pairs.
    """
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = AdamW(
        parameters,
        lr=keys.learning_rate,
        betas=(keys.adam_beta1, keys.adam_beta2),
        eps=keys.adam_epsilon,
        weight_decay=keys.weight_decay,
    )
    total = n_steps(len(pairs.tokens), keys)
    warmup = keys.warmup_steps or math.ceil(total * keys.warmup_ratio)
    scheduler = get_scheduler(keys.lr_scheduler_type, optimizer, warmup, total)
    steps: list[Step] = []
    with _training_mode(policy, keys), torch.random.fork_rng():
        torch.manual_seed(seed)
        running = RunningStage(parameters, optimizer, scheduler, [] if observer is None else [observer], steps)
        kept = None if keeper is None else keeper.kept()
        if kept is not None:
            running.restore(kept)
            steps.extend(Step(**step) for step in kept["steps"])
            for step in steps:
                on_step(step)
        for epoch, indices in islice(_step_indices(len(pairs.tokens), keys, seed), len(steps), None):
            if observer is not None:
                observer.before_step(len(steps), optimizer)
            step = _train_step(policy, parameters, optimizer, pairs, indices, keys, len(steps) + 1, epoch)
            scheduler.step()
            steps.append(step)
            on_step(step)
            if keeper is not None:
                keeper.after_step(running)
        if observer is not None:
            observer.after_stage(len(steps))
    return pa.Table.from_pylist([asdict(step) for step in steps])


def _train_step(
    policy: PeftModel,
    parameters: Sequence[Tensor],
    optimizer: AdamW,
    pairs: TrainingPairs,
    indices: Sequence[int],
    keys: StageKeys,
    number: int,
    epoch: int,
) -> Step:
    began = time.perf_counter()
    learning_rate = optimizer.param_groups[0]["lr"]
    optimizer.zero_grad(set_to_none=True)
    sums = accumulate_gradients(policy, pairs, indices, keys)
    grad_norm = _clipped_norm(parameters, keys.max_grad_norm)
    if not (math.isfinite(sums.loss) and math.isfinite(grad_norm)):
        raise RunError(_not_finite(number, sums.loss / len(indices), grad_norm, [pairs.pair_ids[i] for i in indices]))
    optimizer.step()
    n = len(indices)
    return Step(
        step=number,
        epoch=epoch,
        n_pairs=n,
        n_tokens=sum(pairs.tokens[i].n_tokens for i in indices),
        loss=sums.loss / n,
        accuracy=sums.correct / n,
        reward_margin=sums.logits / n,
        chosen_logp=sums.chosen / n,
        rejected_logp=sums.rejected / n,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
        seconds=time.perf_counter() - began,
    )


@dataclass(slots=True)
class _Sums:
    """Sums over the pairs of one step."""

    loss: float = 0.0
    correct: float = 0.0
    logits: float = 0.0
    chosen: float = 0.0
    rejected: float = 0.0


def accumulate_gradients(policy: PeftModel, pairs: TrainingPairs, indices: Sequence[int], keys: StageKeys) -> _Sums:
    """Adds up the gradient of the step's mean loss, however the pairs fall into batches."""
    device = next(policy.parameters()).device
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    tokens = [pairs.tokens[i] for i in indices]
    sums = _Sums()

    def add(batch: list[int]) -> None:
        logps = response_logps(policy, [tokens[i] for i in batch])
        offset = torch.as_tensor([pairs.offsets[indices[i]] for i in batch], dtype=torch.float32, device=device)
        loss = dpo_losses(logps.chosen, logps.rejected, offset, keys.beta).sum()
        # all gradients or none: a batch that the memory does not hold comes again
        gradients = torch.autograd.grad(loss / len(indices), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        logits = preference_logits(logps.chosen.detach(), logps.rejected.detach(), offset, keys.beta)
        sums.loss += loss.item()
        sums.correct += ((logits > 0).float() + 0.5 * (logits == 0).float()).sum().item()
        sums.logits += logits.sum().item()
        sums.chosen += logps.chosen.sum().item()
        sums.rejected += logps.rejected.sum().item()

    for_each_batch(policy, tokens, keys.tokens_per_batch, add)
    return sums


def _clipped_norm(parameters: Sequence[Tensor], max_grad_norm: float) -> float:
    """The norm of all gradients, before they are clipped to `max_grad_norm` (0: not clipped)."""
    return torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm or math.inf).item()


def _not_finite(step: int, loss: float, grad_norm: float, pair_ids: Sequence[str]) -> str:
    shown = ", ".join(pair_ids[:16]) + (f" and {len(pair_ids) - 16} more" if len(pair_ids) > 16 else "")
    return (
        f"step {step}: loss = {loss}, gradient norm = {grad_norm}; expected finite numbers. Its pairs: {shown}. "
        "Lower learning_rate, check these pairs, or use dtype: float32."
    )


def _step_indices(n_pairs: int, keys: StageKeys, seed: int) -> Iterator[tuple[int, list[int]]]:
    """(epoch, indices of the pairs) of every step; each epoch holds each pair once, in its own shuffled order."""
    generator = np.random.default_rng(seed)
    for epoch in range(1, keys.num_train_epochs + 1):
        shuffled = generator.permutation(n_pairs).tolist()
        for start in range(0, n_pairs, keys.pairs_per_step):
            yield epoch, shuffled[start : start + keys.pairs_per_step]


@contextmanager
def _training_mode(policy: PeftModel, keys: StageKeys) -> Iterator[None]:
    """Training mode, with activation checkpointing where the study asks for it; both are undone on leaving."""
    base = policy.get_base_model()
    if keys.gradient_checkpointing:
        _enable_checkpointing(base)
    policy.train()
    try:
        yield
    finally:
        policy.eval()
        if keys.gradient_checkpointing:
            _disable_checkpointing(base)


def _enable_checkpointing(base: PreTrainedModel) -> None:
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable  # older name
    enable({"use_reentrant": False})


def _disable_checkpointing(base: PreTrainedModel) -> None:
    disable = getattr(base, "activation_checkpointing_disable", None) or base.gradient_checkpointing_disable
    disable()
    if hasattr(base, "_require_grads_hook"):  # enabling leaves a hook on the embeddings, one more every time
        base.disable_input_require_grads()
