"""What many tests need: a tiny model built here (nothing is downloaded), a small study, random pairs.

torch and transformers are imported where a model is made, so that tests of tables and pages start at once.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqdpo.preferences.tokens import PairTokens
from seqdpo.study.config import Study

SPECIAL_TOKENS = ["<bos>", "<pad>", "<end>", "<system>", "<user>", "<assistant>"]
TINY_VOCABULARY = 300  # the specials, 256 bytes and a few merges; random pairs use these ids
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
#: Frequent words of the sample become tokens of their own, so texts mix whole words and single bytes.
SAMPLE = "the tests ask the model what the answer is and the answer is that the tests ask the model " * 20


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`-W error` on the command line outranks pyproject.toml; marks outrank both, so its exceptions hold."""
    for item in items:
        for entry in config.getini("filterwarnings"):
            item.add_marker(pytest.mark.filterwarnings(entry), append=False)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models gain nothing from threads, and the threads of several test workers would fight for the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the hub of the world; those in tests/hub have one of their own, and their own processes."""
    monkeypatch.setattr("seqdpo.hub.hub_answers", lambda: False)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, its tokenizer and chat template, in Hugging Face's form.

    The weights are drawn ten times wider than for training, so that log-probabilities differ from token to token.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = _tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=TINY_VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([SAMPLE], trainer)
    # as in Llama 3, plain text gets a BOS from the tokenizer and a conversation from its template
    bpe.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<bos>",
        eos_token="<end>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture
def make_study(tiny_model_folder: Path, tmp_path: Path) -> Callable[..., Study]:
    """A valid study of the tiny model with two lab objectives; `make_study(beta=0.1)` changes one key."""

    def make(**overrides: Any) -> Study:
        keys = {
            "model_name_or_path": str(tiny_model_folder),
            "lora_r": 4,
            "lora_alpha": 8,
            "objectives": {"helpful": {"format": "lab"}, "harmless": {"format": "lab", "angle": 90}},
            "output_dir": str(tmp_path / "run"),
        }
        return Study.model_validate(keys | overrides)

    return make


@pytest.fixture
def tiny_model(make_study: Callable[..., Study]) -> Any:
    """The tiny model as a study loads it: frozen, without dropout, in evaluation mode; fresh for every test."""
    from seqdpo.policy.load import load_model

    return load_model(make_study()).cpu()


@pytest.fixture(scope="session")
def random_pairs() -> Callable[..., list[PairTokens]]:
    """`random_pairs(n, seed)`: n pairs of random tokens, lengths drawn from the two ranges, ends included."""

    def draw(
        n: int,
        seed: int,
        prompt: tuple[int, int] = (1, 20),
        response: tuple[int, int] = (1, 20),
        vocabulary: int = TINY_VOCABULARY,
    ) -> list[PairTokens]:
        generator = np.random.default_rng(seed)

        def ids(lengths: tuple[int, int]) -> np.ndarray:
            return generator.integers(vocabulary, size=generator.integers(*lengths, endpoint=True), dtype=np.int32)

        return [PairTokens(ids(prompt), ids(response), ids(response), truncated=False) for _ in range(n)]

    return draw


@pytest.fixture
def base_logps_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of base log-probabilities for one test; the lab's model stays where it is."""
    monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "base_logps"


@pytest.fixture
def seqdpo(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process, on a screen of 80 columns: `seqdpo("gate", run, ...)` gives
    `(code, output, errors)`."""
    from seqdpo import cli

    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["seqdpo", *map(str, arguments)])
        code: int = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        return code, *capfd.readouterr()

    return call
