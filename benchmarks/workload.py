"""The work that the speed benchmarks share: random Llamas of several sizes, and real pairs of HH-RLHF.

The pairs come from `--data`, a copy of Anthropic/hh-rlhf (default: $SEQDPO_HH_RLHF, else the hub). A byte-level tokenizer of
8,000 entries is trained on them, so that a word takes about as many tokens as with Llama's; the models' embeddings are
larger, as Llama's are.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from seqdpo.cache import cache_dir
from seqdpo.preferences.pairs import Pair
from seqdpo.preferences.prepare import PreparedPair
from seqdpo.preferences.sources import read_candidates
from seqdpo.run.inputs import read_preferences
from seqdpo.study.config import Study
from seqdpo.study.objectives import HhRlhfObjective

SHAPES: dict[str, dict[str, Any]] = {
    "41M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8},
    "107M": {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 12, "num_attention_heads": 12},
}
VOCABULARY = 32_000
TOKENIZER_ENTRIES = 8_000
SPECIAL_TOKENS = ["<bos>", "<pad>", "<end>", "<system>", "<user>", "<assistant>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
DATA = os.environ.get("SEQDPO_HH_RLHF", "Anthropic/hh-rlhf")


def study_for(shape: str, dtype: str, n_pairs: int, data: str, **keys: Any) -> Study:
    """One objective, `harmless`, of n_pairs training pairs, with the reference configuration's keys."""
    return Study.model_validate(
        {
            "model_name_or_path": str(model_folder(shape, data)),
            "dtype": dtype,
            "objectives": {"harmless": objective(data).model_dump()},
            "max_train_pairs": n_pairs,
            "max_eval_pairs": n_pairs,
            "output_dir": "runs/unused",
            **keys,
        }
    )


def objective(data: str) -> HhRlhfObjective:
    return HhRlhfObjective(format="hh-rlhf", dataset_name=data, subset="harmless-base")


def pairs_of(study: Study) -> list[PreparedPair]:
    preferences, _ = read_preferences(study, lambda text: None)
    return preferences.objectives["harmless"].train


def model_folder(shape: str, data: str) -> Path:
    """Weights, tokenizer and chat template, made on first use."""
    folder = cache_dir() / "benchmarks" / shape
    if not (folder / "model.safetensors").is_file():
        tokenizer = _tokenizer(data)
        tokenizer.save_pretrained(folder)
        config = LlamaConfig(
            **SHAPES[shape],
            num_key_value_heads=4,
            vocab_size=VOCABULARY,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            LlamaForCausalLM(config).save_pretrained(folder)
    return folder


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
    for pair in read_candidates(objective(data)):
        if isinstance(pair, Pair):
            yield from (*(turn.content for turn in pair.prompt), pair.chosen, pair.rejected)
