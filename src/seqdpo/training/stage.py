"""One DPO stage: from a policy with trainable LoRA weights to the same policy, trained."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, astuple, dataclass, fields
from itertools import islice

import numpy as np
import pyarrow as pa
import torch
from peft import PeftModel
from torch import Tensor
from torch.optim import AdamW

from seqdpo.errors import RunError
from seqdpo.policy.batches import for_each_batch
from seqdpo.policy.library import checkpointing
from seqdpo.policy.logps import response_logps
from seqdpo.policy.ranks import draw_own_numbers, own_share, summed_gradients, summed_numbers
from seqdpo.study.keys import OptimiserKeys, StageKeys
from seqdpo.training.loss import pair_losses, pair_rewards
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.resume import Keeper, RunningStage, State
from seqdpo.training.schedule import schedule


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step; means are over its pairs. A row of train.parquet."""

    step: int  # from 1
    epoch: int  # from 1
    n_pairs: int
    n_tokens: int  # of prompts (once a pair) and responses
    loss: float
    accuracy: float  # share of pairs whose reward margin is above 0; a tie counts one half
    reward_margin: float  # mean, the loss's own: beta x (margin against the stage's reference), a token for some losses
    chosen_logp: float  # mean, nats, as the loss weighs tokens
    rejected_logp: float  # mean, nats
    grad_norm: float  # before clipping
    learning_rate: float  # that this step used
    seconds: float


#: train.parquet.
STEPS_SCHEMA = pa.schema([(one.name, pa.int64() if one.type is int else pa.float64()) for one in fields(Step)])


class StageHook:
    """What looks at a stage while it trains, or changes its steps; here it does neither.

    One that only looks leaves no trace: not in parameters, random states or modes. What a hook draws comes from a
    generator of its own, for torch's belongs to dropout.
    """

    def before_step(self, steps_done: int, optimizer: AdamW) -> None:
        """Called before every step."""

    def pairs_of_step(self, steps_done: int, own: TrainingPairs) -> TrainingPairs:
        """The pairs that the step trains on, in place of its own; those of an earlier stage beside them, say."""
        return own

    def before_update(self, parameters: Sequence[Tensor]) -> None:
        """Called with the step's gradient in `parameter.grad`, before it is clipped: to add to it, or project it."""

    def after_update(self, parameters: Sequence[Tensor]) -> None:
        """Called when the optimiser has changed the parameters: to change what it did."""

    def after_stage(self, steps_done: int) -> None:
        """Called once, after the last step."""

    def state(self) -> State:
        """What it has to remember from one step to the next, to go on in another process: nothing."""
        return {}

    def restore(self, state: State) -> None:
        """Goes on from what `state` gave."""


def n_steps(n_pairs: int, keys: OptimiserKeys) -> int:
    """Optimiser steps of a stage; the final short batch of an epoch is a step."""
    return keys.num_train_epochs * math.ceil(n_pairs / keys.pairs_per_step)


def train_stage(
    policy: PeftModel,
    pairs: TrainingPairs,
    keys: StageKeys,
    seed: int,
    on_step: Callable[[Step], None],
    hooks: Sequence[StageHook] = (),
    keeper: Keeper | None = None,
) -> pa.Table:
    """Trains the policy in place, on from where a keeper has it; returns one row a step (the fields of `Step`).

    The order of the pairs and any LoRA dropout depend on `seed` alone, with hooks as without. `hooks` are called in
    their order.

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
    total = n_steps(pairs.n_pairs, keys)
    scheduler = schedule(optimizer, keys, total)
    steps: list[Step] = []
    with _training_mode(policy, keys), torch.random.fork_rng():
        torch.manual_seed(seed)
        running = RunningStage(parameters, optimizer, scheduler, hooks, steps)
        _go_on(running, None if keeper is None else keeper.kept(), on_step)
        for epoch, indices in islice(_step_indices(pairs.n_pairs, keys, seed), len(steps), None):
            draw_own_numbers(seed, len(steps))
            for hook in hooks:
                hook.before_step(len(steps), optimizer)
            own = pairs.take(indices)
            for hook in hooks:
                own = hook.pairs_of_step(len(steps), own)
            step = _train_step(policy, parameters, optimizer, own, keys, hooks, len(steps) + 1, epoch)
            scheduler.step()
            steps.append(step)
            on_step(step)
            if keeper is not None:
                keeper.after_step(running)
        for hook in hooks:
            hook.after_stage(len(steps))
    return pa.Table.from_pylist([asdict(step) for step in steps], STEPS_SCHEMA)


def _go_on(running: RunningStage, kept: State | None, on_step: Callable[[Step], None]) -> None:
    """Puts a stage back to where it was kept; its steps are told of again."""
    if kept is None:
        return
    running.restore(kept)
    for row in kept["steps"]:
        running.steps.append(Step(**row))
        on_step(running.steps[-1])


def _train_step(
    policy: PeftModel,
    parameters: Sequence[Tensor],
    optimizer: AdamW,
    pairs: TrainingPairs,
    keys: StageKeys,
    hooks: Sequence[StageHook],
    number: int,
    epoch: int,
) -> Step:
    began = time.perf_counter()
    learning_rate = optimizer.param_groups[0]["lr"]
    sums, gradients = mean_gradient(policy, pairs, keys)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    del gradients
    for hook in hooks:
        hook.before_update(parameters)
    n, grad_norm = pairs.n_pairs, _clipped_norm(parameters, keys.max_grad_norm)
    if not (math.isfinite(sums.loss) and math.isfinite(grad_norm)):
        raise RunError(_not_finite(number, sums.loss / n, grad_norm, pairs.pair_ids))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for hook in hooks:
        hook.after_update(parameters)
    return Step(
        step=number,
        epoch=epoch,
        n_pairs=n,
        n_tokens=sum(pair.n_tokens for pair in pairs.tokens),
        loss=sums.loss / n,
        accuracy=sums.correct / n,
        reward_margin=sums.margin / n,
        chosen_logp=sums.chosen / n,
        rejected_logp=sums.rejected / n,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
        seconds=time.perf_counter() - began,
    )


@dataclass(slots=True)
class Sums:
    """Sums over pairs."""

    loss: float = 0.0
    correct: float = 0.0
    margin: float = 0.0
    chosen: float = 0.0
    rejected: float = 0.0


def mean_gradient(policy: PeftModel, pairs: TrainingPairs, keys: StageKeys) -> tuple[Sums, list[Tensor | None]]:
    """The gradient of the pairs' mean loss, however they fall into batches, for each parameter that is trained.

    None where no pair reaches the parameter, as an expert that no token was sent to. `parameter.grad` is left alone.
    Several processes share out the pairs, and all get the same gradient.
    """
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    total: list[Tensor | None] = [None] * len(parameters)
    sums = Sums()
    own = pairs.take(own_share(pairs.tokens))

    def add(batch: list[int]) -> None:
        some = own.take(batch)
        logps = response_logps(policy, some.tokens, keys.ld_alpha)
        rewards = pair_rewards(logps, some, keys)
        loss = pair_losses(rewards, keys).sum()
        # all gradients or none: a batch that the memory does not hold comes again
        gradients = torch.autograd.grad(loss / pairs.n_pairs, parameters, allow_unused=True)
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                so_far = total[i]
                total[i] = gradient if so_far is None else so_far.add_(gradient)
        margin = rewards.margin.detach()
        sums.loss += loss.item()
        sums.correct += ((margin > 0).float() + 0.5 * (margin == 0).float()).sum().item()
        sums.margin += margin.sum().item()
        sums.chosen += logps.chosen.sum().item()
        sums.rejected += logps.rejected.sum().item()

    for_each_batch(policy, own.tokens, keys.tokens_per_batch, add)
    return Sums(*summed_numbers(np.array(astuple(sums))).tolist()), summed_gradients(total, parameters)


def mean_vector(policy: PeftModel, pairs: TrainingPairs, keys: StageKeys) -> list[Tensor]:
    """`mean_gradient` as a vector to measure with: 0 where no pair reaches."""
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    _, gradients = mean_gradient(policy, pairs, keys)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]


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
    with checkpointing(policy.get_base_model()) if keys.gradient_checkpointing else nullcontext():
        policy.train()
        try:
            yield
        finally:
            policy.eval()


@contextmanager
def evaluating(policy: PeftModel) -> Iterator[None]:
    """No dropout; activation checkpointing stays on, which transformers ties to the training mode of its layers."""
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    for module in policy.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
