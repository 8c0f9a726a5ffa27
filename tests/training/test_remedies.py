"""What variants do to a stage: replayed pairs, a pull to its start, projected updates, each against a slow oracle."""

import numpy as np
import pytest
import torch
from test_stage import (
    BETA,
    assert_bit_identical,
    assert_close_in_norm,
    assert_trained_alike,
    hooked,
    loss_of_one_pair,
    moved_policy,
    one_backward_per_pair,
    snapshot,
    trainable,
    trained,
    with_offsets,
)

from seqdpo.measure.scores import pair_logps
from seqdpo.training import projection
from seqdpo.training.projection import Projection
from seqdpo.training.pull import Pull, preference_fisher
from seqdpo.training.replay import Replay


@pytest.fixture
def pairs(random_pairs):
    return with_offsets(random_pairs(6, seed=2), np.random.default_rng(0).normal(0, 1, 6))


@pytest.fixture
def memory(random_pairs):
    """As many as a step has, so that all of them are drawn."""
    of = with_offsets(random_pairs(6, seed=9), np.random.default_rng(1).normal(0, 1, 6))
    return of._replace(pair_ids=[f"earlier-{i}" for i in range(6)])


def keys(make_study, **values):
    """Two steps on all six pairs, whose order does not matter then."""
    smooth = {"adam_epsilon": 1.0, "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0}
    return make_study(**{"per_device_train_batch_size": 6, "num_train_epochs": 2} | smooth | values)


def adamw(policy, study):
    return torch.optim.AdamW(trainable(policy).values(), lr=study.learning_rate, eps=study.adam_epsilon, weight_decay=0)


# replay


def test_a_share_of_a_step_is_replaced_by_earlier_pairs_with_their_own_reference(pairs, memory):
    mixed = Replay(memory, 1 / 3, added=False, seed=0).pairs_of_step(0, pairs)
    assert mixed.n_pairs == 6
    assert list(mixed.pair_ids[:4]) == list(pairs.pair_ids[:4])
    drawn = [memory.pair_ids.index(one) for one in mixed.pair_ids[4:]]
    assert len(set(drawn)) == 2
    assert mixed.reference_chosen[4:].tolist() == memory.reference_chosen[drawn].tolist()


def test_added_pairs_stand_beside_all_of_the_steps_own(pairs, memory):
    mixed = Replay(memory, 1 / 3, added=True, seed=0).pairs_of_step(0, pairs)
    assert list(mixed.pair_ids[:6]) == list(pairs.pair_ids)
    assert mixed.n_pairs == 8


def test_the_share_holds_over_the_stage_where_a_step_is_too_small_for_it(pairs, memory):
    """A tenth of six pairs is six in ten steps; never more than one in a step."""
    replay = Replay(memory, 0.1, added=False, seed=0)
    counts = [sum("earlier" in one for one in replay.pairs_of_step(step, pairs).pair_ids) for step in range(10)]
    assert sum(counts) == 6
    assert set(counts) == {0, 1}


def test_a_step_draws_the_same_pairs_after_an_interruption_and_others_than_its_neighbour(pairs, memory):
    ids = [Replay(memory, 0.5, added=False, seed=4).pairs_of_step(step, pairs).pair_ids for step in (3, 3, 4)]
    assert ids[0] == ids[1] != ids[2]


def test_the_gradient_of_a_mixed_step_is_the_mean_over_its_pairs(tiny_model, make_study, pairs, memory):
    """The first step of AdamW by hand: lr * g / (|g| + eps), without bias at step 1."""
    study = keys(make_study, num_train_epochs=1, adam_epsilon=0.5)
    seen = []

    class Kept(Replay):
        def pairs_of_step(self, steps_done, own):
            seen.append(super().pairs_of_step(steps_done, own))
            return seen[-1]

    weights, steps = hooked(tiny_model, study, pairs, lambda policy: Kept(memory, 0.5, added=False, seed=0))
    assert steps["n_pairs"].to_pylist() == [6]
    with moved_policy(tiny_model, study) as policy:
        start, gradients = snapshot(policy), one_backward_per_pair(policy, seen[0], BETA)
    expected = {name: start[name] - 0.1 * g / (g.abs() + 0.5) for name, g in gradients.items()}
    assert_trained_alike(weights, expected, start, 1e-5)


# the pull


def reward_margin(policy, pairs, i):
    """From the loss of one pair: -log sigmoid(r) = l, so r = -log(exp(l) - 1)."""
    return -torch.log(torch.expm1(loss_of_one_pair(policy, pairs, i, BETA)))


def test_fisher_information_is_that_of_each_pairs_label(tiny_model, make_study, pairs):
    """E over both labels y of (d log p(y) / d theta)^2: the pair's with probability s(r), the turned one with s(-r).

    The slow way round: d log p / d theta is s(-r) d r for the one, -s(r) d r for the other.
    """
    study = make_study()
    with moved_policy(tiny_model, study) as policy:
        found = dict(zip(trainable(policy), preference_fisher(policy, pairs, study), strict=True))
        expected = {name: torch.zeros_like(p) for name, p in trainable(policy).items()}
        for i in range(pairs.n_pairs):
            parameters = trainable(policy)
            p = torch.sigmoid(reward_margin(policy, pairs, i)).item()
            for log_p, weight in (
                (lambda r: torch.nn.functional.logsigmoid(r), p),
                (lambda r: torch.nn.functional.logsigmoid(-r), 1 - p),
            ):
                score = torch.autograd.grad(log_p(reward_margin(policy, pairs, i)), list(parameters.values()))
                for name, gradient in zip(parameters, score, strict=True):
                    expected[name] += weight * gradient**2 / pairs.n_pairs
    assert_close_in_norm(found, expected, 1e-4)  # the oracle's exp and log cost a digit


def test_a_stage_with_a_pull_is_that_of_the_penalised_loss(tiny_model, make_study, pairs):
    """Two steps of torch's AdamW on loss + 1/2 sum strength (theta - start)^2, by autograd."""
    study = keys(make_study)
    with moved_policy(tiny_model, study) as policy:
        start, optimizer = snapshot(policy), adamw(policy, study)
        strengths = {name: torch.linspace(0, 3, p.numel()).view_as(p) for name, p in start.items()}
        for _ in range(2):
            optimizer.zero_grad()
            loss = sum(loss_of_one_pair(policy, pairs, i, BETA) for i in range(6)) / 6
            pull = sum((strengths[n] * (p - start[n]) ** 2).sum() for n, p in trainable(policy).items()) / 2
            (loss + pull).backward()
            optimizer.step()
        expected = snapshot(policy)
    plain, _ = trained(tiny_model, study, pairs)
    weights, _ = hooked(
        tiny_model, study, pairs, lambda policy: Pull(list(trainable(policy).values()), list(strengths.values()))
    )
    assert_trained_alike(weights, expected, start, 1e-5)
    assert any((weights[name] - plain[name]).abs().max() > 1e-4 for name in plain)


# projection


def test_updates_are_projected_off_the_gradient_of_the_memory(tiny_model, make_study, pairs):
    """Two steps of torch's AdamW, the change of each less its part along a gradient that it opposes."""
    study = keys(make_study)
    with moved_policy(tiny_model, study) as policy:  # reward margins of 0: a turned pair pulls as hard
        pairs = with_offsets(pairs.tokens, BETA * pair_logps(policy, pairs.tokens, None).difference)
    turned = pairs._replace(
        tokens=[one._replace(chosen=one.rejected, rejected=one.chosen) for one in pairs.tokens],
        reference_chosen=pairs.reference_rejected,
        reference_rejected=pairs.reference_chosen,
    )
    with moved_policy(tiny_model, study) as policy:
        optimizer, dots = adamw(policy, study), []
        for _ in range(2):
            start, remembered = snapshot(policy), one_backward_per_pair(policy, turned, BETA)
            for name, gradient in one_backward_per_pair(policy, pairs, BETA).items():
                trainable(policy)[name].grad = gradient
            optimizer.step()
            dot = sum(((p.detach() - start[n]) * remembered[n]).sum() for n, p in trainable(policy).items())
            dots.append(dot)
            square = sum((g**2).sum() for g in remembered.values())
            with torch.no_grad():
                for name, parameter in trainable(policy).items():
                    parameter -= max(dot, 0) / square * remembered[name]
        assert dots[0] > 0  # the memory's loss would rise
        expected = snapshot(policy)
    weights, _ = hooked(tiny_model, study, pairs, lambda policy: Projection(policy, turned, study, seed=0))
    plain, _ = trained(tiny_model, study, pairs)
    # of the weights: what a projection leaves of two opposite directions is small, and has fewer digits
    assert_close_in_norm(weights, expected, 1e-5)
    assert all((plain[name] - expected[name]).norm() > 0.01 * expected[name].norm() for name in plain)


def test_a_memory_without_a_gradient_leaves_the_stage_bit_for_bit(tiny_model, make_study, pairs, memory, monkeypatch):
    """With dropout, whose random numbers the projection must not take."""
    monkeypatch.setattr(
        projection, "mean_vector", lambda policy, *_: [torch.zeros_like(p) for p in trainable(policy).values()]
    )
    study = keys(make_study, lora_dropout=0.1)
    plain, _ = trained(tiny_model, study, pairs)
    weights, _ = hooked(tiny_model, study, pairs, lambda policy: Projection(policy, memory, study, seed=0))
    assert_bit_identical(weights, plain)
