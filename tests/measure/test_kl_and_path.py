"""KL against full distributions, the line against materialised weights, the forecast against autograd."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from seqdpo.measure.forecast import SHARE_OF_ADAM_STEP, forecast
from seqdpo.measure.kl_and_path import Ends, HeldOut, kl_and_path_table, line_kl, path_logps
from seqdpo.measure.movement import adapter_factors
from seqdpo.measure.scores import PairLogps, pair_logps
from seqdpo.policy.adapters import line_between, loaded_adapter, save_adapter, trainable_policy
from seqdpo.policy.engine import choose_engine
from seqdpo.tables import KL_AND_PATH_SCHEMA, PATH
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.stage import mean_vector


@pytest.fixture
def pairs(random_pairs):
    return random_pairs(6, seed=1)


@contextmanager
def moved(base, study, parent, seed, size=0.05):
    generator = torch.Generator().manual_seed(seed)
    with trainable_policy(base, study, parent, seed) as policy:
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter += size * torch.randn(parameter.shape, generator=generator)
        yield policy


@pytest.fixture
def checkpoints(tiny_model, make_study, tmp_path):
    """Adapters after a first and a second stage, of different rank and scale."""
    first, second = tmp_path / "first", tmp_path / "second"
    with moved(tiny_model, make_study(lora_r=3, lora_alpha=5), None, 1) as policy:
        save_adapter(policy, make_study(lora_r=3, lora_alpha=5), None, first)
    study = make_study(adapter_mode="stack")
    with moved(tiny_model, study, first, 2) as policy:
        save_adapter(policy, study, first, second)
    return first, second


@pytest.mark.parametrize("previous", ["checkpoint", "base"])
def test_the_line_is_the_line_of_the_delta_ws(previous, tiny_model, tiny_model_folder, checkpoints, pairs):
    first, second = checkpoints
    start = first if previous == "checkpoint" else None
    with line_between(tiny_model, start, second) as line:
        found = path_logps(line, {"helpful": pairs}, 1000)["helpful"]
    new = adapter_factors(second)
    old = adapter_factors(first) if start else {}
    for a, logps in zip(PATH, found, strict=True):
        model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
        modules = dict(model.named_modules())
        for name, f in new.items():
            delta = a * (f.b @ f.a) + ((1 - a) * (old[name].b @ old[name].a) if name in old else 0)
            modules[name].weight.data += torch.as_tensor(delta).float()
        expected = pair_logps(model.eval(), pairs, 1000)
        np.testing.assert_allclose(logps.chosen, expected.chosen, rtol=1e-5)
        np.testing.assert_allclose(logps.rejected, expected.rejected, rtol=1e-5)


def test_the_ends_of_the_line_are_the_checkpoints_and_the_base_comes_back(tiny_model, checkpoints, pairs):
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    with line_between(tiny_model, *checkpoints) as line:
        ends = [path_logps(line, {"helpful": pairs}, 1000)["helpful"][PATH.index(a)] for a in (0.0, 1.0)]
    for folder, logps in zip(checkpoints, ends, strict=True):
        with loaded_adapter(tiny_model, folder) as policy:
            np.testing.assert_allclose(logps.difference, pair_logps(policy, pairs, 1000).difference, atol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_model.state_dict().items())


@pytest.mark.parametrize("path", ["padded", "packed"])
def test_kl_is_that_of_the_whole_distributions_along_each_response(path, tiny_model, checkpoints, pairs):
    if path == "packed":
        assert choose_engine(tiny_model, 500) == "packed trees (segments)"
    with line_between(tiny_model, *checkpoints) as line:
        found = line_kl(line, {"helpful": pairs}, 300)["helpful"]  # several batches
    for i, (prompt, *responses, _) in enumerate(pairs):
        for response, kl in zip(responses, found, strict=True):
            ids = torch.as_tensor(np.concatenate([prompt, response])).long()[None]
            p, q = (next_tokens(tiny_model, folder, ids)[len(prompt) - 1 : -1].double() for folder in checkpoints)
            expected = (p.exp() * (p - q)).sum().item()
            assert expected > 0
            assert kl[i] == pytest.approx(expected, rel=1e-4)


def next_tokens(model, adapter, ids):
    """(n_tokens, vocabulary) log-probabilities by a plain forward pass with plain attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        with loaded_adapter(model, adapter) as policy, torch.inference_mode():
            return policy(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    finally:
        model.set_attn_implementation(before)


def test_a_policy_that_did_not_move_has_no_kl(tiny_model, checkpoints, pairs):
    first, _ = checkpoints
    with line_between(tiny_model, first, first) as line:
        kl = line_kl(line, {"helpful": pairs}, 1000)["helpful"]
    np.testing.assert_allclose(kl.chosen, 0, atol=1e-5)


def test_table_has_a_row_a_pair_and_null_where_nothing_was_measured(tiny_model, checkpoints, pairs):
    held_out = {"helpful": HeldOut(["a", "b"], pairs[:2]), "harmless": HeldOut(["c"], pairs[2:3])}
    whole = kl_and_path_table(tiny_model, *checkpoints, held_out, 1000)
    control = kl_and_path_table(tiny_model, *checkpoints, held_out, 1000, with_path=False)
    assert whole.schema == control.schema == KL_AND_PATH_SCHEMA
    assert whole["pair_id"].to_pylist() == ["a", "b", "c"]
    assert whole["objective"].to_pylist() == ["helpful", "helpful", "harmless"]
    assert [len(row) for row in whole["path_chosen_logp"].to_pylist()] == [len(PATH)] * 3
    assert control["path_chosen_logp"].null_count == control["chosen_forecast"].null_count == 3
    assert control["chosen_kl"].equals(whole["chosen_kl"])


def test_ends_that_are_known_are_taken_as_they_are_and_save_their_passes(tiny_model, checkpoints, pairs):
    held_out = {"helpful": HeldOut(list("uvwxyz"), pairs)}
    ends = Ends(*(PairLogps(np.full(6, a), np.full(6, -a)) for a in (1.0, 2.0)))
    heard: dict[bool, int] = {}
    tables = {}
    for known in (False, True):
        counts: list[int] = []
        tables[known] = kl_and_path_table(
            tiny_model, *checkpoints, held_out, 1000, ends={"helpful": ends} if known else None, on_batch=counts.append
        )
        heard[known] = sum(counts)
    assert heard == {False: 6 * (2 + len(PATH)), True: 6 * (2 + len(PATH) - 2)}
    plain, found = (np.array(tables[known]["path_chosen_logp"].to_pylist()) for known in (False, True))
    given = [PATH.index(0.0), PATH.index(1.0)]
    np.testing.assert_array_equal(found[:, given], [[1.0, 2.0]] * 6)
    others = [i for i in range(len(PATH)) if i not in given]
    np.testing.assert_array_equal(found[:, others], plain[:, others])


def test_forecast_is_the_directional_derivative(tiny_model, make_study, random_pairs, pairs):
    """Against one backward pass for each pair: <grad logp, step>, with the step that the docstring promises.

    Large learning rates would bend, so a small one; rounding in float32 stays below 2% of these changes.
    """
    study = make_study(learning_rate=1e-3)
    training = TrainingPairs(list("abcdefgh"), random_pairs(8, seed=3), np.linspace(-3, 3, 8), np.zeros(8))
    with moved(tiny_model, study, None, 1) as policy:
        parameters = [p for p in policy.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in parameters]
        found = forecast(policy, training, {"helpful": HeldOut(list("uvwxyz"), pairs)}, study)["helpful"]
        assert all(torch.equal(p, start) and p.grad is None for p, start in zip(parameters, before, strict=True))

        gradients = mean_vector(policy, training, study)
        norm = sum(g.double().square().sum() for g in gradients) ** 0.5
        length = SHARE_OF_ADAM_STEP * 1e-3 * sum(p.numel() for p in parameters) ** 0.5
        for i, (prompt, *responses, _) in enumerate(pairs):
            for response, promised in zip(responses, found, strict=True):
                ids = torch.as_tensor(np.concatenate([prompt, response])).long()
                rows = policy(input_ids=ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                logp = rows.gather(1, ids[len(prompt) :, None]).sum()
                slopes = torch.autograd.grad(logp, parameters)
                expected = -sum((g * s).sum() for g, s in zip(gradients, slopes, strict=True)).item() * length / norm
                assert promised[i] == pytest.approx(expected.item(), rel=0.02, abs=2e-4)


def test_a_gradient_of_zero_promises_nothing(tiny_model, make_study, random_pairs, pairs):
    """Pairs that the policy is so sure of that the loss is 0 to the last bit."""
    with moved(tiny_model, make_study(), None, 1) as policy:
        training = TrainingPairs(list("abc"), random_pairs(3, seed=3), np.full(3, -1e6), np.zeros(3))
        assert forecast(policy, training, {"helpful": HeldOut(list("uvwxyz"), pairs)}, make_study()) == {}
