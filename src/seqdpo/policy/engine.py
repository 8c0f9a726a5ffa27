"""Which way a model reads pairs: packed trees, else padded, else one by one; each only where its numbers are right."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from seqdpo.errors import ConfigError
from seqdpo.policy.attention import back_ends_for, use_tree_attention
from seqdpo.policy.library import attention_of
from seqdpo.policy.logps import packed_batch, packed_logps
from seqdpo.policy.padding import padded_logps, padded_responses
from seqdpo.policy.singles import single_logps, use_singles
from seqdpo.policy.trees import PromptTree, TokenTree
from seqdpo.preferences.tokens import PairTokens, TokenIds
from seqdpo.wording import reason

PACKED = "packed trees"
PADDED = "padded"
SINGLE = "single sequences"
#: How far a way may be from single sequences, relative to the log-probability: float32 sums in another order, or
#: bfloat16 roundings; another function (a mask, a cap or a scale that is not ours) differs by far more.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
PROBE_LENGTHS = ((1, 5, 3), (17, 1, 6), (9, 4, 4))  # tokens of prompt, chosen, rejected
PROBE_TREE = (6, 3, 7, 2)  # of a prompt and three responses, as scores of several pairs of one prompt read them
LONGER_PROBE = (70, 9, 5)  # beyond the chunks of 64 that recurrent layers read in
#: Keys of a configuration whose numbers of tokens change how a longer sequence is read.
_THRESHOLDS = ("window", "chunk", "original_max_position_embeddings")


def choose_engine(model: PreTrainedModel, longest: int, lora_target_modules: str | list[str] = "all-linear") -> str:
    """Switches the model to the fastest way that is right for it; returns what was chosen, and why.

    Each model is verified, not its family: a few made-up trees go the way and, sequence by sequence, through a plain
    forward pass. `longest` is the study's longest sequence in tokens; where a model reads longer texts in another way
    than shorter ones (a window, a position encoding that is stretched), one of them is longer than that.

    Raises: ConfigError for a model whose plain forward pass fails, or depends on what it has read before.
    """
    use_singles(model, False)
    before = attention_of(model)
    trees: list[TokenTree] = [*probe_pairs(model, longest), _probe_tree(model)]
    with torch.inference_mode():
        expected = _plain(model, trees)
        back_end, not_packed = _back_end(model, trees, expected, lora_target_modules)
        if back_end is not None:
            return f"{PACKED} ({back_end})"
        model.set_attn_implementation(before)
        not_padded = _problem(
            model, "be padded", expected, lambda: padded_logps(model, padded_responses(trees, model.device))
        )
        if not_padded is None:
            return f"{PADDED}: {not_packed}"
        _check_memory(model, trees, expected)
    use_singles(model, True)
    return f"{SINGLE}: {not_padded}"


def _back_end(
    model: PreTrainedModel, trees: list[TokenTree], expected: Tensor, lora_target_modules: str | list[str]
) -> tuple[str | None, str | None]:
    """(the back end that is right for packed trees, None), or (None, why there is none)."""
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), "")
    if isinstance(lora_target_modules, list) and head.split(".")[-1] in lora_target_modules:
        return None, f"an adapter on the head {head!r}"
    problem = None
    for back_end in back_ends_for(model.device, model.dtype):
        problem = _problem(model, "read packed trees", expected, partial(_packed, model, back_end, trees))
        if problem is None:
            return back_end, None
    return None, problem


def _packed(model: PreTrainedModel, back_end: str, trees: list[TokenTree]) -> Tensor:
    use_tree_attention(model, back_end)
    return packed_logps(model, packed_batch(trees, model.device))


def _plain(model: PreTrainedModel, trees: list[TokenTree]) -> Tensor:
    try:
        return single_logps(model, trees)
    except Exception as error:  # of every kind; what is left is another model
        raise ConfigError(
            f"model_name_or_path: {type(model).__name__} cannot read a text of {len(trees[0].prompt)} tokens and more; "
            f"expected a causal language model. Choose another model. It says: {reason(error)}"
        ) from error


def _check_memory(model: PreTrainedModel, trees: list[TokenTree], expected: Tensor) -> None:
    backwards = [PromptTree(tree.prompt, tree.responses[::-1]) for tree in trees[::-1]]
    again = single_logps(model, backwards).flip(0)
    if not _close(again, expected, model.dtype):
        raise ConfigError(
            f"model_name_or_path: what {type(model).__name__} says of a text depends on the texts it has read before; "
            "expected a model whose scores are those of each text alone. Choose another model."
        )


def _problem(model: PreTrainedModel, what: str, expected: Tensor, compute: Callable[[], Tensor]) -> str | None:
    """Why the model is not to be read in this way; None: its numbers are as expected."""
    name = type(model).__name__
    try:
        found = compute()
    except NotImplementedError as error:  # ours, in words
        return f"{name} cannot {what}: {reason(error)}"
    except Exception as error:  # whatever a family's code raises means that it cannot, and single sequences always can
        return f"{name} cannot {what} ({type(error).__name__}: {reason(error)})"
    if not _close(found, expected, model.dtype):
        difference = ((found - expected).abs() / expected.abs()).max().item()
        how = "packed trees differ" if what == "read packed trees" else "padding changes scores: they differ"
        return f"{how} from single sequences by {difference:.1e} on {name}"
    return None


def _close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    return bool((found - expected).abs().le(TOLERANCE[dtype] * expected.abs()).all())


def probe_pairs(model: PreTrainedModel, longest: int) -> list[PairTokens]:
    """Made-up pairs of several lengths, on both sides of every threshold that texts of `longest` tokens can pass."""
    config = _text_config(model)
    longer = [LONGER_PROBE] if longest >= sum(LONGER_PROBE) else []
    long = [(threshold + 5, 4, 3) for threshold in sorted(set(_thresholds(config))) if threshold < longest]
    texts = _texts(config, (*PROBE_LENGTHS, *longer, *long), seed=0)
    return [PairTokens(prompt, chosen, rejected, truncated=False) for prompt, chosen, rejected in texts]


def _probe_tree(model: PreTrainedModel) -> PromptTree:
    ((prompt, *responses),) = _texts(_text_config(model), [PROBE_TREE], seed=1)
    return PromptTree(prompt, tuple(responses))


def _texts(config: PreTrainedConfig, lengths: Iterable[Sequence[int]], seed: int) -> list[list[TokenIds]]:
    """Random tokens; so many for each number."""
    generator = np.random.default_rng(seed)
    return [[generator.integers(0, _n_tokens(config), n).astype(np.int32) for n in row] for row in lengths]


def _text_config(model: PreTrainedModel) -> PreTrainedConfig:
    return model.config.get_text_config(decoder=True)


def _n_tokens(config: PreTrainedConfig) -> int:
    """Ids below this are in every embedding; Gemma 3n has one of fewer in each layer, and older releases read it so."""
    return min(config.vocab_size, getattr(config, "vocab_size_per_layer_input", None) or config.vocab_size)


def _thresholds(config: PreTrainedConfig) -> Iterator[int]:
    waiting = [config.to_dict()]
    while waiting:
        for name, value in waiting.pop().items():
            if isinstance(value, dict):
                waiting.append(value)
            elif type(value) is int and value > 0 and any(part in name for part in _THRESHOLDS):
                yield value
