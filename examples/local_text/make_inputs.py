"""Makes what the study beside this file needs, from a local copy of HH-RLHF: a small Llama, and a second objective.

    python examples/local_text/make_inputs.py --hh-rlhf DIR     # DIR holds harmless-base/test.jsonl.gz
    seqdpo run examples/local_text/study.yaml

The model is a Llama-architecture folder as any other (config.json, tokenizer, model.safetensors), of about five
million parameters and trained on the dialogues for a few minutes: enough to run the real thing, not to chat.
The second objective prefers the shorter of the two answers, in TRL's conversational preference format.
"""

import argparse
import gzip
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from seqdpo.preferences.datasets.hh_rlhf import candidates
from seqdpo.preferences.pairs import Pair
from seqdpo.study.objectives import HhRlhfObjective

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SPECIAL_TOKENS = ["<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"]
BLOCK = 256  # tokens of a training sequence


def main() -> None:
    arguments = parser().parse_args()
    torch.manual_seed(0)
    pairs = read_pairs(arguments.hh_rlhf)
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    n_written = write_shorter_answers(pairs, output / "brief.jsonl")
    tokenizer = trained_tokenizer(pairs)
    model = trained_model(tokenizer, pairs, arguments.steps)
    tokenizer.save_pretrained(output / "model")
    model.save_pretrained(output / "model")
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{output}/model: {size:,} parameters; {output}/brief.jsonl: {n_written:,} pairs")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hh-rlhf", type=Path, required=True, help="a local copy of Anthropic/hh-rlhf")
    parser.add_argument("--output", type=Path, default=Path("runs/local_text/inputs"))
    parser.add_argument("--steps", type=int, default=150, help="of language-model training")
    return parser


def read_pairs(folder: Path) -> list[Pair]:
    path = folder / "harmless-base" / "test.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    objective = HhRlhfObjective(format="hh-rlhf", subset="harmless-base")
    return [pair for pair in candidates(rows, objective, None, str(path)) if isinstance(pair, Pair)]


def write_shorter_answers(pairs: list[Pair], path: Path) -> int:
    """The same dialogues, the shorter answer as chosen; answers of one length make no pair."""
    unequal = [pair for pair in pairs if len(pair.chosen) != len(pair.rejected)]
    with path.open("w", encoding="utf-8") as file:
        for pair in unequal:
            shorter, longer = sorted((pair.chosen, pair.rejected), key=len)
            row = {
                "prompt": [message._asdict() for message in pair.prompt],
                "chosen": [{"role": "assistant", "content": shorter}],
                "rejected": [{"role": "assistant", "content": longer}],
                "characters_saved": len(longer) - len(shorter),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(unequal)


def trained_tokenizer(pairs: list[Pair]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        (text for pair in pairs for text in (pair.chosen, pair.rejected, *(m.content for m in pair.prompt))),
        trainers.BpeTrainer(
            vocab_size=4096,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|bos|>", eos_token="<|end|>", chat_template=CHAT_TEMPLATE
    )


def trained_model(tokenizer: PreTrainedTokenizerFast, pairs: list[Pair], steps: int) -> LlamaForCausalLM:
    """A short language-model training on both answers of every dialogue, in blocks of equal length."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    blocks = token_blocks(tokenizer, pairs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(1, steps + 1):
        batch = torch.tensor(random.Random(step).sample(blocks, 16))
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.2f} nats a token", flush=True)
    return model.eval()


def token_blocks(tokenizer: PreTrainedTokenizerFast, pairs: list[Pair]) -> list[list[int]]:
    dialogues = [
        [*(message._asdict() for message in pair.prompt), {"role": "assistant", "content": answer}]
        for pair in pairs
        for answer in (pair.chosen, pair.rejected)
    ]
    texts = [tokenizer.apply_chat_template(dialogue, tokenize=False) for dialogue in dialogues]
    ids = [i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    return [ids[start : start + BLOCK] for start in range(0, len(ids) - BLOCK, BLOCK)]


if __name__ == "__main__":
    main()
