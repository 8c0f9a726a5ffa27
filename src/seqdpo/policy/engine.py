"""Which way a model reads pairs: packed trees where that has been seen to give the padded path's numbers."""

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from seqdpo.policy.attention import back_ends_for, use_tree_attention
from seqdpo.policy.logps import packed_batch, packed_logps
from seqdpo.policy.padding import padded_logps, padded_pairs
from seqdpo.preferences.tokens import PairTokens

PACKED = "packed trees"
#: How far the two paths may differ, relative to the log-probability: float32 sums in another order, or bfloat16
#: roundings; another function (a mask, a cap or a scale that is not ours) differs by far more.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
PROBE_LENGTHS = ((1, 5, 3), (17, 1, 6), (9, 4, 4))  # tokens of prompt, chosen, rejected


def choose_engine(model: PreTrainedModel, longest: int, lora_target_modules: str | list[str] = "all-linear") -> str:
    """Switches the model to packed trees if it can read them; returns what was chosen, and why.

    Each model is verified, not its family: a few made-up pairs go both ways. `longest` is the study's longest
    sequence in tokens; where a model's window is shorter, one of the pairs is longer than the window.
    """
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), "")
    if isinstance(lora_target_modules, list) and head.split(".")[-1] in lora_target_modules:
        return f"padded: an adapter on the head {head!r}"
    pairs = _probe_pairs(model, longest)
    before = model.config._attn_implementation
    with torch.inference_mode():
        expected = padded_logps(model, padded_pairs(pairs, model.device))
        for back_end in back_ends_for(model.device, model.dtype):
            problem = _problem(model, back_end, pairs, expected)
            if problem is None:
                return f"{PACKED} ({back_end})"
    model.set_attn_implementation(before)
    return f"padded: {problem}"


def _problem(model: PreTrainedModel, back_end: str, pairs: list[PairTokens], expected: Tensor) -> str | None:
    """Why the model, which now has this back end, is not to be used with it; None: its numbers are as expected."""
    try:
        use_tree_attention(model, back_end)
        found = packed_logps(model, packed_batch(pairs, model.device))
    except Exception as error:  # whatever a family's code raises means that it cannot, and padding always can
        return f"{type(model).__name__} cannot read packed trees ({type(error).__name__}: {error})"
    difference = ((found - expected).abs() / expected.abs()).max().item()
    if not difference <= TOLERANCE[model.dtype]:
        return f"packed trees differ from the padded path by {difference:.1e} on {type(model).__name__}"
    return None


def _probe_pairs(model: PreTrainedModel, longest: int) -> list[PairTokens]:
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    long = [(window + 5, 4, 3) for window in windows if window is not None and window < longest]
    generator = np.random.default_rng(0)
    lengths = [
        [generator.integers(0, config.vocab_size, n).astype(np.int32) for n in row] for row in (*PROBE_LENGTHS, *long)
    ]
    return [PairTokens(prompt, chosen, rejected, truncated=False) for prompt, chosen, rejected in lengths]
