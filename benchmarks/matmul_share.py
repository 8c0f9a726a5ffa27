"""How near is a training step to the limit? `python benchmarks/matmul_share.py [--shape 107M]`.

The floating-point operations that a step needs with prompts shared, over its time, over the rate of a large matrix
product in the same run. `--shape 8B --dtypes bfloat16` is a Llama-3.1-8B with random weights, for accelerators.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from tables import report
from torch import nn
from workload import (
    HH_PROMPT,
    HH_RESPONSE,
    HH_SPREAD,
    SHAPES,
    made_up_pairs,
    peak_megabytes,
    random_model,
    training_pairs,
)

from seqdpo.policy.adapters import trainable_policy
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import device
from seqdpo.preferences.tokens import PairTokens
from seqdpo.study.config import Study
from seqdpo.training.stage import Step, train_stage

PAIRS_PER_STEP = 8
STEPS = 6  # the first one is not counted
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
PRODUCT_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="107M")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--pairs-per-step", type=int, default=PAIRS_PER_STEP)
    parser.add_argument("--tokens-per-batch", type=int)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--full-length", action="store_true", help="every pair a prompt of 1024 and responses of 512")
    arguments = parser.parse_args()
    rows = [row(dtype, arguments) for dtype in arguments.dtypes]
    kind = "pairs as long as those of HH-RLHF" if not arguments.full_length else "pairs of 2,048 tokens"
    report(
        f"matmul_share_{device().type}_{arguments.shape}",
        rows,
        f"A random Llama of {arguments.shape} parameters, LoRA r=32 on all linear layers, {kind}.",
    )


def row(dtype: str, arguments: argparse.Namespace) -> dict[str, Any]:
    study = Study.model_validate(
        {
            "model_name_or_path": "random",
            "setting": "hh-rlhf",
            "dtype": dtype,
            "per_device_train_batch_size": arguments.pairs_per_step,
            "tokens_per_batch": arguments.tokens_per_batch,
            "gradient_checkpointing": arguments.gradient_checkpointing,
            "max_length": 2048,
            "output_dir": "runs/unused",
        }
    )
    lengths = (8192, 8192, 0.0) if arguments.full_length else (HH_PROMPT, HH_RESPONSE, HH_SPREAD)
    pairs = made_up_pairs(STEPS * arguments.pairs_per_step, *lengths)
    base = random_model(arguments.shape, dtype)
    engine = choose_engine(base, max(pair.longest for pair in pairs))
    before = product_rate(dtype)
    given = training_pairs(base, pairs, study)
    steps: list[Step] = []
    with trainable_policy(base, study, None, seed=0) as policy:
        needed = step_flops(policy, pairs)
        train_stage(policy, given, study, 0, steps.append)
    rate = (before + product_rate(dtype)) / 2
    counted = steps[1:]
    seconds = sum(step.seconds for step in counted)
    tokens = sum(step.n_tokens for step in counted)
    flops_per_second = needed * tokens / sum(pair.n_tokens for pair in pairs) / seconds
    return {
        "dtype": dtype,
        "engine": engine,
        "pairs/s": sum(step.n_pairs for step in counted) / seconds,
        "tokens/s": tokens / seconds,
        "GFLOP/s": flops_per_second / 1e9,
        "of a product's": rate / 1e9,
        "share": flops_per_second / rate,
        "peak MB": peak_megabytes(),
    }


def step_flops(policy: nn.Module, pairs: Sequence[PairTokens]) -> float:
    """Of one pass forward and backward over the pairs, each distinct token once.

    A frozen matrix: 2 operations a weight and token forward and 2 for the gradient of its input. An adapter's: 2 and 4.
    The head: at response tokens only. Attention: two products forward and four backward over what each token sees.
    Nothing that a backward pass may compute again is counted.
    """
    layers = [module for module in policy.modules() if isinstance(module, LoraLinear)]
    frozen = sum(layer.get_base_layer().weight.numel() for layer in layers)
    adapter = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    config = policy.get_base_model().config
    n_tokens = sum(pair.n_tokens for pair in pairs)
    n_response = sum(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    width = config.num_attention_heads * config.head_dim * config.num_hidden_layers
    seen = sum(_seen(pair) for pair in pairs)
    head = 4 * config.hidden_size * config.vocab_size
    return float(n_tokens * (4 * frozen + 6 * adapter) + n_response * head + 6 * 2 * width * seen)


def _seen(pair: PairTokens) -> int:
    """Pairs of a token and one that it sees, itself included."""
    prompt = len(pair.prompt)
    own = [len(response) for response in (pair.chosen, pair.rejected)]
    return prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in own)


def product_rate(dtype: str) -> float:
    """FLOP/s of a large product of two matrices."""
    size = PRODUCT_SIZE[device().type]
    a = torch.randn(size, size, device=device()).to(getattr(torch, dtype))
    (a @ a)[0, 0].item()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < PRODUCT_SECONDS:
        (a @ a)[0, 0].item()
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
