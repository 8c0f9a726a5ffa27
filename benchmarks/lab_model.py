"""How the lab's base model was made, a small Llama that speaks the lab's language: about a minute on two cores.

python benchmarks/lab_model.py src/seqdpo/lab/base_model
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import BatchEncoding, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from seqdpo.lab.dialogues import FEATURES, LEVELS, N_QUESTIONS, N_WORDINGS, question, response

Progress: TypeAlias = Callable[[str], None]
Dialogue: TypeAlias = list[dict[str, str]]

_SPECIAL_TOKENS = ["<|bos|>", "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "initializer_range": 0.05,
}

_TRAINING: dict[str, Any] = {
    "vocab_size": 1024,
    "tokenizer_dialogues": 5000,
    "steps": 600,
    "batch_size": 16,
    "learning_rate": 4e-3,
    "warmup": 0.05,
    "seed": 0,
}


def build(folder: Path, progress: Progress) -> None:
    """Writes the model and its tokenizer in Hugging Face's form: stored in bfloat16, computed with in float32."""
    tokenizer = _trained_tokenizer()
    model = _trained_model(tokenizer, progress)
    tokenizer.save_pretrained(folder)
    model.bfloat16().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _trained_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be encoded and comes back, and almost every word of the lab is one token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_TRAINING["vocab_size"],
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sample = _dialogues(_TRAINING["seed"])
    lines = (message["content"] for _ in range(_TRAINING["tokenizer_dialogues"]) for message in next(sample))
    bpe.train_from_iterator(lines, trainer)
    # As in Llama 3, plain text gets a BOS; the chat template writes its own.
    bpe.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=_ARCHITECTURE["max_position_embeddings"],
    )


def _dialogues(seed: int) -> Iterator[Dialogue]:
    """Endless questions with answers whose features are at random levels: the base model prefers none."""
    rng = np.random.default_rng(seed)
    while True:
        asked = question(int(rng.integers(N_QUESTIONS)))
        levels = rng.choice(LEVELS, len(FEATURES)).tolist()
        wordings = rng.integers(N_WORDINGS, size=len(FEATURES)).tolist()
        answer = response(asked.topic, levels, wordings)
        yield [{"role": "user", "content": asked.text}, {"role": "assistant", "content": answer}]


def _trained_model(tokenizer: PreTrainedTokenizerFast, progress: Progress) -> LlamaForCausalLM:
    """One pass over fresh dialogues on the CPU, the loss on the responses alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_TRAINING["seed"])  # torch.manual_seed would reseed a GPU, too
        model = LlamaForCausalLM(_llama_config(tokenizer)).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _TRAINING["learning_rate"], _TRAINING["steps"], pct_start=_TRAINING["warmup"]
    )
    sample = _dialogues(_TRAINING["seed"] + 1)
    for step in range(_TRAINING["steps"]):
        loss = _response_loss(model, _batch(tokenizer, sample))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            progress(f"step {step} of {_TRAINING['steps']}, loss {loss.item():.2f}")
    return model.eval()


def _llama_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_ARCHITECTURE,
    )


def _batch(tokenizer: PreTrainedTokenizerFast, sample: Iterator[Dialogue]) -> BatchEncoding:
    texts = [tokenizer.apply_chat_template(next(sample), tokenize=False) for _ in range(_TRAINING["batch_size"])]
    return tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")


def _response_loss(model: LlamaForCausalLM, batch: BatchEncoding) -> Tensor:
    """Cross-entropy in nats a token over what follows <|assistant|>, up to and with <|end|>."""
    tokens = batch["input_ids"]  # (n_dialogues, n_tokens)
    is_start = tokens == _SPECIAL_TOKENS.index("<|assistant|>")
    in_response = (is_start.cumsum(1) > 0) & ~is_start & batch["attention_mask"].bool()
    return model(**batch, labels=tokens.masked_fill(~in_response, -100)).loss


if __name__ == "__main__":
    build(Path(sys.argv[1]), print)
