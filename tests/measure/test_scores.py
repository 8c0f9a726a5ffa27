"""Scores of pairs as columns: in the order of the pairs, in float64, with progress that adds up."""

import numpy as np
import pytest
import torch

from seqdpo.measure.scores import PairLogps, pair_logps
from seqdpo.policy.engine import choose_engine


def logp(model, prompt, response) -> float:
    """One sequence alone, token by token: the sum of log p(token | everything before it)."""
    ids = torch.tensor([[*prompt.tolist(), *response.tolist()]])
    with torch.no_grad():
        rows = model(ids).logits[0].log_softmax(dim=-1)
    return sum(rows[i - 1, ids[0, i]].item() for i in range(len(prompt), ids.shape[1]))


@pytest.mark.parametrize("tokens_per_batch", [16, 200, 100_000])
def test_scores_are_in_the_order_of_the_pairs(tokens_per_batch, tiny_model, random_pairs):
    """1e-5: float32 sums of some 20 terms in another order."""
    pairs = random_pairs(12, seed=0)
    scores = pair_logps(tiny_model, pairs, tokens_per_batch)
    np.testing.assert_allclose(scores.chosen, [logp(tiny_model, p.prompt, p.chosen) for p in pairs], rtol=1e-5)
    np.testing.assert_allclose(scores.rejected, [logp(tiny_model, p.prompt, p.rejected) for p in pairs], rtol=1e-5)


@pytest.mark.parametrize("path", ["padded", "packed"])
@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_tokens_beyond_the_shorter_response_count_as_much_as_their_weight(weight, path, tiny_model, random_pairs):
    """By two scores: the longer response whole, and cut to the length of the shorter one."""
    pairs = random_pairs(12, seed=0)
    assert len({len(p.chosen) < len(p.rejected) for p in pairs}) == 2
    shared = [min(len(p.chosen), len(p.rejected)) for p in pairs]
    cut = [p._replace(chosen=p.chosen[:n], rejected=p.rejected[:n]) for p, n in zip(pairs, shared, strict=True)]
    if path == "packed":
        assert choose_engine(tiny_model, 500) == "packed trees (segments)"
    whole, head = pair_logps(tiny_model, pairs, 200), pair_logps(tiny_model, cut, 200)
    found = pair_logps(tiny_model, pairs, 200, tail_weight=weight)
    for one, of_whole, of_head in zip(found, whole, head, strict=True):
        np.testing.assert_allclose(one, of_head + weight * (of_whole - of_head), rtol=1e-5)
    assert (np.abs(found.chosen - whole.chosen).max() < 1e-3) == (weight == 1)


@pytest.mark.parametrize("tokens_per_batch", [16, 200, 100_000])
def test_progress_adds_up_to_all_pairs(tokens_per_batch, tiny_model, random_pairs):
    heard: list[int] = []
    pair_logps(tiny_model, random_pairs(12, seed=0), tokens_per_batch, heard.append)
    assert sum(heard) == 12
    assert min(heard) >= 1
    assert (len(heard) == 1) == (tokens_per_batch == 100_000)


def test_columns_are_float64_and_hold_the_models_numbers_as_they_are(tiny_model, random_pairs):
    scores = pair_logps(tiny_model.to(torch.bfloat16), random_pairs(5, seed=0), 1000)
    assert scores.chosen.dtype == scores.rejected.dtype == np.float64
    np.testing.assert_array_equal(scores.chosen.astype(np.float32), scores.chosen)


def test_scoring_leaves_no_gradient_and_no_trace_of_inference_mode(tiny_model, random_pairs):
    """Weights that had become inference tensors could not be trained afterwards."""
    pairs = random_pairs(3, seed=0)
    tiny_model.requires_grad_(True)
    pair_logps(tiny_model, pairs, 1000)
    assert all(parameter.grad is None for parameter in tiny_model.parameters())
    tiny_model(torch.tensor([[1, 2]])).logits.sum().backward()
    assert tiny_model.lm_head.weight.grad is not None


def test_no_pairs_give_empty_columns(tiny_model):
    scores = pair_logps(tiny_model, [], 1000)
    assert scores.chosen.shape == scores.rejected.shape == (0,)


def test_difference_is_chosen_minus_rejected():
    logps = PairLogps(np.array([-1.0, -2.0]), np.array([-4.0, -1.5]))
    assert logps.difference.tolist() == [3.0, -0.5]
