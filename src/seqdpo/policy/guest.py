"""Reading pairs with a model that somebody else is training: afterwards everything is as it was."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from seqdpo.policy.engine import choose_engine
from seqdpo.policy.library import attention_of
from seqdpo.policy.logps import base_of
from seqdpo.policy.singles import reads_singly, use_singles


class Guest:
    """How a model in training reads pairs, found and verified once; the trainer's own way is put back each time."""

    def __init__(self, model: nn.Module, longest: int) -> None:
        """`longest`: tokens of the longest sequence. Raises: as `choose_engine`."""
        base = base_of(model)
        with _untouched(model):
            self.engine = choose_engine(base, longest)
            self._attention, self._singly = attention_of(base), reads_singly(base)

    @contextmanager
    def reading(self, model: nn.Module, adapter: bool = True) -> Iterator[PreTrainedModel]:
        """The model, with its adapter's layers in it, ready for `pair_logps`; or without what they add."""
        base = base_of(model)
        off = model.disable_adapter() if isinstance(model, PeftModel) and not adapter else nullcontext()
        with _untouched(model), off:
            base.set_attn_implementation(self._attention)
            use_singles(base, self._singly)
            yield base


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Modes, what is trained, attention and random states are put back; no gradients, no autocast in between."""
    base = base_of(model)
    modes = [(module, module.training) for module in model.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    attention, singly = attention_of(base), reads_singly(base)
    device = base.device.type
    with torch.random.fork_rng(), torch.no_grad(), torch.autocast(device, enabled=False):
        model.eval()
        try:
            yield
        finally:
            base.set_attn_implementation(attention)
            use_singles(base, singly)
            for module, mode in modes:
                module.training = mode
            for parameter, requires_grad in trained:  # switching an adapter off stops its training
                parameter.requires_grad_(requires_grad)
