"""A base that is kept in 4 or 8 bits by bitsandbytes: how it is loaded, and what its weights stand for.

The library is an extra, and imported where a study asks for it.
"""

import logging
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from seqdpo.errors import ConfigError
from seqdpo.study.keys import ModelKeys
from seqdpo.wording import reason

_LIBRARY = "bitsandbytes"
#: Of a weight, by its bits. 4: with an 8-bit scale for 64 weights and a float32 one for 256 of those (double
#: quantisation of QLoRA, arXiv 2305.14314, section 3); 8: a row's scale counts for nothing.
BYTES = {4: (4 + 8 / 64 + 32 / (64 * 256)) / 8, 8: 1.0}


def bits_of(keys: ModelKeys) -> int | None:
    """Of a weight of a linear layer of the base; None: those of the study's dtype."""
    return 4 if keys.load_in_4bit else 8 if keys.load_in_8bit else None


def named(bits: int) -> str:
    return "NF4" if bits == 4 else "LLM.int8"


def check_quantisation(keys: ModelKeys) -> None:
    """Raises: ConfigError where a study asks for fewer bits, and bitsandbytes cannot be imported."""
    bits = bits_of(keys)
    if bits is None:
        return
    try:
        import_module(_LIBRARY)
    except Exception as error:  # of every kind: it looks for a device and its libraries while it is imported
        what = (
            "is not installed" if isinstance(error, ModuleNotFoundError) and error.name == _LIBRARY else reason(error)
        )
        raise ConfigError(
            f"load_in_{bits}bit = True: {_LIBRARY} {what}; expected it. Install it: pip install 'seqdpo[quantised]'"
        ) from None


def quantisation(keys: ModelKeys) -> BitsAndBytesConfig | None:
    """How transformers is to load the base; None: as it is.

    Raises: ConfigError as `check_quantisation`.
    """
    check_quantisation(keys)
    match bits_of(keys):
        case 4:
            return BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=getattr(torch, keys.dtype),
            )
        case 8:
            # it says for every product that it computes in float16
            logging.getLogger(f"{_LIBRARY}.autograd._functions").setLevel(logging.ERROR)
            return BitsAndBytesConfig(load_in_8bit=True)
    return None


def keep_gradients(model: PreTrainedModel) -> None:
    """On CPUs with AVX-512 bitsandbytes packs the weights anew in the first pass without gradients, and from then on
    multiplies by a kernel through which none flow, in training, too (0.50): it may not."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantised(module: nn.Module) -> bool:
    """Whether it is a linear layer with weights of fewer bits."""
    return isinstance(module, nn.Linear) and type(module).__module__.startswith(f"{_LIBRARY}.")


def plain_weight(module: Any) -> Tensor:
    """A linear layer's weight as numbers, (n_out, n_in); of a quantised one what its bits stand for."""
    weight: Tensor = module.weight.detach()
    if is_quantised(module):
        from peft.utils.integrations import dequantize_module_weight

        weight = dequantize_module_weight(module).detach()
    return weight


def description(model: PreTrainedModel) -> str:
    """What the engine's name says of a quantised base, with the release that rounded it; '' for any other."""
    if not any(is_quantised(module) for module in model.modules()):
        return ""
    bits = 4 if getattr(model, "is_loaded_in_4bit", False) else 8
    return f", base in {named(bits)} by {_LIBRARY} {import_module(_LIBRARY).__version__}"
