"""The lab's base model comes with the package, speaks the lab's language and has no preferences of its own."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from seqdpo.cache import cache_dir
from seqdpo.lab.dialogues import FEATURES, LEVELS, N_WORDINGS, question, response
from seqdpo.lab.model import lab_model_path
from seqdpo.lab.preferences import candidates
from seqdpo.preferences.pairs import Pair
from seqdpo.study.objectives import LabObjective


@pytest.fixture(scope="module")
def path() -> Path:
    return lab_model_path()


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def model(path: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(path).eval()


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    found = candidates("any", LabObjective(format="lab", n_pairs=200))
    return [pair for pair in found if isinstance(pair, Pair)]


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQDPO_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("SEQDPO_CACHE", "")
    assert cache_dir() == Path.home() / ".cache" / "seqdpo"


def test_the_model_has_about_a_million_parameters_few_of_them_in_the_vocabulary(model, tokenizer):
    n_parameters = sum(weight.numel() for weight in model.parameters())
    assert 0.8e6 < n_parameters < 1.2e6
    assert 2 * model.model.embed_tokens.weight.numel() < n_parameters / 3
    assert len(tokenizer) == model.config.vocab_size <= 1024


@pytest.mark.parametrize("text", ["How do I fix it?", "  two  spaces ,\n\ttab", "naïve 日本語 🙂", ""])
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_lab_text_is_about_one_token_a_word(tokenizer, pairs):
    for pair in pairs:
        assert 10 <= len(tokenizer.tokenize(pair.prompt[0].content)) <= 25
        assert 15 <= len(tokenizer.tokenize(pair.chosen)) <= 30


def test_plain_text_and_conversations_begin_with_one_bos(tokenizer):
    for tokens in (tokenizer.encode("Hello"), rendered(tokenizer, [{"role": "user", "content": "Hello"}], False)):
        assert [token == tokenizer.bos_token_id for token in tokens].index(True) == 0
        assert tokens.count(tokenizer.bos_token_id) == 1


def rendered(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], prompt: bool) -> list[int]:
    tokens: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
    return tokens


def test_prompt_tokens_are_a_prefix_of_prompt_and_response_which_ends_with_eos(tokenizer, pairs):
    for pair in pairs:
        asked = [message._asdict() for message in pair.prompt]
        prompt = rendered(tokenizer, asked, True)
        whole = rendered(tokenizer, [*asked, {"role": "assistant", "content": pair.chosen}], False)
        assert whole[: len(prompt)] == prompt
        assert tokenizer.decode(whole[len(prompt) : -1]) == pair.chosen
        assert whole[-1] == tokenizer.eos_token_id


def test_every_response_is_about_as_likely_as_any_other_whatever_its_levels(model, tokenizer):
    rng = np.random.default_rng(0)
    levels = rng.choice(LEVELS, size=(200, len(FEATURES)))
    logps = np.array([response_logp(model, tokenizer, number, shown) for number, shown in enumerate(levels.tolist())])
    # the entropy of the language: every feature has three levels in two wordings
    uniform = -len(FEATURES) * math.log(len(LEVELS) * N_WORDINGS)
    assert logps.mean() == pytest.approx(uniform, abs=0.3)  # 3%: fully trained
    effects, *_ = np.linalg.lstsq(np.column_stack([levels, np.ones(200)]), logps, rcond=None)
    assert np.abs(effects[:-1]).max() < 0.2  # nats a level; a stage of DPO moves them by whole nats


def response_logp(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, number: int, levels: list[int]) -> float:
    asked = question(number * 1_234_567)
    text = response(asked.topic, levels, [number % N_WORDINGS] * len(FEATURES))
    prompt = rendered(tokenizer, [{"role": "user", "content": asked.text}], True)
    tokens = torch.tensor([prompt + tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id]])
    with torch.no_grad():
        logp = model(tokens).logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    return float(logp[len(prompt) - 1 :].sum())
