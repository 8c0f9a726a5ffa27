"""The trace against one backward pass a pair, the account against the losses, and that it leaves no trace."""

import gc
import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from seqdpo.measure.gradients import GradientTrace, Halves, TraceSize, blocks_of, trace_size
from seqdpo.policy.adapters import trainable_policy
from seqdpo.preferences.pairs import Message, Pair
from seqdpo.preferences.prepare import PreparedPair
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.stage import train_stage

N = 12  # held-out pairs of an objective; two halves of six


@contextmanager
def moved_policy(base, study):
    """Its B is not 0, so that A has gradients, too; the same one every time."""
    generator = torch.Generator().manual_seed(1)
    with trainable_policy(base, study, None, seed=0) as policy:
        with torch.no_grad():
            for parameter in parameters(policy).values():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        yield policy


def parameters(policy) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}


@pytest.fixture
def make_pairs(random_pairs):
    def make(n, seed):
        chosen = np.random.default_rng(seed).normal(0, 1, n) / 0.3
        return TrainingPairs([f"{seed}-{i}" for i in range(n)], random_pairs(n, seed=seed), chosen, np.zeros(n))

    return make


@pytest.fixture
def halves(make_pairs):
    def make(seed):
        return Halves(make_pairs(N, seed), [range(0, N, 2)], [range(1, N, 2)])

    return make


def pair_loss(policy, pairs, i, beta) -> Tensor:
    """-log sigmoid(beta * (difference of logps less the reference's)), each response in a plain forward pass."""
    prompt, chosen, rejected, _ = pairs.tokens[i]
    logps = []
    for response in (chosen, rejected):
        ids = torch.as_tensor(np.concatenate([prompt, response])).long()
        rows = policy(input_ids=ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        logps.append(rows.gather(1, ids[len(prompt) :, None]).sum())
    reference = pairs.reference_chosen[i] - pairs.reference_rejected[i]
    return torch.log1p(torch.exp(-beta * (logps[0] - logps[1] - reference)))


def oracle(policy, pairs, indices, beta) -> dict[str, Tensor]:
    """The mean of each pair's own gradient, by module, in float64."""
    wanted = parameters(policy)
    total = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in wanted.items()}
    for i in indices:
        gradients = torch.autograd.grad(pair_loss(policy, pairs, i, beta), list(wanted.values()))
        for name, gradient in zip(total, gradients, strict=True):
            total[name] += gradient.double() / len(indices)
    modules: dict[str, Tensor] = {}
    for name, gradient in total.items():
        module = name.removeprefix("base_model.model.").split(".lora_")[0]
        modules[module] = torch.cat([modules.get(module, torch.empty(0)), gradient.flatten()])
    return modules


def test_every_number_equals_one_backward_per_pair(tiny_model, make_study, make_pairs, halves):
    """Two steps, a point before each: batches of four of a block's six pairs, which go round: 0-3, then 4, 5, 0, 1."""
    study = make_study(per_device_train_batch_size=4, beta=0.3)
    current, earlier = halves(2), halves(3)
    with moved_policy(tiny_model, study) as policy:
        trace = GradientTrace(policy, current, {"helpful": earlier}, study, TraceSize(2, 4, 1), n_steps=2)
        train_stage(policy, make_pairs(8, 4), study, 0, lambda step: None, [trace])
    table = trace.table.to_pylist()
    with moved_policy(tiny_model, study) as policy:  # the state at the first point
        c = [
            oracle(policy, current.pairs, [block[i] for i in range(4)], 0.3)
            for [block] in (current.first, current.second)
        ]
        e = [
            oracle(policy, earlier.pairs, [block[i] for i in range(4)], 0.3)
            for [block] in (earlier.first, earlier.second)
        ]
    rows = {row["module"]: row for row in table if row["step"] == 0 and row["module"] != "(layer)"}
    assert set(rows) == {*c[0], "(all)"}
    for module, row in rows.items():
        names = list(c[0]) if module == "(all)" else [module]
        c1, c2, e1, e2 = (torch.cat([g[name] for name in names]) for g in (*c, *e))
        expected = {
            "dot": (c1 + c2) @ (e1 + e2) / 4,
            "current_squared_norm": (c1 @ c1 + c2 @ c2) / 2,
            "current_split_dot": c1 @ c2,
            "earlier_squared_norm": (e1 @ e1 + e2 @ e2) / 2,
            "earlier_split_dot": e1 @ e2,
        }
        scale = max(expected["current_squared_norm"], expected["earlier_squared_norm"]).item()
        for key, value in expected.items():
            assert row[key] == pytest.approx(value.item(), rel=1e-5, abs=1e-5 * scale), (module, key)
        assert row["preconditioned_dot"] is None  # Adam has no state yet
        assert (row["objective"], row["n_pairs"], row["from_step"], row["to_step"]) == ("helpful", 4, 0, 1)


def test_layers_and_the_whole_are_sums_of_modules(tiny_model, make_study, make_pairs, halves):
    study = make_study(per_device_train_batch_size=4)
    with moved_policy(tiny_model, study) as policy:
        trace = GradientTrace(policy, halves(2), {"helpful": halves(3)}, study, TraceSize(3, 4, 1), n_steps=3)
        train_stage(policy, make_pairs(12, 4), study, 0, lambda step: None, [trace])
    for step in (0, 1, 2):
        rows = [row for row in trace.table.to_pylist() if row["step"] == step]
        named = [row for row in rows if not row["module"].startswith("(")]
        layers = {row["layer"]: row for row in rows if row["module"] == "(layer)"}
        assert sorted(layers) == [0, 1]
        [whole] = [row for row in rows if row["module"] == "(all)"]
        for key in ("dot", "current_split_dot", "update_dot"):
            assert whole[key] == pytest.approx(math.fsum(row[key] for row in named))
            for layer, row in layers.items():
                assert row[key] == pytest.approx(math.fsum(own[key] for own in named if own["layer"] == layer))


def test_the_account_of_each_step_is_the_gradient_times_what_the_step_did(tiny_model, make_study, make_pairs, halves):
    """One interval a step. SGD-like by hand: the parameters before and after each step are taken from the outside."""
    study = make_study(per_device_train_batch_size=4, learning_rate=1e-3)
    earlier = halves(3)
    states = []
    with moved_policy(tiny_model, study) as policy:
        trace = GradientTrace(policy, halves(2), {"helpful": earlier}, study, TraceSize(3, 6, 1), n_steps=3)
        states.append({name: p.detach().clone() for name, p in parameters(policy).items()})

        def keep(step):
            states.append({name: p.detach().clone() for name, p in parameters(policy).items()})

        train_stage(policy, make_pairs(12, 4), study, 0, keep, [trace])
        rows = [row for row in trace.table.to_pylist() if row["module"] == "(all)"]
        for k, row in enumerate(rows):
            with torch.no_grad():
                for name, parameter in parameters(policy).items():
                    parameter.copy_(states[k][name])
            wanted = parameters(policy)
            loss = sum(pair_loss(policy, earlier.pairs, i, study.beta) for i in range(N)) / N
            gradients = torch.autograd.grad(loss, list(wanted.values()))
            moves = [states[k + 1][name] - states[k][name] for name in wanted]
            expected = sum((g.double() * m.double()).sum() for g, m in zip(gradients, moves, strict=True)).item()
            assert row["update_dot"] == pytest.approx(expected, rel=1e-4)


def test_the_midpoint_account_closes_on_what_really_happened(tiny_model, make_study, make_pairs, halves):
    """Gradients of all held-out pairs in the middle of each interval, and steps that are smooth in the gradient
    (adam_epsilon 1): the sum of the account is the change of the mean loss but for terms of third order."""
    study = make_study(
        per_device_train_batch_size=4, learning_rate=0.02, adam_epsilon=1.0, lr_scheduler_type="constant"
    )
    earlier = halves(3)

    def mean_loss(policy):
        with torch.no_grad():
            return sum(pair_loss(policy, earlier.pairs, i, study.beta).item() for i in range(N)) / N

    with moved_policy(tiny_model, study) as policy:
        before = mean_loss(policy)
        trace = GradientTrace(policy, halves(2), {"helpful": earlier}, study, TraceSize(6, 6, 1), n_steps=12)
        train_stage(policy, make_pairs(48, 4), study, 0, lambda step: None, [trace])
        change = mean_loss(policy) - before
    rows = [row for row in trace.table.to_pylist() if row["module"] == "(all)"]
    assert [(row["from_step"], row["step"], row["to_step"]) for row in rows] == [
        (k, k + 1, k + 2) for k in range(0, 12, 2)
    ]
    assert abs(change) > 1e-3
    assert math.fsum(row["update_dot"] for row in rows) == pytest.approx(change, rel=0.02)


def test_preconditioned_dot_divides_by_adams_own_scale(tiny_model, make_study, make_pairs, halves):
    """adam_epsilon so large that v does not count: the dot over epsilon."""
    study = make_study(per_device_train_batch_size=4, adam_epsilon=1e6)
    with moved_policy(tiny_model, study) as policy:
        trace = GradientTrace(policy, halves(2), {"helpful": halves(3)}, study, TraceSize(3, 4, 1), n_steps=3)
        train_stage(policy, make_pairs(12, 4), study, 0, lambda step: None, [trace])
    for row in trace.table.to_pylist():
        if row["step"]:
            assert row["preconditioned_dot"] == pytest.approx(row["dot"] / 1e6, rel=1e-4)


@pytest.mark.parametrize("keys", [{}, {"lora_dropout": 0.3}, {"gradient_checkpointing": True}], ids=str)
def test_a_traced_stage_is_the_untraced_one_bit_for_bit(keys, tiny_model, make_study, make_pairs, halves):
    study = make_study(per_device_train_batch_size=4, **keys)

    def trained(size):
        with moved_policy(tiny_model, study) as policy:
            hooks = [GradientTrace(policy, halves(2), {"helpful": halves(3)}, study, size, n_steps=3)] if size else []
            steps = train_stage(policy, make_pairs(12, 4), study, 0, lambda step: None, hooks)
            return {name: p.detach().clone() for name, p in parameters(policy).items()}, steps.drop(["seconds"])

    (plain, plain_steps), (traced, traced_steps) = trained(None), trained(TraceSize(3, 4, 1))
    assert all(torch.equal(plain[name], traced[name]) for name in plain)
    assert traced_steps.equals(plain_steps)


@pytest.mark.parametrize("n_earlier", [1, 2])
def test_memory_is_two_vectors_and_one_for_each_earlier_objective(
    n_earlier, tiny_model, make_study, make_pairs, halves
):
    """Counted in tensors that live, of the shape of one parameter that no other tensor of the process has."""
    study = make_study(per_device_train_batch_size=4, lora_r=5)
    alive = []

    with moved_policy(tiny_model, study) as policy:
        shape = next(p.shape for name, p in parameters(policy).items() if "down_proj.lora_A" in name)
        n_alike = sum(p.shape == shape for p in parameters(policy).values())
        held_out = {f"o{k}": halves(3 + k) for k in range(n_earlier)}
        trace = GradientTrace(policy, halves(2), held_out, study, TraceSize(3, 4, 1), n_steps=3)
        plain_gradient = trace._gradient

        def counted(*arguments):
            found = plain_gradient(*arguments)
            gc.collect()  # what other tests left
            tensors = sum(type(o) in (Tensor, Parameter) and o.shape == shape for o in gc.get_objects())
            alive.append(tensors / n_alike)
            return found

        trace._gradient = counted
        train_stage(policy, make_pairs(12, 4), study, 0, lambda step: None, [trace])
    # parameters 1, Adam 2, the gradient that was just made 1 (training has it, too); the rest is the trace's
    assert max(alive) - 4 <= 2 + n_earlier


def test_points_take_their_pairs_from_blocks_in_turn(tiny_model, make_study, make_pairs):
    """Two blocks of three pairs in each half, batches of two: blocks 0, 1, 0, 1; the second turn goes on where the
    first ended, with pairs 2 and 0 of the block."""
    study = make_study(per_device_train_batch_size=3)
    halves = Halves(make_pairs(N, 2), [[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]])
    read = []
    with moved_policy(tiny_model, study) as policy:
        trace = GradientTrace(policy, halves, {"helpful": halves}, study, TraceSize(4, 2, 2), n_steps=4)
        plain = trace._current.pairs.take

        class Pairs(type(halves.pairs)):
            def take(self, indices):
                read.append(list(indices))
                return plain(indices)

        trace._current = halves._replace(pairs=Pairs(*halves.pairs))
        train_stage(policy, make_pairs(12, 4), study, 0, lambda step: None, [trace])
    assert read == [[0, 1], [6, 7], [3, 4], [9, 10], [2, 0], [8, 6], [5, 3], [11, 9]]
    assert [row["block"] for row in trace.table.to_pylist() if row["module"] == "(all)"] == [0, 1, 0, 1]


def test_a_block_shares_no_prompt_with_another():
    """Prompts with 5, 3, 3, 1, 1 and 1 pairs in three blocks: the largest first, each to the smallest block so far."""
    prompts = [name for name, n in (("a", 1), ("b", 3), ("c", 5), ("d", 1), ("e", 3), ("f", 1)) for _ in range(n)]
    prepared = [PreparedPair(Pair((Message("user", name),), f"yes {i}", "no"), None) for i, name in enumerate(prompts)]
    blocks = blocks_of(range(len(prompts)), prepared, 3)
    assert [[prompts[i] for i in block] for block in blocks] == [list("ccccc"), list("bbbaf"), list("eeed")]


def test_size_of_the_trace_keeps_to_its_budget(make_study):
    """A budget of 60 pairs forward and backward; one earlier objective, so four batches a point."""
    study = make_study(gradient_trace_points=20)

    def size(budget, n_steps, half, study=study):
        return trace_size(study, budget, n_steps, 1, lambda n_blocks: half // n_blocks)

    assert size(60, 75, 100) == TraceSize(3, 5, 3)  # 60 // 16 = 3 points, 60 // 12 = 5 pairs
    assert size(4300, 5375, 500) == TraceSize(20, 53, 8)  # 4300 // 80
    assert size(4300, 5375, 160) == TraceSize(20, 20, 8)  # no more than an eighth of a half
    assert size(4300, 5375, 30) == TraceSize(20, 4, 7)  # eight blocks would have three pairs
    assert size(4300, 5, 500) == TraceSize(5, 100, 5)  # no more points than steps, nor blocks than points
    assert size(40, 50, 100) == TraceSize(0, 0, 0)  # 40 // 16 = 2 points have no spread
    assert size(4300, 5375, 11) == TraceSize(0, 0, 0)  # three blocks would have three pairs
    assert size(4300, 5375, 500, make_study(gradient_trace_points=0)) == TraceSize(0, 0, 0)
    for budget in (10, 60, 500):
        for n_earlier in (1, 2, 3):
            found = trace_size(study, budget, 100, n_earlier, lambda n_blocks: 1000 // n_blocks)
            assert found.gradient_pairs(n_earlier) <= budget
