"""One stage: its gradients against plain autograd, its optimiser steps by hand, its randomness by its seed.

Where trained weights of two routes are compared, `adam_epsilon` is 1: a step is then lr * g / (|g| + 1), smooth in
the gradient. With 1e-8 it is lr * sign(g), and an entry whose gradient cancels to rounding noise moves either way.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    TrainingArguments,
    get_scheduler,
)

from seqdpo.errors import RunError
from seqdpo.measure.scores import pair_logps
from seqdpo.policy.adapters import trainable_policy
from seqdpo.policy.load import load_model
from seqdpo.preferences.tokens import PairTokens
from seqdpo.study.config import Study
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.stage import StageHook, Step, mean_gradient, mean_vector, n_steps, train_stage

BETA = 0.3  # the default


def with_offsets(tokens: Sequence[PairTokens], offsets: np.ndarray) -> TrainingPairs:
    """Pairs whose reference takes these from the reward margins."""
    return TrainingPairs([f"pair-{i}" for i in range(len(tokens))], tokens, offsets / BETA, np.zeros(len(tokens)))


@pytest.fixture
def pairs(random_pairs) -> TrainingPairs:
    """Ten pairs with references of their own."""
    return with_offsets(random_pairs(10, seed=2), np.random.default_rng(0).normal(0, 1, 10))


@contextmanager
def moved_policy(base: PreTrainedModel, study: Study) -> Iterator[PeftModel]:
    """A policy whose B is not 0, so that A has gradients, too; the same one every time."""
    generator = torch.Generator().manual_seed(1)
    with trainable_policy(base, study, None, seed=0) as policy:
        with torch.no_grad():
            for parameter in trainable(policy).values():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        yield policy


def trainable(policy: PeftModel) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}


def snapshot(policy: PeftModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainable(policy).items()}


def trained(
    base: PreTrainedModel, study: Study, pairs: TrainingPairs, seed: int = 0
) -> tuple[dict[str, Tensor], pa.Table]:
    """The adapter's weights after a stage from the moved policy, and the table of steps."""
    with moved_policy(base, study) as policy:
        steps = train_stage(policy, pairs, study, seed, lambda step: None)
        return snapshot(policy), steps


def loss_of_one_pair(policy: PeftModel, pairs: TrainingPairs, i: int, beta: float) -> Tensor:
    """-log sigmoid(beta * (difference of logps less the reference's)), each response in a plain forward pass."""
    prompt, chosen, rejected, _ = pairs.tokens[i]
    logps = []
    for response in (chosen, rejected):
        ids = torch.tensor(np.concatenate([prompt, response]), dtype=torch.long)
        rows = policy(ids[None]).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
        logps.append(rows.gather(1, ids[len(prompt) :, None]).sum())
    reference = pairs.reference_chosen[i] - pairs.reference_rejected[i]
    return torch.log1p(torch.exp(-beta * (logps[0] - logps[1] - reference)))


def one_backward_per_pair(policy: PeftModel, pairs: TrainingPairs, beta: float) -> dict[str, Tensor]:
    """The slow oracle: the mean over pairs of each pair's own gradient."""
    parameters = trainable(policy)
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for i in range(len(pairs.tokens)):
        gradients = torch.autograd.grad(loss_of_one_pair(policy, pairs, i, beta), list(parameters.values()))
        for name, gradient in zip(total, gradients, strict=True):
            total[name] += gradient / len(pairs.tokens)
    return total


def assert_close_in_norm(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Relative to the norm of each tensor, for single entries may cancel to rounding noise."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert value.norm() > 0, name
        assert (actual[name] - value).norm() <= tolerance * value.norm(), name


def assert_trained_alike(actual, expected, start, tolerance: float) -> None:
    """Of the changes, not of the weights, which dwarf them."""
    assert_close_in_norm(
        {name: actual[name] - start[name] for name in start},
        {name: expected[name] - start[name] for name in start},
        tolerance,
    )


def assert_bit_identical(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


def start_of(base: PreTrainedModel, study: Study) -> dict[str, Tensor]:
    with moved_policy(base, study) as policy:
        return snapshot(policy)


# gradients


@pytest.mark.parametrize("tokens_per_batch", [16, 100, 300, 100_000])
def test_gradient_equals_one_backward_per_pair(tokens_per_batch, tiny_model, make_study, pairs):
    """1e-5: float32 sums in another order, about 100 roundings of 6e-8 at most."""
    study = make_study(tokens_per_batch=tokens_per_batch)
    with moved_policy(tiny_model, study) as policy:
        expected = one_backward_per_pair(policy, pairs, study.beta)
        actual = dict(zip(trainable(policy), mean_vector(policy, pairs, study), strict=True))
        assert all(parameter.grad is None for parameter in policy.parameters())
    assert_close_in_norm(actual, expected, 1e-5)


def test_gradient_checkpointing_recomputes_and_gives_the_same_weights(tiny_model, make_study, pairs):
    """Recomputing runs the same operations again, so nothing may differ by a bit."""
    calls: list[bool] = []
    attention = tiny_model.model.layers[0].self_attn
    handle = attention.register_forward_hook(lambda *args: calls.append(True))
    keys: dict[str, Any] = {"per_device_train_batch_size": 10, "tokens_per_batch": 100_000}
    plain, _ = trained(tiny_model, make_study(**keys), pairs)
    assert len(calls) == 1
    checkpointed, _ = trained(tiny_model, make_study(**keys, gradient_checkpointing=True), pairs)
    assert len(calls) == 1 + 2
    trained(tiny_model, make_study(**keys), pairs)
    assert len(calls) == 1 + 2 + 1  # switched off again after the stage
    handle.remove()
    assert not any(module._forward_hooks for module in tiny_model.modules())  # nothing else stays on the base
    assert_bit_identical(checkpointed, plain)


# steps


@pytest.mark.parametrize(
    "keys",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 4, "tokens_per_batch": 16},
        {"per_device_train_batch_size": 4, "tokens_per_batch": 150},
    ],
)
def test_microbatches_train_like_one_batch(keys, tiny_model, make_study, pairs):
    """Two epochs of three steps. 1e-4: six steps each pass on the rounding (some 1e-6) of those before."""
    common: dict[str, Any] = {"adam_epsilon": 1.0, "learning_rate": 0.05, "num_train_epochs": 2}
    whole = make_study(per_device_train_batch_size=4, tokens_per_batch=100_000, **common)
    start = start_of(tiny_model, whole)
    expected, _ = trained(tiny_model, whole, pairs)
    actual, _ = trained(tiny_model, make_study(**common, **keys), pairs)
    assert_trained_alike(actual, expected, start, 1e-4)


def test_every_epoch_trains_every_pair_and_its_short_last_step(tiny_model, make_study, pairs):
    """With a step too small to see, the weighted mean of an epoch's losses is the mean over the ten pairs.

    Ten pairs in steps of four: 4, 4 and 2. Epochs are shuffled anew, so their steps differ.
    """
    study = make_study(learning_rate=1e-12, per_device_train_batch_size=4, num_train_epochs=2)
    with moved_policy(tiny_model, study) as policy, torch.no_grad():
        losses = [loss_of_one_pair(policy, pairs, i, study.beta).item() for i in range(10)]
    _, steps = trained(tiny_model, study, pairs)
    n, loss = steps["n_pairs"].to_numpy(), steps["loss"].to_numpy()
    assert n.tolist() == [4, 4, 2, 4, 4, 2]
    assert n.sum() == 2 * 10
    assert n_steps(10, study) == len(steps) == 6
    assert steps["step"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert steps["epoch"].to_pylist() == [1, 1, 1, 2, 2, 2]
    for epoch in (slice(0, 3), slice(3, 6)):
        assert (n * loss)[epoch].sum() == pytest.approx(sum(losses), rel=1e-5)  # float32
    assert abs(loss[:3] - loss[3:]).min() > 1e-3


def test_each_epoch_holds_each_pair_once(tiny_model, make_study, pairs):
    """References far out give pair i the loss 2^i thousand (its logit is far below 0), so losses name their pairs."""
    marked = with_offsets(pairs.tokens, 1000.0 * 2.0 ** np.arange(10))
    study = make_study(learning_rate=1e-12, per_device_train_batch_size=4, num_train_epochs=3)
    _, steps = trained(tiny_model, study, marked)
    sums = np.rint(steps["n_pairs"].to_numpy() * steps["loss"].to_numpy() / 1000).astype(int)
    members = [{i for i in range(10) if total >> i & 1} for total in sums]
    assert [len(step) for step in members] == [4, 4, 2] * 3
    for epoch in range(3):
        assert set().union(*members[3 * epoch : 3 * epoch + 3]) == set(range(10))
    assert members[:3] != members[3:6]


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.01, 1e6])
def test_first_step_is_adamw_on_clipped_gradients_by_hand(max_grad_norm, tiny_model, make_study, pairs):
    """w (1 - lr wd) - lr g / (|g| + eps): in the first step Adam's bias-corrected moments are g and g^2.

    g is clipped to max_grad_norm by the norm of all gradients together (torch adds 1e-6 to it); 0: not clipped.
    """
    lr, decay, eps = 0.1, 0.01, 0.5
    keys = {"learning_rate": lr, "weight_decay": decay, "adam_epsilon": eps, "max_grad_norm": max_grad_norm}
    study = make_study(per_device_train_batch_size=10, **keys)
    with moved_policy(tiny_model, study) as policy:
        start = snapshot(policy)
        gradients = one_backward_per_pair(policy, pairs, study.beta)
    norm = math.sqrt(sum(gradient.double().pow(2).sum().item() for gradient in gradients.values()))
    scale = min(1.0, max_grad_norm / (norm + 1e-6)) if max_grad_norm else 1.0
    expected = {
        name: start[name] * (1 - lr * decay) - lr * scale * gradient / ((scale * gradient).abs() + eps)
        for name, gradient in gradients.items()
    }
    actual, steps = trained(tiny_model, study, pairs)
    assert steps["grad_norm"][0].as_py() == pytest.approx(norm, rel=1e-5)  # before clipping
    assert (scale < 0.1) == (max_grad_norm == 0.01)  # the small one does clip
    # the change is a difference of float32 weights (of size 0.1, rounded to 1e-8), itself as small as 1e-4 if clipped
    assert_trained_alike(actual, expected, start, 1e-3 if max_grad_norm == 0.01 else 1e-5)


def test_columns_of_a_step_by_hand(tiny_model, make_study, pairs):
    """One step over all pairs; log-probabilities from the scores, the rest worked out from them here."""
    study = make_study(per_device_train_batch_size=10, learning_rate=0.25)
    heard: list[Step] = []
    with moved_policy(tiny_model, study) as policy:
        logps = pair_logps(policy.eval(), pairs.tokens, 1000)
        train_stage(policy, pairs, study, 0, heard.append)
    logits = study.beta * (logps.difference - pairs.reference_chosen + pairs.reference_rejected)
    (step,) = heard
    assert step.n_tokens == sum(len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs.tokens)
    assert step.loss == pytest.approx(np.log1p(np.exp(-logits)).mean(), rel=1e-5)
    assert step.accuracy == np.mean(logits > 0)
    assert 0 < step.accuracy < 1
    assert step.reward_margin == pytest.approx(logits.mean(), rel=1e-4)  # a mean of both signs
    assert step.chosen_logp == pytest.approx(logps.chosen.mean(), rel=1e-5)
    assert step.rejected_logp == pytest.approx(logps.rejected.mean(), rel=1e-5)
    assert step.learning_rate == 0.25
    assert step.seconds > 0


def test_a_tie_counts_one_half_in_accuracy(tiny_model, make_study, random_pairs):
    """Equal responses of one pair, which the loss cannot tell apart, and one pair that it is sure of: 3/4."""
    tie, clear = random_pairs(2, seed=3)
    pairs = with_offsets([tie._replace(rejected=tie.chosen), clear], np.array([0.0, -1000.0]))
    _, steps = trained(tiny_model, make_study(per_device_train_batch_size=2), pairs)
    assert steps["accuracy"].to_pylist() == [0.75]


def test_training_lowers_the_loss(tiny_model, make_study, pairs):
    study = make_study(learning_rate=5e-3, num_train_epochs=8, per_device_train_batch_size=10)
    _, steps = trained(tiny_model, study, pairs)
    loss = steps["loss"].to_numpy()
    assert loss[-1] < 0.5 * loss[0]


# learning rate


@pytest.mark.parametrize(
    ("keys", "factors"),
    [
        ({}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"warmup_steps": 2}, [0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),
        ({"warmup_ratio": 0.3}, [0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),  # ceil(0.3 * 6) = 2
        ({"lr_scheduler_type": "constant"}, [1] * 6),
        ({"lr_scheduler_type": "cosine"}, [(1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)]),
    ],
)
def test_learning_rate_by_hand(keys, factors, tiny_model, make_study, pairs):
    """Six steps; linear falls from the first step (or the end of the warm-up) to 0 after the last."""
    study = make_study(per_device_train_batch_size=4, num_train_epochs=2, learning_rate=1e-3, **keys)
    _, steps = trained(tiny_model, study, pairs)
    np.testing.assert_allclose(steps["learning_rate"].to_numpy(), 1e-3 * np.array(factors), rtol=1e-12)


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.25])
@pytest.mark.parametrize(
    "name", ["linear", "cosine", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial"]
)
def test_learning_rate_is_that_of_transformers_trainer(
    name, warmup_ratio, tiny_model, make_study, random_pairs, tmp_path
):
    """Ten steps, with Trainer's own rule for the number of warm-up steps (1 and 3)."""
    one = random_pairs(1, seed=0, prompt=(2, 2), response=(2, 2))[0]
    pairs = with_offsets([one] * 10, np.zeros(10))
    study = make_study(
        lr_scheduler_type=name, warmup_ratio=warmup_ratio, per_device_train_batch_size=1, learning_rate=1e-3
    )
    _, steps = trained(tiny_model, study, pairs)

    arguments = TrainingArguments(str(tmp_path), warmup_steps=warmup_ratio, report_to="none", use_cpu=True)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = get_scheduler(name, optimizer, arguments.get_warmup_steps(10), 10)
    expected = []
    for _ in range(10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(steps["learning_rate"].to_numpy(), expected, rtol=1e-12)


# hooks


class Replay(StageHook):
    """Two pairs of a memory beside the own ones of every step."""

    def __init__(self, memory: TrainingPairs) -> None:
        self.memory = memory

    def pairs_of_step(self, steps_done: int, own: TrainingPairs) -> TrainingPairs:
        return own.and_also(self.memory.take([2 * steps_done, 2 * steps_done + 1]))


class Push(StageHook):
    """A penalty whose gradient is 1 everywhere."""

    def before_update(self, parameters: Sequence[Tensor]) -> None:
        for parameter in parameters:
            parameter.grad += 1


class Projection(StageHook):
    """Takes out of a step's gradient what points against that of a memory."""

    def __init__(self, policy: PeftModel, memory: TrainingPairs, study: Study) -> None:
        self.given = policy, memory, study

    def before_update(self, parameters: Sequence[Tensor]) -> None:
        memory = mean_vector(*self.given)
        dot, square = (
            sum((one * other).sum() for one, other in zip(first, memory, strict=True))
            for first in ([parameter.grad for parameter in parameters], memory)
        )
        if dot < 0:
            for parameter, gradient in zip(parameters, memory, strict=True):
                parameter.grad -= dot / square * gradient


def hooked(base: PreTrainedModel, study: Study, pairs: TrainingPairs, make_hook) -> tuple[dict[str, Tensor], pa.Table]:
    with moved_policy(base, study) as policy:
        steps = train_stage(policy, pairs, study, 0, lambda step: None, [make_hook(policy)])
        return snapshot(policy), steps


def test_a_hook_that_does_nothing_leaves_the_stage_as_it_is_bit_for_bit(tiny_model, make_study, pairs):
    study = make_study(per_device_train_batch_size=4, lora_dropout=0.1)
    plain, plain_steps = trained(tiny_model, study, pairs)
    weights, steps = hooked(tiny_model, study, pairs, lambda policy: StageHook())
    assert_bit_identical(weights, plain)
    assert steps.drop_columns("seconds").equals(plain_steps.drop_columns("seconds"))


def test_replayed_pairs_are_trained_on_beside_a_steps_own(tiny_model, make_study, pairs, random_pairs):
    """One step of ten pairs and two others is that of the twelve; the next steps take the memory's next pairs."""
    memory = with_offsets(random_pairs(8, seed=9), np.linspace(-1, 1, 8))
    study = make_study(per_device_train_batch_size=10, num_train_epochs=4, adam_epsilon=1.0)
    _, steps = hooked(tiny_model, study, pairs, lambda policy: Replay(memory))
    assert steps["n_pairs"].to_pylist() == [12] * 4
    with moved_policy(tiny_model, study) as policy:
        sums, gradients = mean_gradient(policy, pairs.and_also(memory.take([0, 1])), study)
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
        losses = [loss_of_one_pair(policy, memory, i, BETA).item() for i in (0, 1)]
        losses += [loss_of_one_pair(policy, pairs, i, BETA).item() for i in range(10)]
    assert steps["loss"][0].as_py() == pytest.approx(np.mean(losses), rel=1e-5)
    assert sums.loss == pytest.approx(sum(losses), rel=1e-5)
    assert steps["grad_norm"][0].as_py() == pytest.approx(norm, rel=1e-5)  # the order of the ten is another one
    assert len(set(steps["loss"].to_pylist())) == 4


def test_a_penalty_is_added_to_the_gradient_before_the_step(tiny_model, make_study, pairs):
    """The first step of AdamW by hand, as above, on gradients that are 1 larger; unclipped."""
    study = make_study(per_device_train_batch_size=10, learning_rate=0.1, adam_epsilon=0.5, max_grad_norm=0)
    with moved_policy(tiny_model, study) as policy:
        start = snapshot(policy)
        gradients = one_backward_per_pair(policy, pairs, BETA)
    expected = {name: start[name] - 0.1 * (g + 1) / ((g + 1).abs() + 0.5) for name, g in gradients.items()}
    weights, steps = hooked(tiny_model, study, pairs, lambda policy: Push())
    assert_trained_alike(weights, expected, start, 1e-5)
    norm = math.sqrt(sum((g + 1).double().square().sum().item() for g in gradients.values()))
    assert steps["grad_norm"][0].as_py() == pytest.approx(norm, rel=1e-5)


def test_a_gradient_is_projected_off_one_that_it_opposes(tiny_model, make_study, pairs):
    """A pair and the same pair turned around pull in exactly opposite directions: nothing is left of the step.

    adam_epsilon 1 keeps the rounding that is left of the gradient small.
    """
    study = make_study(learning_rate=0.1, adam_epsilon=1.0, max_grad_norm=0)
    one = pairs.take([0])
    (tokens,) = one.tokens
    turned = one._replace(
        tokens=[tokens._replace(chosen=tokens.rejected, rejected=tokens.chosen)],
        reference_chosen=one.reference_rejected,
        reference_rejected=one.reference_chosen,
    )
    start = start_of(tiny_model, study)
    free, _ = trained(tiny_model, study, one)
    held, _ = hooked(tiny_model, study, one, lambda policy: Projection(policy, turned, study))
    along, _ = hooked(tiny_model, study, one, lambda policy: Projection(policy, one, study))
    way = sum((free[name] - start[name]).norm() for name in start)
    assert sum((held[name] - start[name]).norm() for name in start) < 1e-4 * way
    assert_bit_identical(along, free)


# what stops a stage


def test_a_loss_that_is_not_finite_stops_with_the_step_and_its_pairs(tiny_model, make_study, pairs):
    """A NaN is planted in the reference of one pair; found by its id in the message, with the two beside it."""
    planted = pairs._replace(reference_chosen=np.where(np.arange(10) == 4, np.nan, pairs.reference_chosen))
    study = make_study(per_device_train_batch_size=3)
    heard: list[Step] = []
    with moved_policy(tiny_model, study) as policy:
        with pytest.raises(RunError, match=r"step \d: loss = nan.*pair-4\b.*learning_rate") as error:
            train_stage(policy, planted, study, 0, heard.append)
        assert all(torch.isfinite(tensor).all() for tensor in snapshot(policy).values())
    assert str(error.value).startswith(f"step {len(heard) + 1}: ")
    assert str(error.value).count("pair-") == 3


def test_weights_are_not_touched_by_the_step_that_is_refused(tiny_model, make_study, pairs):
    planted = pairs._replace(reference_chosen=np.full(10, np.inf))
    study = make_study()
    with moved_policy(tiny_model, study) as policy:
        start = snapshot(policy)
        with pytest.raises(RunError, match="step 1: "):
            train_stage(policy, planted, study, 0, lambda step: None)
        assert_bit_identical(snapshot(policy), start)
        assert not policy.training


# randomness


def test_same_seed_gives_the_same_bits_and_another_seed_other_weights(tiny_model, make_study, pairs):
    study = make_study(per_device_train_batch_size=4, lora_dropout=0.1)

    def stage(seed: int) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        with trainable_policy(tiny_model, study, None, seed) as policy:
            steps = train_stage(policy, pairs, study, seed, lambda step: None)
            return snapshot(policy), steps.drop_columns("seconds").to_pylist()

    weights, steps = stage(0)
    torch.rand(7)  # whatever was drawn before
    weights_again, steps_again = stage(0)
    assert_bit_identical(weights_again, weights)
    assert steps_again == steps
    other, _ = stage(1)
    assert all(not torch.equal(other[name], weights[name]) for name in weights)


def test_order_of_the_pairs_depends_on_the_seed(tiny_model, make_study, pairs):
    """The same start; steps of one pair, so that the column of losses shows the order."""
    study = make_study(per_device_train_batch_size=1, learning_rate=1e-12)
    first, again, other = (trained(tiny_model, study, pairs, seed)[1]["loss"].to_pylist() for seed in (0, 0, 1))
    assert first == again
    assert first != other
    np.testing.assert_allclose(sorted(first), sorted(other), rtol=1e-5)


def test_lora_dropout_depends_on_the_seed_and_only_on_it(tiny_model, make_study, pairs):
    """One step over all pairs, whose order then is nothing but rounding: what differs is dropout's."""
    keys: dict[str, Any] = {"per_device_train_batch_size": 10, "adam_epsilon": 1.0, "tokens_per_batch": 100_000}
    without = make_study(**keys)
    study = make_study(**keys, lora_dropout=0.2)
    start = start_of(tiny_model, study)
    plain = [trained(tiny_model, without, pairs, seed)[0] for seed in (0, 1)]
    assert_trained_alike(plain[1], plain[0], start, 1e-2)  # lr is 5e-5: changes keep few digits beside the weights

    first, _ = trained(tiny_model, study, pairs, seed=0)
    torch.rand(7)
    again, _ = trained(tiny_model, study, pairs, seed=0)
    other, _ = trained(tiny_model, study, pairs, seed=1)
    assert_bit_identical(again, first)
    for one, two in ((first, plain[0]), (first, other)):
        change = sum((one[name] - start[name]).norm() for name in start)
        assert sum((one[name] - two[name]).norm() for name in start) > 0.1 * change


def test_global_random_state_is_left_as_it_was(tiny_model, make_study, pairs):
    study = make_study(lora_dropout=0.2)
    with moved_policy(tiny_model, study) as policy:
        before = torch.random.get_rng_state()
        train_stage(policy, pairs, study, 0, lambda step: None)
        assert torch.equal(torch.random.get_rng_state(), before)


SMALL: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS_WITH_DROPOUT: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=64, attention_dropout=0.5)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=300, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5,
            bos_token_id=0, eos_token_id=0,
        )
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32, dropout=0.5, attention_dropout=0.5, layerdrop=0.5)
    ),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=2, hidden_dropout=0.5, attention_dropout=0.5)
    ),
    "falcon": lambda: FalconForCausalLM(FalconConfig(**SMALL, hidden_dropout=0.5, attention_dropout=0.5)),
}  # fmt: skip


@pytest.mark.parametrize("family", MODELS_WITH_DROPOUT)
def test_dropout_of_the_base_stays_off_while_a_stage_trains(family, make_study, random_pairs, tmp_path):
    """In training mode a freshly loaded base scores exactly as in evaluation mode."""
    saved = MODELS_WITH_DROPOUT[family]()
    saved.save_pretrained(tmp_path / "model")
    pairs = random_pairs(4, seed=0)
    active = pair_logps(saved.train(), pairs, 1000)
    inactive = pair_logps(saved.eval(), pairs, 1000)
    assert (active.chosen != inactive.chosen).all()  # as saved, dropout is on in training

    base = load_model(make_study(model_name_or_path=str(tmp_path / "model")))
    np.testing.assert_array_equal(pair_logps(base.train(), pairs, 1000), pair_logps(base.eval(), pairs, 1000))
