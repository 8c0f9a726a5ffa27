"""Log-probabilities of the padded path against plain transformers code, over families of models."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from seqdpo.measure.scores import PairLogps, pair_logps
from seqdpo.policy.batches import batch_indices
from seqdpo.policy.library import keep_softcap
from seqdpo.policy.load import load_model
from seqdpo.policy.logps import response_logps
from seqdpo.policy.padding import padded_responses
from seqdpo.preferences.tokens import PairTokens

#: float32 carries 6e-8; sums of up to 60 token log-probabilities over a few matrix products lose some digits more.
TOLERANCE = 1e-5
VOCABULARY = 200

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 1500,
    "initializer_range": 0.2,
}
_GROUPED: dict[str, Any] = _SIZES | {"num_key_value_heads": 2}
#: Windows and caps are far below what the pairs reach, so that a path without them gives other numbers.
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_GROUPED),
    "qwen2": Qwen2Config(**_GROUPED),
    "qwen3": Qwen3Config(**_GROUPED, head_dim=12),
    "mistral": MistralConfig(**_GROUPED, sliding_window=16),
    "gemma2": Gemma2Config(
        **_GROUPED,
        head_dim=12,
        query_pre_attn_scalar=12,
        sliding_window=16,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3": Gemma3TextConfig(
        **_GROUPED,
        head_dim=12,
        query_pre_attn_scalar=12,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "phi": PhiConfig(**_GROUPED),
    "gpt_neox": GPTNeoXConfig(**_SIZES),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=1500,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    ),
}


@cache
def random_model(family: str, attention: str | None = None) -> PreTrainedModel:
    """The family's random model; every call gives the same weights. `attention`: None for the family's default."""
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(FAMILIES[family])]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = deepcopy(FAMILIES[family])  # older releases of transformers write the attention into the one given
        model = architecture._from_config(config, attn_implementation=attention)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # initialised to 0, which a path that loses them would not notice
                torch.nn.init.normal_(parameter, std=0.2)
    keep_softcap(model)
    return model.eval().requires_grad_(False)


def plain_logps(model: PreTrainedModel, pairs: Sequence[PairTokens]) -> tuple[Tensor, Tensor]:
    """Textbook code: pad on the right, all logits, log-softmax, gather, sum over the response."""
    prompts = [pair.prompt for pair in pairs] * 2
    responses = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    ids = [torch.tensor(np.concatenate([p, r]), dtype=torch.long) for p, r in zip(prompts, responses, strict=True)]
    input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=3)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    logps = model(input_ids=input_ids, attention_mask=mask).logits.float().log_softmax(dim=-1)
    token_logps = logps[:, :-1].gather(2, input_ids[:, 1:, None]).squeeze(2)
    sums = [
        token_logps[row, len(prompt) - 1 : len(prompt) + len(response) - 1].sum()
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]
    return torch.stack(sums[: len(pairs)]), torch.stack(sums[len(pairs) :])


def one_by_one(model: PreTrainedModel, pairs: Sequence[PairTokens]) -> tuple[Tensor, Tensor]:
    """Every sequence alone, so that no padding is anywhere."""
    chosen = [plain_logps(model, [pair._replace(rejected=pair.chosen)])[0] for pair in pairs]
    rejected = [plain_logps(model, [pair._replace(chosen=pair.rejected)])[0] for pair in pairs]
    return torch.cat(chosen), torch.cat(rejected)


def mixed_pairs(random_pairs: Callable[..., list[PairTokens]], seed: int) -> list[PairTokens]:
    """Lengths 1 to 60, among them prompts and responses of one token beside long ones."""
    long = random_pairs(4, seed, (30, 60), (30, 60), VOCABULARY)
    any_length = random_pairs(5, seed + 1, (1, 60), (1, 60), VOCABULARY)
    one_token_prompts = random_pairs(2, seed + 2, (1, 1), (1, 60), VOCABULARY)
    one_token_responses = random_pairs(2, seed + 3, (1, 60), (1, 1), VOCABULARY)
    return long + one_token_prompts + any_length + one_token_responses


@torch.no_grad()
def batch_logps(model: PreTrainedModel, pairs: Sequence[PairTokens]) -> Tensor:
    """All pairs in one left-padded batch; chosen, then rejected."""
    return torch.cat(response_logps(model, pairs))


def assert_same_scores(actual: PairLogps, expected: PairLogps) -> None:
    np.testing.assert_allclose(actual.chosen, expected.chosen, rtol=TOLERANCE)
    np.testing.assert_allclose(actual.rejected, expected.rejected, rtol=TOLERANCE)


@pytest.mark.parametrize("seed", [10, 20, 30])
@pytest.mark.parametrize("family", FAMILIES)
def test_logps_equal_right_padded_textbook_code(family, seed, random_pairs):
    """The oracle also attends by the eager formula, so the attention kernel of the padded path is tested, too."""
    pairs = mixed_pairs(random_pairs, seed)
    with torch.no_grad():
        expected = torch.cat(plain_logps(random_model(family, "eager"), pairs))
    torch.testing.assert_close(batch_logps(random_model(family), pairs), expected, rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_logps_equal_those_of_each_sequence_without_padding(family, random_pairs):
    pairs = mixed_pairs(random_pairs, 40)
    with torch.no_grad():
        expected = torch.cat(one_by_one(random_model(family), pairs))
    torch.testing.assert_close(batch_logps(random_model(family), pairs), expected, rtol=TOLERANCE, atol=0)


def test_a_loaded_model_keeps_the_cap_of_its_scores(make_study, tmp_path, random_pairs):
    """SDPA, which transformers 5.20 takes for Gemma 2, leaves the cap out."""
    eager = random_model("gemma2", "eager")
    deepcopy(eager).save_pretrained(tmp_path / "gemma2")
    pairs = mixed_pairs(random_pairs, 45)
    loaded = load_model(make_study(model_name_or_path=str(tmp_path / "gemma2"))).cpu()
    with torch.no_grad():
        expected = torch.cat(one_by_one(eager, pairs))
    torch.testing.assert_close(batch_logps(loaded, pairs), expected, rtol=TOLERANCE, atol=0)


def test_one_token_response_after_one_token_prompt_is_one_entry_of_the_softmax():
    """The smallest pair: log p(5 | 9) and log p(2 | 9), read off one row of the model's log-softmax."""
    pair = PairTokens(np.array([9]), np.array([5]), np.array([2]), truncated=False)
    model = random_model("llama")
    with torch.no_grad():
        row = model(torch.tensor([[9]])).logits[0, 0].log_softmax(dim=0)
    torch.testing.assert_close(batch_logps(model, [pair]), row[[5, 2]], rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_is_finite_and_equals_that_of_textbook_code(family, random_pairs):
    """Rows of padding attend to nothing; no NaN may reach the weights from there.

    Tolerance: relative to the norm of each gradient, for single entries may cancel to nearly nothing.
    """
    pairs = mixed_pairs(random_pairs, 50)
    model = deepcopy(random_model(family)).requires_grad_(True)
    parameters = list(model.parameters())
    ours = response_logps(model, pairs)
    gradients = torch.autograd.grad((ours.chosen - ours.rejected).sum(), parameters)
    chosen, rejected = plain_logps(model, pairs)
    expected = torch.autograd.grad((chosen - rejected).sum(), parameters)
    for gradient, other in zip(gradients, expected, strict=True):
        assert (gradient - other).norm() <= TOLERANCE * other.norm()


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
@pytest.mark.parametrize("tokens_per_batch", [16, 100, 500, 2000, 100_000])
def test_scores_do_not_depend_on_the_token_budget(family, tokens_per_batch, random_pairs):
    pairs = mixed_pairs(random_pairs, 60)
    model = random_model(family)
    with torch.no_grad():
        chosen, rejected = one_by_one(model, pairs)
    expected = PairLogps(chosen.double().numpy(), rejected.double().numpy())
    assert_same_scores(pair_logps(model, pairs, tokens_per_batch), expected)


@pytest.mark.parametrize("seed", range(3))
def test_scores_follow_the_pairs_into_any_order(seed, random_pairs):
    pairs = mixed_pairs(random_pairs, 70)
    order = np.random.default_rng(seed).permutation(len(pairs))
    scores = pair_logps(random_model("llama"), pairs, 300)
    shuffled = pair_logps(random_model("llama"), [pairs[i] for i in order], 300)
    assert_same_scores(shuffled, PairLogps(scores.chosen[order], scores.rejected[order]))


def test_swapping_the_responses_swaps_the_scores(random_pairs):
    pairs = mixed_pairs(random_pairs, 80)
    swapped = [pair._replace(chosen=pair.rejected, rejected=pair.chosen) for pair in pairs]
    scores = pair_logps(random_model("llama"), pairs, 1000)
    assert_same_scores(pair_logps(random_model("llama"), swapped, 1000), PairLogps(scores.rejected, scores.chosen))


def test_logps_of_a_bfloat16_model_are_normalised_in_float32(random_pairs):
    """Summed over the whole vocabulary, the probabilities of the one next token are 1 to float32's precision.

    In bfloat16 (8 bits) each log-probability would be off by up to 2^-8 of its size, about 0.02 at -5.
    """
    model = deepcopy(random_model("llama")).to(torch.bfloat16)
    prompt = random_pairs(1, 0, (5, 5), vocabulary=VOCABULARY)[0].prompt
    every_token = np.arange(VOCABULARY, dtype=np.int32)
    pairs = [PairTokens(prompt, every_token[i : i + 1], every_token[:1], truncated=False) for i in every_token]
    logps = batch_logps(model, pairs)[: len(pairs)]
    assert logps.dtype == torch.float32
    assert logps.double().exp().sum().item() == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize("tokens_per_batch", [16, 64, 200, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_every_pair_is_in_one_batch_and_batches_keep_the_budget(seed, tokens_per_batch, random_pairs):
    pairs = random_pairs(50, seed, (1, 60), (1, 60))
    batches = batch_indices(random_model("llama"), pairs, tokens_per_batch)
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    for batch in batches:
        padded_tokens = 2 * len(batch) * max(pairs[i].longest for i in batch)
        assert padded_tokens <= tokens_per_batch or len(batch) == 1


def test_batch_pads_on_the_left_so_that_responses_end_together():
    """By hand: prompts [7] and [8, 9], responses of one to three tokens."""
    pairs = [
        PairTokens(np.array([7]), np.array([1, 2]), np.array([3]), truncated=False),
        PairTokens(np.array([8, 9]), np.array([4]), np.array([5, 6, 5]), truncated=False),
    ]
    batch = padded_responses(pairs, torch.device("cpu"))
    assert batch.input_ids.tolist() == [[0, 0, 7, 1, 2], [0, 0, 0, 7, 3], [0, 0, 8, 9, 4], [8, 9, 5, 6, 5]]
    assert batch.attention_mask.tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch.response_mask.tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 1], [1, 1, 1]]
