"""How fast this machine reads and trains a study's pairs, measured before the run.

Where the model is at hand, a few of the study's own pairs go through the real engine; else a matrix multiplication tells.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from seqdpo.measure.scores import pair_logps
from seqdpo.policy.adapters import trainable_policy
from seqdpo.policy.batches import default_tokens
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import ParameterCount, base_bytes, device, has_weights, load_model
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.study.keys import InputKeys
from seqdpo.training.pairs import training_pairs
from seqdpo.training.stage import train_stage

#: The share of the measured matrix-multiplication rate that a pass reaches; a rough assumption, and said so.
ASSUMED_EFFICIENCY = 0.4
#: FLOP/s of accelerators that are not here: dense peaks of the vendor's data sheets (SXM cards; float32 without TF32).
#: Nothing was measured on them.
ASSUMED_RATES: dict[str, dict[str, float]] = {
    "a100": {"bfloat16": 312e12, "float32": 19.5e12},
    "h100": {"bfloat16": 989e12, "float32": 67e12},
}
#: Of each measurement the best counts: what else the machine does at the moment is not the study's.
ROUNDS = 3
#: What the passes of a probe may take, as the matrix multiplication foresees it.
MOST_SECONDS = 40.0
#: Passes of a pair in one round, forward ones: it is scored once, and trained on once.
_PASSES = 3


class Rates(NamedTuple):
    """Seconds for each token that passes through the model."""

    scored: float  # without gradients
    trained: float  # forward and backward, with a token's share of the optimiser's step
    how: str  # that they were found; a sentence


def probe(keys: InputKeys, preferences: Preferences, parameters: ParameterCount) -> Rates:
    """Raises: ConfigError as `load_model` and `choose_engine`, where the model is at hand."""
    rate = matmul_rate(keys)
    seconds_a_token = _seconds_a_token(parameters, rate)
    pairs = _sample(keys, preferences, MOST_SECONDS / (seconds_a_token * _PASSES * (ROUNDS + 1)))
    why_not = _why_not(keys, pairs)
    if why_not is not None:
        of_what = f"a matrix multiplication in {keys.dtype} reached at best, for {why_not}"
        return _of_flops(keys, seconds_a_token, rate, of_what)
    return _measured(keys, preferences, pairs)


def assumed_rates(keys: InputKeys, parameters: ParameterCount, name: str) -> Rates:
    """Of a device of ASSUMED_RATES."""
    rate = ASSUMED_RATES[name][keys.dtype]
    of_what = (
        f"the vendor names for {keys.dtype} on an {name.upper()}; nothing was measured there, so time your first stage"
    )
    return _of_flops(keys, _seconds_a_token(parameters, rate), rate, of_what)


def _seconds_a_token(parameters: ParameterCount, rate: float) -> float:
    return 2 * parameters.total / (rate * ASSUMED_EFFICIENCY)


def _of_flops(keys: InputKeys, seconds_a_token: float, rate: float, of_what: str) -> Rates:
    how = f"FLOPs of the passes at {ASSUMED_EFFICIENCY:.0%} of the {rate / 1e12:.2f} TFLOP/s that {of_what}"
    # the base's weights are frozen, so a backward pass costs what a forward one does
    return Rates(seconds_a_token, (3 if keys.gradient_checkpointing else 2) * seconds_a_token, how)


def _measured(keys: InputKeys, preferences: Preferences, pairs: list[PreparedPair]) -> Rates:
    base = load_model(keys)
    choose_engine(base, preferences.longest, keys.lora_target_modules)
    tokens = sum(pair.tokens.n_tokens for pair in pairs)
    reference = np.zeros(len(pairs)), np.zeros(len(pairs))

    def score(policy: nn.Module) -> None:
        pair_logps(policy, [pair.tokens for pair in pairs], keys.tokens_per_batch)

    with trainable_policy(base, keys, None, seed=0) as policy:
        scored = best_seconds(lambda: score(policy.eval()))
        one_epoch = keys.model_copy(update={"num_train_epochs": 1})
        trained = best_seconds(
            lambda: train_stage(policy, training_pairs(pairs, reference), one_epoch, 0, lambda step: None)
        )
    how = f"{len(pairs)} of the study's pairs, scored and trained on just now, best of {ROUNDS}"
    return Rates(scored / tokens, trained / tokens, how)


def _sample(keys: InputKeys, preferences: Preferences, most_tokens: float) -> list[PreparedPair]:
    """Pairs of all lengths, evenly: two steps' worth, or what fills a batch, but no more tokens than these."""
    every = [pair for objective in preferences.objectives.values() for pair in (*objective.train, *objective.eval)]
    if not every:
        return []
    every.sort(key=lambda pair: pair.tokens.n_tokens)
    mean = sum(pair.tokens.n_tokens for pair in every) / len(every)
    budget = keys.tokens_per_batch or default_tokens(device(), getattr(torch, keys.dtype))
    wanted = max(2 * keys.pairs_per_step, math.ceil(budget / mean))
    n = min(wanted, len(every), int(most_tokens / mean))
    return [every[(2 * i + 1) * len(every) // (2 * n)] for i in range(n)]


def _why_not(keys: InputKeys, pairs: list[PreparedPair]) -> str | None:
    """Why nothing is measured with the model itself."""
    if not has_weights(keys):
        return "the model's weights are not on this machine"
    if not pairs:
        return "the model is too slow for a trial on this machine"
    if 1.5 * base_bytes(keys) > _free_bytes():
        return "the model is too large for a trial on this machine"
    return None


def _free_bytes() -> float:
    """Of the device; without a limit where the system does not tell."""
    if device().type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)


def best_seconds(work: Callable[[], object]) -> float:
    """The least that some work took, after a first time that sets everything up.

    On a CPU no more than the processor time of all threads: beyond it, the process was kept waiting by others.
    """
    work()
    fastest = math.inf
    for _ in range(ROUNDS):
        began, used = time.perf_counter(), time.process_time()
        work()
        if device().type == "cuda":
            torch.cuda.synchronize()
        took, used = time.perf_counter() - began, time.process_time() - used
        fastest = min(fastest, took if device().type != "cpu" else min(took, used))
    return fastest


def matmul_rate(keys: InputKeys) -> float:
    """FLOP/s of a large matrix multiplication in the study's dtype, on this machine, in about a second."""
    where = device()
    size = 4096 if where.type != "cpu" else 1024
    a = torch.ones(size, size, dtype=getattr(torch, keys.dtype), device=where)
    times = 4 if where.type == "cpu" else 16

    def multiply() -> None:
        for _ in range(times):
            product = a @ a
        product[0, 0].item()  # waits for the device

    return 2.0 * size**3 * times / best_seconds(multiply)
