"""Adapters and models that were trained elsewhere: read without running anything of theirs, and put on a base."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdpo.errors import ConfigError
from seqdpo.hub import hub_or_cache, why_not
from seqdpo.layout import WEIGHTS_FILE
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import load_model
from seqdpo.policy.logps import base_of
from seqdpo.policy.lora import fuse_lora
from seqdpo.preferences.files import contents
from seqdpo.study.audit import Source
from seqdpo.study.keys import ModelKeys
from seqdpo.wording import reason

CONFIG_FILE = "adapter_config.json"
#: What is fetched from the hub: no pickles and no code.
FILES_READ = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "README.md"]
#: Keys of adapter_config.json that reach beyond the adapter's own weights, and what they must be.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": (None, "none"),  # would overwrite the base's
    "megatron_config": (None,),  # imports a module that the file names
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),  # reads texts in another way than the model
    "arrow_config": (None,),
}


@dataclass(frozen=True, slots=True)
class Adapter:
    """The folder of a PEFT adapter, looked through."""

    folder: Path
    config: dict[str, Any]  # adapter_config.json
    shapes: dict[str, list[int]]  # of every tensor

    @property
    def rank(self) -> int:
        """The largest of any module."""
        return max([int(self.config["r"]), *(int(r) for r in (self.config.get("rank_pattern") or {}).values())])

    @property
    def base_weights(self) -> list[str]:
        """PEFT saves the base's own embedding and head beside an adapter that may have needed others."""
        saved = [f".{name}." for name in self.config.get("modules_to_save") or ()]
        return [
            name
            for name in self.shapes
            if ".lora_" not in name and "trainable_tokens" not in name and not any(part in name for part in saved)
        ]

    @property
    def is_plain_lora(self) -> bool:
        """Whether all it does to the base is to add B A to linear layers."""
        return all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in self.shapes)


@dataclass(frozen=True, slots=True)
class Standing:
    """All that has to be loaded for a checkpoint, from below."""

    model: Path | None = None  # a whole model in place of the base
    merged: tuple[Path, ...] = ()  # adapters merged into it, in order
    adapter: Path | None = None  # the adapter on top

    @property
    def below(self) -> "Standing":
        """What an adapter needs that was trained on this checkpoint, merged."""
        return Standing(self.model, self.merged + ((self.adapter,) if self.adapter else ()))

    @property
    def adapters(self) -> tuple[Path, ...]:
        return self.below.merged


def fetched(name: str, source: Source) -> Path:
    """The folder of a checkpoint; what is on the hub is downloaded, but for pickles and code.

    Raises: ConfigError if it is nowhere.
    """
    folder = Path(source.path)
    where = f"checkpoints.{name}: path = {source.path!r}"
    if folder.is_dir():
        if source.revision is not None:
            raise ConfigError(
                f"{where} is a local folder, but revision = {source.revision!r}; expected a revision with a hub id "
                "only. Remove it."
            )
        return folder
    if folder.exists():
        raise ConfigError(f"{where}: is a file; expected the folder of an adapter or a model. Give its folder.")
    if source.path.startswith(("/", ".", "~")) or source.path.count("/") != 1:
        raise ConfigError(f"{where}: no such folder; expected an adapter or a model. Check the path.")
    try:
        return downloaded(source.path, source.revision)
    except Exception as error:  # of the hub's client and its HTTP client, of many kinds
        why = why_not("model", source.path, source.revision, error) or f"{reason(error)} Check the path."
        raise ConfigError(f"{where}: no such folder here. {why}") from None


def downloaded(hub_id: str, revision: str | None) -> Path:
    """The folder, in the hub's cache, of what is on the hub."""
    with hub_or_cache("model", hub_id, revision):
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=FILES_READ))


def is_adapter(folder: Path) -> bool:
    """Whether a checkpoint is an adapter, and not a whole model.

    Raises: ConfigError if it is neither, or its weights are pickles.
    """
    if (folder / CONFIG_FILE).is_file():
        _refuse_pickles(folder, WEIGHTS_FILE, "adapter_model.bin")
        return True
    if (folder / "config.json").is_file():
        _refuse_pickles(folder, "*.safetensors", "*.bin")
        return False
    below = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
    there = f" Adapters in it: {', '.join(below[:8])}." if below else f" There: {contents(folder)}."
    raise ConfigError(
        f"{folder}: neither {CONFIG_FILE} nor config.json; expected an adapter or a model.{there} Give one of them."
    )


def _refuse_pickles(folder: Path, wanted: str, pickled: str) -> None:
    if any(folder.glob(wanted)):
        return
    if any(folder.glob(pickled)):
        raise ConfigError(
            f"{folder}: its weights are pickled ({next(folder.glob(pickled)).name}), and reading a pickle runs what is "
            f"in it; expected {wanted}. Save it again with safe_serialization=True, in a place that you trust."
        )
    raise ConfigError(f"{folder}: no {wanted}; there: {contents(folder)}. Copy the weights there.")


def read_adapter(folder: Path) -> Adapter:
    """Looks through an adapter's folder; no weights are read.

    Raises: ConfigError for an adapter that cannot be audited, and why.
    """
    file = folder / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        _check_types(config)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise ConfigError(f"{file}: cannot be read; expected a PEFT LoRA configuration. Save it again.") from None
    for key, allowed in _ONLY.items():
        if config.get(key) not in allowed:
            raise ConfigError(
                f"{file}: {key} = {config.get(key)!r}; expected {allowed[-1]!r}. Merge the adapter into its base and "
                "audit the merged model."
            )
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as tensors:
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{folder / WEIGHTS_FILE}: no whole safetensors file: {reason(error)} Copy or download it again."
        ) from None
    return Adapter(folder, config, shapes)


def _check_types(config: dict[str, Any]) -> None:
    """Of what is read from it here; PEFT looks at the rest. Raises: LookupError, TypeError or ValueError."""
    ranks, alphas = (config.get(name) or {} for name in ("rank_pattern", "alpha_pattern"))
    saved = config.get("modules_to_save") or []
    if not (isinstance(ranks, dict) and isinstance(alphas, dict) and isinstance(saved, list)):
        raise TypeError
    for number in (config["r"], config["lora_alpha"], *ranks.values(), *alphas.values()):
        float(number)


@contextmanager
def foreign_policy(base: PreTrainedModel, standing: Standing, keys: ModelKeys) -> Iterator[nn.Module]:
    """The policy of a checkpoint, for scoring; on leaving, the base is as it was.

    Raises: ConfigError for weights that do not fit, or are not whole.
    """
    model = base if standing.model is None else load_model(_whole(keys, standing.model))
    with _modules_kept(model), _merged(model, standing.merged) as merged:
        if standing.adapter is None:
            yield merged
            return
        policy = _loaded(merged, standing.adapter)
        try:
            fuse_lora(policy)
            yield policy.eval()
        finally:
            policy.unload()


def engine_for(policy: nn.Module, longest: int, attention: str) -> str:
    """As `choose_engine`, for a policy: an adapter on the head, say, cannot be read in packed trees.

    `attention` is the implementation that the base was loaded with.
    """
    model = base_of(policy)
    model.set_attn_implementation(attention)
    return choose_engine(model, longest)


def _whole(keys: ModelKeys, folder: Path) -> ModelKeys:
    """No code that comes with a checkpoint is run, whatever is allowed to the base."""
    names = {"model_name_or_path": str(folder), "model_revision": None, "trust_remote_code": False}
    return keys.model_copy(update=names)


@contextmanager
def _merged(model: PreTrainedModel, adapters: Sequence[Path]) -> Iterator[PreTrainedModel]:
    """The model with adapters added to its weights in order, in float32, then rounded to its own precision, once."""
    if not adapters:
        yield model
        return
    originals = {parameter: parameter.data for parameter in model.parameters()}
    dtype = model.dtype
    try:
        for parameter in originals:
            parameter.data = parameter.data.to(torch.float32, copy=True)
        for folder in adapters:
            _loaded(model, folder).merge_and_unload()
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        yield model.requires_grad_(False).eval()
    finally:
        for parameter, data in originals.items():
            parameter.data = data


@contextmanager
def _modules_kept(model: PreTrainedModel) -> Iterator[None]:
    """PEFT leaves an adapter's saved modules in the place of those that they replaced, even when it is taken off."""
    modules = dict(model.named_modules())
    try:
        yield
    finally:
        for name, module in modules.items():
            parent, _, attribute = name.rpartition(".")
            if name and getattr(modules[parent], attribute) is not module:
                setattr(modules[parent], attribute, module)


def _loaded(model: PreTrainedModel, folder: Path) -> PeftModel:
    _check_base_weights(model, folder)
    try:
        with torch.random.fork_rng():  # PEFT draws initial weights before it reads those of the file
            policy = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except Exception as error:  # of every kind, and all of them about a file that is the user's
        raise ConfigError(
            f"{folder}: does not fit the base: {reason(error)} Expected an adapter that was trained on it. Check "
            "model_name_or_path, and what the checkpoint stands on (on:)."
        ) from error
    _check_all_read(policy, folder)
    return policy


def _check_all_read(policy: PeftModel, folder: Path) -> None:
    """PEFT passes over tensors whose module is not there, and draws those that are not in the file."""
    used = set(get_peft_model_state_dict(policy, save_embedding_layers=False))
    adapter = read_adapter(folder)
    own = set(adapter.shapes) - set(adapter.base_weights)
    unused, missing = sorted(own - used), sorted(used - own)
    if unused or missing:
        policy.unload()
        kind, names = ("fit no module of the base", unused) if unused else ("are not in the file", missing)
        raise ConfigError(
            f"{folder}: {len(names)} of the adapter's tensors {kind}, {names[0]!r} the first; expected all of them. "
            "Was it trained on another base?"
        )


def _check_base_weights(model: PreTrainedModel, folder: Path) -> None:
    """Weights of the base in an adapter's file must be the base's: loading them would change it for all others.

    Raises: ConfigError where they are others, as after tokens were added.
    """
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        for name in read_adapter(folder).base_weights:
            module = name.removeprefix("base_model.model.").removesuffix(".weight").replace(".base_layer", "")
            here = _weight(model, module)
            there = file.get_tensor(name)
            if here is None or here.shape != there.shape or not torch.equal(here.cpu(), there.to(here.dtype)):
                raise ConfigError(
                    f"{folder}: holds {module!r} of {tuple(there.shape)} besides the adapter, which is not the base's; "
                    "expected the base's vocabulary. Merge the adapter into its base and audit the merged model."
                )


def _weight(model: PreTrainedModel, module: str) -> Tensor | None:
    found = dict(model.named_modules()).get(module)
    weight = getattr(found, "weight", None)
    return weight.detach() if isinstance(weight, Tensor) else None
