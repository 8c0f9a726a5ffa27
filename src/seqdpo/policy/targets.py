"""Which layers an adapter sits on: `all-linear` spelled out for this model, or the user's names, checked.

Only plain linear layers of the part that reads text: everything after (delta W = scale B A, merging, joining, the
mechanism's tables) is true of those and of nothing else.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from seqdpo.errors import ConfigError
from seqdpo.policy.library import LINEAR, fused_by_peft, refused_by_peft
from seqdpo.policy.quantised import is_quantised
from seqdpo.study.keys import AdapterKeys
from seqdpo.wording import did_you_mean, listed

#: A part that is left out is named where it holds at least this share of the model's weights.
WORTH_NAMING = 0.01
_MAX_NAMED = 4


class Targets(NamedTuple):
    """Where the adapter goes."""

    names: list[str]  # sorted; as `target_modules` of PEFT matches them
    notes: list[str]  # a sentence for each kind of layer that is left out


def lora_targets(model: PreTrainedModel, keys: AdapterKeys) -> Targets:
    """The layers of a model, weights or none, that `lora_target_modules` means.

    Raises: ConfigError, with the names that fit, where one names no plain linear layer.
    """
    layers = _Layers(model)
    if keys.lora_target_modules == "all-linear":
        return _all_linear(layers)
    return _by_name(layers, list(keys.lora_target_modules), keys)


class _Layers:
    """The modules of a model, and which of them can carry an adapter."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.modules = dict(model.named_modules())
        self.head = {name for name, module in self.modules.items() if name and module is model.get_output_embeddings()}
        linear = [name for name, module in self.modules.items() if _is_product(module)]
        last = sorted({_last(name) for name in linear})
        self.refused = _ending(linear, refused_by_peft(model, last))
        self.fused = _ending(linear, fused_by_peft(model, last))
        self.plain = set(linear) - self.refused - self.fused
        self.unread = _not_for_text(model, self.modules) - self.head
        #: linear layers of a kind of their own, such as routers that return more than a product
        self.others = {
            name for name, module in self.modules.items() if isinstance(module, nn.Linear) and not _is_product(module)
        }

    def matching(self, target: str) -> set[str]:
        """As PEFT matches a name."""
        return {name for name in self.modules if name == target or name.endswith(f".{target}")}

    def fitting(self) -> list[str]:
        return sorted({_last(name) for name in self.plain - self.unread - self.head})


def _all_linear(layers: _Layers) -> Targets:
    if layers.refused:
        raise ConfigError(
            f"lora_target_modules = 'all-linear' does not fit the model: LoRA on {kinds(layers.refused)} is lost where "
            f"kernels of {type(layers.model).__name__} read these weights themselves; expected names of its linear "
            f"layers. Set lora_target_modules: [{', '.join(layers.fitting())}]."
        )
    chosen = layers.plain - layers.head - layers.unread
    if not chosen:
        raise ConfigError(
            f"lora_target_modules = 'all-linear': {type(layers.model).__name__} has no linear layer that LoRA can "
            "adapt; expected a model with some. Choose another model."
        )
    left_out = [
        *_note(layers.unread & layers.plain, "text does not pass through them"),
        *_note(layers.others - layers.unread, "they are more than linear layers"),
        *_note(layers.fused - layers.unread, "PEFT takes their names for those of fused experts"),
        *_note(_large_parameters(layers), "these weights are in no linear layer"),
    ]
    return Targets(_as_matched(chosen, layers), [f"lora_target_modules: all-linear leaves out {n}" for n in left_out])


def _by_name(layers: _Layers, targets: list[str], keys: AdapterKeys) -> Targets:
    for target in targets:
        _check_target(layers, target)
    matched = set().union(*(layers.matching(target) for target in targets))
    _check_head(layers, matched, keys)
    chosen = matched - layers.unread
    if not chosen:
        raise ConfigError(
            f"lora_target_modules = {targets!r}: text passes through none of these layers of "
            f"{type(layers.model).__name__}; expected names among: {listed(layers.fitting())}. Change them."
        )
    if chosen == matched:
        return Targets(sorted(targets), [])
    notes = [f"lora_target_modules: {n}" for n in _note(matched - chosen, "left out, text does not pass through them")]
    return Targets(_as_matched(chosen, layers), notes)


def _check_target(layers: _Layers, target: str) -> None:
    matched, fitting = layers.matching(target), layers.fitting()
    if not matched:
        raise ConfigError(
            f"lora_target_modules: {target!r} is no module of {type(layers.model).__name__}; expected 'all-linear' "
            f"or names of its linear layers: {listed(fitting)}.{did_you_mean(target, fitting)}"
        )
    wrong = sorted(matched - layers.plain)
    if wrong:
        kind = type(layers.modules[wrong[0]]).__name__
        why = ""
        if wrong[0] in layers.refused:
            why = ", on which LoRA is lost where the family's kernels read the weights themselves"
        elif wrong[0] in layers.fused:
            why = ", whose name PEFT takes for that of fused experts in this family"
        raise ConfigError(
            f"lora_target_modules = [{target!r}] does not fit the model: {wrong[0]!r} is of type {kind}{why}; "
            f"expected 'all-linear' or names of its linear layers: {listed(fitting)}. Change it."
        )


def _check_head(layers: _Layers, matched: set[str], keys: AdapterKeys) -> None:
    tied = getattr(layers.model.config.get_text_config(), "tie_word_embeddings", False)
    if matched & layers.head and tied and keys.adapter_mode == "new_on_merged":
        raise ConfigError(
            f"lora_target_modules: {min(matched & layers.head)!r} shares its weights with the embeddings, so that "
            "adapter_mode = 'new_on_merged' would change both; expected layers with weights of their own. Leave it "
            "out, or set adapter_mode: continue."
        )


def _is_product(module: nn.Module) -> bool:
    """Falcon has a linear layer of its own that is one; the router of Llama 4 is one that returns more."""
    if type(module) in LINEAR or not isinstance(module, nn.Linear) or is_quantised(module):
        return type(module) in LINEAR or is_quantised(module)
    with torch.no_grad():
        found = module(module.weight.new_zeros(1, module.in_features))
    return isinstance(found, torch.Tensor) and found.shape == (1, module.out_features)


def _not_for_text(model: PreTrainedModel, modules: dict[str, nn.Module]) -> set[str]:
    """Modules of a model of several modalities that lie outside its text model."""
    text = model.config.get_text_config(decoder=True)
    if text is model.config:
        return set()
    inside = [
        name
        for name, module in modules.items()
        if name and isinstance(module, PreTrainedModel) and type(module.config) is type(text)
    ]
    if not inside:
        return set()
    return {name for name in modules if not any(name == part or name.startswith(f"{part}.") for part in inside)}


def _large_parameters(layers: _Layers) -> set[str]:
    """Matrices that no layer with a name of torch's holds: experts fused into one parameter, mostly."""
    usual = (*LINEAR, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    sizes: dict[str, int] = {}
    total = 0
    for name, parameter in layers.model.named_parameters():
        total += parameter.numel()
        module = name.rpartition(".")[0]
        if parameter.dim() >= 2 and not isinstance(layers.modules[module], usual) and module not in layers.unread:
            sizes[name] = parameter.numel()
    by_kind: Counter[str] = Counter()
    for name, size in sizes.items():
        by_kind[_kind(name)] += size
    return {name for name in sizes if by_kind[_kind(name)] >= WORTH_NAMING * total}


def _as_matched(chosen: set[str], layers: _Layers) -> list[str]:
    """The fewest names with which PEFT finds these layers and no others: last parts, or whole names."""
    names: set[str] = set()
    for last in {_last(name) for name in chosen}:
        matching = layers.matching(last)
        names |= {last} if matching <= chosen else matching & chosen
    return sorted(names)


def kinds(names: Iterable[str]) -> str:
    """Some layers in words, those of all blocks by one name."""
    found = sorted({_kind(name) for name in names})
    more = f" and {len(found) - _MAX_NAMED} more kinds" if len(found) > _MAX_NAMED else ""
    return listed(found[:_MAX_NAMED]) + more


def _note(names: set[str], why: str) -> list[str]:
    return [f"{kinds(names)}: {why}."] if names else []


def _ending(names: Iterable[str], last: set[str]) -> set[str]:
    return {name for name in names if _last(name) in last}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _kind(name: str) -> str:
    """One name for the same layer in every block."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)
