"""What seqdpo asks of transformers and PEFT beside their documented interfaces, all of it here.

Such names change from release to release; tests/policy/test_library.py holds each of them to what is meant by it.
"""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from inspect import signature

from peft import LoraConfig
from peft.tuners import tuners_utils
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.pytorch_utils import Conv1D

#: The layers whose LoRA is W + scale B A: GPT-2's `Conv1D` is a linear layer with its weight the other way round.
LINEAR = (nn.Linear, Conv1D)


def attention_of(model: PreTrainedModel) -> str:
    """The name of the attention that `model.set_attn_implementation` was last given."""
    return str(model.config._attn_implementation)


def keep_softcap(model: PreTrainedModel) -> None:
    """Attends by the eager formula where scores are soft-capped (Gemma 2): older releases of transformers (5.20 does,
    5.23 does not) take SDPA for it, which leaves the cap out without a word."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")


@contextmanager
def checkpointing(model: PreTrainedModel) -> Iterator[None]:
    """Activations are computed again in the backward pass; on leaving, the model is as it was."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
    enable({"use_reentrant": False})
    try:
        yield
    finally:
        disable()
        if hasattr(model, "_require_grads_hook"):  # enabling leaves a hook on the embeddings, one more every time
            model.disable_input_require_grads()


def forget_adapters(model: PreTrainedModel) -> None:
    """After adapters were taken off: PEFT 0.18 leaves their names on the model, and takes the next of a name for one
    that is there already."""
    if hasattr(model, "peft_config"):
        del model.peft_config


def put_first(callback: TrainerCallback) -> bool:
    """Puts a trainer's callback before its others, from within a call of it; whether that could be done.

    transformers tells a callback nothing of its trainer, and hands a log to one callback after the other, the trackers
    first. Its caller, a `CallbackHandler`, has the list of them.
    """
    frame = inspect.currentframe()
    while frame is not None:
        callbacks = getattr(frame.f_locals.get("self"), "callbacks", None)
        if isinstance(callbacks, list) and callback in callbacks:
            callbacks.remove(callback)
            callbacks.insert(0, callback)
            return True
        frame = frame.f_back
    return False


def can_checkpoint(model: PreTrainedModel) -> bool:
    return bool(model.supports_gradient_checkpointing)


def accepts(model: PreTrainedModel, option: str) -> bool:
    """Whether the model's forward pass has such an argument by name, and does not merely swallow it."""
    return option in signature(model.forward).parameters


def refused_by_peft(model: nn.Module, names: Iterable[str]) -> set[str]:
    """Those last parts of module names that PEFT refuses: of state-space models, whose kernels read the weights
    themselves, so that LoRA on them would be lost."""
    return {name for name in names if _refuses(model, name)}


def _refuses(model: nn.Module, name: str) -> bool:
    check = getattr(tuners_utils, "_check_lora_target_modules_mamba", None)
    try:
        if check is not None:
            check(LoraConfig(target_modules=[name]), model, name)
    except ValueError:
        return True
    return False


def fused_by_peft(model: nn.Module, names: Iterable[str]) -> set[str]:
    """Those last parts of module names that PEFT takes for fused experts, which are no linear layers."""
    return {name for name in names if _fuses(model, name)}


def _fuses(model: nn.Module, name: str) -> bool:
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # PEFT 0.18 leaves such names as they are
        return False
    config = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, model=model, conversions=None)
    except ValueError:  # one of two names that are fused into one
        return True
    return bool(config.target_parameters)
