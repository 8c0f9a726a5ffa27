"""Packed trees: laid out as by hand, and the same numbers as the padded path wherever they are used."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_logps import _GROUPED, FAMILIES, TOLERANCE, VOCABULARY, mixed_pairs, random_model
from transformers import GraniteConfig, GraniteForCausalLM, LlamaConfig, LlamaForCausalLM

from seqdpo.measure.scores import pair_logps
from seqdpo.policy.batches import batch_indices
from seqdpo.policy.engine import PACKED, choose_engine
from seqdpo.policy.head import Head, head_of, token_logps
from seqdpo.policy.library import checkpointing
from seqdpo.policy.logps import response_logps
from seqdpo.policy.lora import fuse_lora
from seqdpo.policy.packing import Tree, packed_trees
from seqdpo.policy.segments import SegmentAttention
from seqdpo.policy.singles import single_logps
from seqdpo.preferences.tokens import PairTokens


def packed(model, longest=200):
    """A copy of the model that reads packed trees."""
    copy = deepcopy(model)
    assert choose_engine(copy, longest).startswith(PACKED)
    return copy


def with_lora(model, targets="all-linear"):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
        config.fan_in_fan_out = model.config.model_type == "gpt2"  # its layers keep their weights transposed
        policy = get_peft_model(model, config)
        fuse_lora(policy)
        return policy


def gradients(model, pairs):
    logps = response_logps(model, pairs)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.autograd.grad((logps.chosen - 0.7 * logps.rejected).sum(), parameters)


def test_two_pairs_are_packed_as_by_hand():
    pairs = [
        PairTokens(np.array([7, 8]), np.array([1]), np.array([2, 3]), truncated=False),
        PairTokens(np.array([9]), np.array([4, 5]), np.array([6]), truncated=False),
    ]
    batch = packed_trees(pairs, torch.device("cpu"))
    assert batch.input_ids.tolist() == [[7, 8, 1, 2, 3, 9, 4, 5, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 2, 3, 0, 1, 2, 1]]
    assert batch.trees == (Tree(0, (2, 3, 5)), Tree(5, (6, 8, 9)))
    # [1], [2 3], [4 5], [6]: each token with the place before it
    assert batch.targets.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.predictors.tolist() == [1, 1, 3, 5, 6, 5]
    assert batch.responses.tolist() == [0, 1, 1, 2, 2, 3]
    assert [tree.longest for tree in batch.trees] == [4, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_verified(family):
    assert choose_engine(deepcopy(random_model(family)), longest=200).startswith(PACKED)


def test_a_family_that_cannot_be_expressed_falls_back_with_the_reason(monkeypatch):
    """Attention sinks, say: whatever the attention refuses, the padded path can read."""

    def refuse(*arguments):
        raise NotImplementedError("attention with sinks")

    monkeypatch.setattr("seqdpo.policy.segments.SegmentAttention.attend", refuse)
    model = deepcopy(random_model("llama"))
    before = model.config._attn_implementation
    assert choose_engine(model, 200).startswith("padded: LlamaForCausalLM cannot read packed trees")
    assert model.config._attn_implementation == before


def test_a_back_end_that_cannot_is_passed_over(monkeypatch):
    """FlashAttention over sequences is for accelerators: on a CPU it raises."""
    monkeypatch.setattr("seqdpo.policy.engine.back_ends_for", lambda device, dtype: ["sequences", "segments"])
    assert choose_engine(deepcopy(random_model("llama")), 200) == f"{PACKED} (segments)"


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_logps_equal_padded_ones(family, seed, random_pairs):
    pairs = mixed_pairs(random_pairs, seed)
    model = random_model(family)
    with torch.no_grad():
        expected = torch.cat(response_logps(model, pairs))
        found = torch.cat(response_logps(packed(model), pairs))
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_adapter_gradients_equal_padded_ones(family, random_pairs):
    """Relative to the norm of each gradient, for single entries may cancel to nearly nothing."""
    pairs = mixed_pairs(random_pairs, 4)
    expected = gradients(with_lora(deepcopy(random_model(family))), pairs)
    found = gradients(with_lora(packed(random_model(family))), pairs)
    assert len(found) == len(expected) > 0
    for gradient, other in zip(found, expected, strict=True):
        assert (gradient - other).norm() <= TOLERANCE * other.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_trees_of_up_to_700_tokens_agree_too(family, random_pairs):
    """Log-probabilities and adapter gradients; a response of one token, a prompt of one, and identical responses."""
    pairs = random_pairs(2, 1, (1, 700), (1, 700), VOCABULARY)
    pairs += random_pairs(1, 2, (700, 700), (1, 1), VOCABULARY) + random_pairs(1, 3, (1, 1), (1, 700), VOCABULARY)
    pairs.append(pairs[0]._replace(rejected=pairs[0].chosen))
    plain, tree = with_lora(deepcopy(random_model(family))), with_lora(packed(random_model(family), 1400))
    with torch.no_grad():
        expected, found = response_logps(plain, pairs), response_logps(tree, pairs)
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=TOLERANCE, atol=0)
    assert found.chosen[-1] == pytest.approx(found.rejected[-1].item(), rel=TOLERANCE)
    for gradient, other in zip(gradients(tree, pairs), gradients(plain, pairs), strict=True):
        assert (gradient - other).norm() <= TOLERANCE * other.norm()


def test_a_response_does_not_see_the_other_one(random_pairs):
    pairs = random_pairs(3, 0, (5, 20), (5, 20), VOCABULARY)
    others = [pair._replace(rejected=pair.chosen[::-1].copy()) for pair in pairs]
    model = packed(random_model("llama"))
    with torch.no_grad():
        torch.testing.assert_close(response_logps(model, pairs).chosen, response_logps(model, others).chosen)


def test_checkpointed_activations_give_the_same_gradients(random_pairs):
    pairs = mixed_pairs(random_pairs, 5)
    plain = gradients(with_lora(packed(random_model("llama"))), pairs)
    model = with_lora(packed(random_model("llama")))
    with checkpointing(model.get_base_model()):
        checkpointed = gradients(model.train(), pairs)
    for gradient, other in zip(checkpointed, plain, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("tokens_per_batch", [16, 100, 500, 100_000])
def test_packed_scores_do_not_depend_on_the_token_budget(tokens_per_batch, random_pairs):
    pairs = mixed_pairs(random_pairs, 6)
    expected = pair_logps(random_model("llama"), pairs, 1000)
    found = pair_logps(packed(random_model("llama")), pairs, tokens_per_batch)
    np.testing.assert_allclose(np.stack(found), np.stack(expected), rtol=TOLERANCE)


def test_packed_batches_count_distinct_tokens(random_pairs):
    pairs = random_pairs(50, 0, (1, 60), (1, 60))
    batches = batch_indices(packed(random_model("llama")), pairs, 300)
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    sizes = [sum(pairs[i].n_tokens for i in batch) for batch in batches]
    assert all(size <= 300 or len(batch) == 1 for size, batch in zip(sizes, batches, strict=True))
    assert min(a + pairs[b[0]].n_tokens for a, b in zip(sizes, batches[1:], strict=False)) > 300  # none half empty


def test_a_window_that_never_reaches_the_attention_is_found_out(monkeypatch):
    """By a pair longer than the window; a study without such long pairs has nothing to lose."""
    attend = SegmentAttention.attend
    monkeypatch.setattr(SegmentAttention, "attend", lambda self, *given: attend(self, *given[:5], None))
    model = deepcopy(random_model("mistral"))
    model.config.sliding_window = 40
    assert choose_engine(deepcopy(model), 40).startswith(PACKED)
    assert choose_engine(model, 41).startswith("padded: packed trees differ from single sequences")


def test_a_window_that_holds_the_longest_sequence_is_no_obstacle(random_pairs):
    pairs = random_pairs(6, 0, (1, 8), (1, 8), VOCABULARY)
    model = deepcopy(random_model("mistral"))
    model.config.sliding_window = 32
    expected = pair_logps(model, pairs, 100)
    np.testing.assert_allclose(np.stack(pair_logps(packed(model, 32), pairs, 100)), np.stack(expected), rtol=TOLERANCE)


def test_an_adapter_on_the_head_falls_back():
    assert "adapter on the head" in choose_engine(deepcopy(random_model("llama")), 10, ["q_proj", "lm_head"])


def test_a_head_that_is_no_plain_linear_layer_is_never_read_by_its_weight_alone(random_pairs):
    model = with_lora(packed(random_model("llama")), ["lm_head"])
    with pytest.raises(NotImplementedError, match="head"):
        response_logps(model, random_pairs(1, 0))


def test_a_family_that_scales_its_logits_is_scaled():
    config = GraniteConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        logits_scaling=8.0,
    )
    model = GraniteForCausalLM(config).eval().requires_grad_(False)
    assert head_of(model).scale == 1 / 8
    assert choose_engine(model, 100).startswith(PACKED)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_heads_own_gradient_equals_autograds(softcap, scale, chunk, monkeypatch):
    monkeypatch.setattr("seqdpo.policy.head.LOGITS_PER_CHUNK", chunk * 50)
    torch.manual_seed(0)
    weight, bias = torch.randn(50, 8), torch.randn(50)
    hidden = torch.randn(20, 8, requires_grad=True)
    targets, upstream = torch.randint(50, (20,)), torch.randn(20)
    logits = torch.nn.functional.linear(hidden, weight, bias) * scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    found = token_logps(hidden, targets, Head(weight, bias, scale, softcap))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, hidden, upstream)[0], torch.autograd.grad(expected, hidden, upstream)[0]
    )


def test_a_bfloat16_model_is_verified_too(random_pairs):
    """bfloat16 keeps 8 bits: a sum of up to 60 token log-probabilities may differ by a few parts in a hundred."""
    pairs = mixed_pairs(random_pairs, 7)
    model = deepcopy(random_model("llama")).to(torch.bfloat16)
    expected = np.stack(pair_logps(model, pairs, 1000))
    np.testing.assert_allclose(np.stack(pair_logps(packed(model), pairs, 1000)), expected, rtol=3e-2)


def test_a_position_encoding_that_depends_on_the_longest_text_is_read_singly(random_pairs):
    """longrope: texts of more than 32 tokens turn by other angles, and in a batch so would their neighbours."""
    torch.manual_seed(0)
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 32}
    rope |= {"short_factor": [1.0] * 6, "long_factor": [4.0] * 6}
    config = LlamaConfig(**_GROUPED, rope_parameters=rope)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    pairs = random_pairs(8, 4, (1, 40), (1, 20), VOCABULARY)
    with torch.no_grad():
        expected = single_logps(model, pairs).view(-1, 2).T.double().numpy()
    assert choose_engine(deepcopy(model), 32).startswith(PACKED)  # no text is that long
    assert choose_engine(model, 60).startswith("single sequences")
    np.testing.assert_allclose(np.stack(pair_logps(model, pairs, 500)), expected, rtol=TOLERANCE)
