"""The work that the speed benchmarks share: random Llamas of several sizes, real pairs of HH-RLHF, made-up pairs.

The real pairs come from `--data`, a copy of Anthropic/hh-rlhf (default: $SEQDPO_HH_RLHF, else the hub). A byte-level
tokenizer of 8,000 entries is trained on them, so that a word takes about as many tokens as with Llama's; the models'
embeddings are larger, as Llama's are.
"""

import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from seqdpo.cache import cache_dir
from seqdpo.measure.scores import pair_logps
from seqdpo.policy.load import device
from seqdpo.preferences.pairs import Pair
from seqdpo.preferences.prepare import PreparedPair
from seqdpo.preferences.sources import read_candidates
from seqdpo.preferences.tokens import PairTokens
from seqdpo.runner.inputs import read_preferences
from seqdpo.study.config import Study
from seqdpo.study.objectives import HhRlhfObjective
from seqdpo.training.pairs import TrainingPairs

SHAPES: dict[str, dict[str, Any]] = {
    "41M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8},
    "107M": {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 12, "num_attention_heads": 12},
    "1.2B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": False,
    },
}
SMALL: dict[str, Any] = {"num_key_value_heads": 4, "vocab_size": 32_000, "tie_word_embeddings": True}
TOKENIZER_ENTRIES = 8_000
SPECIAL_TOKENS = ["<bos>", "<pad>", "<end>", "<system>", "<user>", "<assistant>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
DATA = os.environ.get("SEQDPO_HH_RLHF", "Anthropic/hh-rlhf")
#: Median tokens of prompt and response in HH-RLHF's harmless-base under the tokenizer below, and the spread of their
#: logarithms.
HH_PROMPT, HH_RESPONSE, HH_SPREAD = 95, 37, 0.9


def study_for(shape: str, dtype: str, n_pairs: int, data: str, **keys: Any) -> Study:
    """One objective, `harmless`, of n_pairs training and as many evaluation pairs, with the reference's keys."""
    given = {
        "model_name_or_path": str(model_folder(shape, data)),
        "dtype": dtype,
        "objectives": {"harmless": objective(data).model_dump()},
        "max_train_pairs": n_pairs,
        "max_eval_pairs": n_pairs,
        "output_dir": "runs/unused",
    }
    return Study.model_validate(given | keys)


def objective(data: str) -> HhRlhfObjective:
    return HhRlhfObjective(format="hh-rlhf", dataset_name=data, subset="harmless-base")


def pairs_of(study: Study) -> list[PreparedPair]:
    preferences, _ = read_preferences(study, lambda text: None)
    return preferences.objectives["harmless"].train


def training_pairs(base: PreTrainedModel, tokens: Sequence[PairTokens], study: Study) -> TrainingPairs:
    """Pairs as a stage takes them, the base their reference."""
    logps = pair_logps(base, tokens, study.tokens_per_batch)
    return TrainingPairs([str(i) for i in range(len(tokens))], tokens, *logps)


def made_up_pairs(n: int, prompt: int, response: int, spread: float, seed: int = 0) -> list[PairTokens]:
    """Random tokens; lengths are log-normal with these medians and at most 1024 and 512."""
    generator = np.random.default_rng(seed)

    def text(median: int, longest: int) -> Any:
        length = int(np.clip(generator.lognormal(np.log(median), spread), 1, longest))
        return generator.integers(0, TOKENIZER_ENTRIES, length).astype(np.int32)

    triples = [(text(prompt, 1024), text(response, 512), text(response, 512)) for _ in range(n)]
    return [PairTokens(*triple, truncated=False) for triple in triples]


def random_model(shape: str, dtype: str, **config: Any) -> LlamaForCausalLM:
    """On the accelerator where there is one, frozen, in evaluation mode."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device()):
            model = LlamaForCausalLM(LlamaConfig(**SMALL | SHAPES[shape] | config, max_position_embeddings=8192))
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def model_folder(shape: str, data: str) -> Path:
    """Weights, tokenizer and chat template, made on first use."""
    folder = cache_dir() / "benchmarks" / shape
    if not (folder / "model.safetensors").is_file():
        tokenizer = _tokenizer(data)
        tokenizer.save_pretrained(folder)
        special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            random_model(shape, "float32", **special).save_pretrained(folder)
    return folder


def peak_megabytes() -> float:
    """The most memory of this process so far: on the accelerator, or resident with all libraries."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _tokenizer(data: str) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENIZER_ENTRIES,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(data), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<bos>", eos_token="<end>", pad_token="<pad>", chat_template=CHAT_TEMPLATE
    )


def _texts(data: str) -> Iterator[str]:
    for pair in read_candidates("one", objective(data)):
        if isinstance(pair, Pair):
            yield from (*(turn.content for turn in pair.prompt), pair.chosen, pair.rejected)
