"""The adapter that a study starts from: trained elsewhere, and taken for its first stage."""

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import get_peft_model_state_dict

from seqdpo.errors import ConfigError
from seqdpo.policy.adapters import new_adapter
from seqdpo.policy.foreign import Adapter
from seqdpo.policy.lineage import lineage
from seqdpo.policy.load import outline
from seqdpo.study.audit import Audit
from seqdpo.study.keys import DataKeys, InputKeys, ModelKeys, PolicyKeys

_INSTEAD = "Merge it, and give the merged model as model_name_or_path"


@dataclass(frozen=True, slots=True)
class Start:
    """Where it lies, and what is to be said of it."""

    folder: Path
    notes: list[str]


def read_start(keys: InputKeys) -> Start | None:
    """The adapter of `adapter_name_or_path`; None where a study starts from the base. The model's path is resolved.

    Raises: ConfigError if it is not there, does not stand on the study's base, or cannot be trained on as the study's
        own adapters are.
    """
    if keys.adapter_name_or_path is None:
        return None
    source = {"path": keys.adapter_name_or_path, "revision": keys.adapter_revision, "on": "base"}
    given = keys.model_dump(include={*ModelKeys.model_fields, *DataKeys.model_fields})
    [member] = lineage(Audit.model_validate(given | {"checkpoints": {keys.learned: source}}))
    if member.adapter is None:
        raise _refused(keys, "is a whole model; expected an adapter. Give it as model_name_or_path")
    _check_plain(keys, member.adapter)
    _check_shapes(keys, member.adapter)
    return Start(member.folder, member.notes)


def _check_plain(keys: InputKeys, adapter: Adapter) -> None:
    """Later stages continue it, or are joined with it along the rank: only B A times one scale can be."""
    config = adapter.config
    found = [name for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if config.get(name)]
    if found or not adapter.is_plain_lora:
        what = ", ".join(found) or "weights beside those of LoRA"
        raise _refused(keys, f"has {what}; expected plain LoRA of one rank and alpha. {_INSTEAD}")


def _check_shapes(keys: InputKeys, adapter: Adapter) -> None:
    """The study's own adapters must be of the same layers and, where they continue it, of the same rank and scale."""
    own = _shapes(keys)
    if own.keys() != adapter.shapes.keys():
        other = sorted(own.keys() ^ adapter.shapes.keys())
        raise _refused(
            keys,
            f"is on other layers than lora_target_modules = {keys.lora_target_modules!r} names ({other[0]} and "
            f"{len(other) - 1} more differ); expected the same. Set lora_target_modules to those of its "
            "adapter_config.json",
        )
    if keys.adapter_mode != "continue":
        return
    r, alpha = adapter.config["r"], adapter.config["lora_alpha"]
    if (r, alpha) != (keys.lora_r, keys.lora_alpha):
        raise _refused(
            keys,
            f"has r = {r} and lora_alpha = {alpha}, but the study lora_r = {keys.lora_r} and lora_alpha = "
            f"{keys.lora_alpha:g}; expected the same with adapter_mode: continue. Set lora_r: {r} and lora_alpha: "
            f"{alpha}",
        )


def _shapes(keys: PolicyKeys) -> dict[str, list[int]]:
    with torch.device("meta"):
        fresh = get_peft_model_state_dict(new_adapter(outline(keys), keys, seed=0), save_embedding_layers=False)
    return {name: list(tensor.shape) for name, tensor in fresh.items()}


def _refused(keys: InputKeys, why: str) -> ConfigError:
    return ConfigError(f"adapter_name_or_path = {keys.adapter_name_or_path!r}: {why}.")
