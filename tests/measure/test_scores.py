"""Scores of pairs as columns: in the order of the pairs, in float64, with progress that adds up."""

import numpy as np
import pytest
import torch

from seqdpo.measure.scores import PairLogps, n_tokens_read, objective_logps, pair_logps, sharing
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.logps import tree_logps
from seqdpo.policy.singles import use_singles
from seqdpo.preferences.tokens import PairTokens


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


@pytest.fixture
def read(monkeypatch):
    """The responses that the model has read, as text, in the order in which it did."""
    found = []

    def listening(model, trees, weights=None):
        found.extend(str((tree.prompt.tolist(), one.tolist())) for tree in trees for one in tree.responses)
        return tree_logps(model, trees, weights)

    monkeypatch.setattr("seqdpo.measure.scores.tree_logps", listening)
    return found


@pytest.fixture
def two_labels(random_pairs):
    """As in UltraFeedback: 8 prompts with 4 responses, of which each of two objectives compares two. One is apart.

    helpful: 0 over 1; honest: 0 over 1 for the first four prompts, 2 over 1 for the next two, 3 over 2 for the last.
    """
    generator = np.random.default_rng(1)

    def text():
        return generator.integers(300, size=generator.integers(1, 20, endpoint=True), dtype=np.int32)

    prompts = [text() for _ in range(8)]
    responses = [[text() for _ in range(4)] for _ in prompts]

    def pair(i, chosen, rejected):
        return PairTokens(prompts[i].copy(), responses[i][chosen].copy(), responses[i][rejected], truncated=False)

    others = [(0, 1)] * 4 + [(2, 1)] * 2 + [(3, 2)] * 2
    return {
        "helpful": [pair(i, 0, 1) for i in range(8)],
        "apart": random_pairs(3, seed=9),
        "honest": [pair(i, *others[i]) for i in range(8)],
    }


@pytest.mark.parametrize("path", ["padded", "packed", "single"])
@pytest.mark.parametrize("tokens_per_batch", [16, 150, 100_000])
def test_a_response_of_several_objectives_is_read_once(tokens_per_batch, path, two_labels, tiny_model, read):
    """22 of the 32 responses are distinct: 8 x 2, one more for the next two prompts and two more for the last two.

    1e-5 beside one unpadded pass a sequence: float32 sums of some 20 terms in another order.
    """
    expected = {
        name: [[logp(tiny_model, pair.prompt, response) for response in pair.responses] for pair in pairs]
        for name, pairs in two_labels.items()
    }
    if path == "packed":
        assert choose_engine(tiny_model, 500) == "packed trees (segments)"
    use_singles(tiny_model, path == "single")
    heard: list[int] = []
    found = objective_logps(tiny_model, two_labels, tokens_per_batch, heard.append)
    assert list(found) == list(two_labels)
    assert sum(heard) == 19
    assert len(read) == len(set(read)) == 22 + 6
    for name, logps in found.items():
        np.testing.assert_allclose(np.stack(logps, axis=1), expected[name], rtol=1e-5)
    # not the same up to rounding, but the same number
    np.testing.assert_array_equal(found["helpful"].chosen[:4], found["honest"].chosen[:4])
    np.testing.assert_array_equal(found["helpful"].rejected[:6], found["honest"].rejected[:6])


def test_objectives_with_a_prompt_in_common_are_read_together(two_labels, random_pairs):
    assert sharing(two_labels) == [["apart"], ["helpful", "honest"]]
    assert sharing(two_labels, tail_weight=0.5) == [["helpful"], ["apart"], ["honest"]]
    bridge = {**two_labels, "bridge": [two_labels["apart"][0], two_labels["honest"][7]]}
    assert sharing(bridge) == [["helpful", "apart", "honest", "bridge"]]


def test_an_objective_that_shares_nothing_keeps_its_bits_whatever_is_beside_it(two_labels, tiny_model):
    alone = pair_logps(tiny_model, two_labels["apart"], 150)
    np.testing.assert_array_equal(objective_logps(tiny_model, two_labels, 150)["apart"], alone)


def test_weighed_tokens_share_nothing(two_labels, tiny_model, read):
    """A weight depends on the pair's other response."""
    found = objective_logps(tiny_model, two_labels, 150, tail_weight=0.3)
    assert len(read) == 38
    for name, pairs in two_labels.items():
        np.testing.assert_allclose(found[name], pair_logps(tiny_model, pairs, 150, tail_weight=0.3), rtol=1e-5)


def test_tokens_that_are_read_by_hand():
    """Prompt of 3; [1 2] and [3]; the other objective swaps them, and a third compares [1 2] with [4 5 6]."""

    def pair(chosen, rejected):
        return PairTokens(np.arange(3), np.array(chosen), np.array(rejected), truncated=False)

    objectives = {"a": [pair([1, 2], [3])], "b": [pair([3], [1, 2])], "c": [pair([1, 2], [4, 5, 6])]}
    assert n_tokens_read(objectives) == 3 + 2 + 1 + 3
    assert n_tokens_read(objectives, tail_weight=0.5) == 6 + 6 + 8
