"""LoRA adapters around one loaded base: made, loaded, stacked, merged, saved, and taken off again."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdpo.errors import RunError
from seqdpo.policy.library import forget_adapters
from seqdpo.policy.lora import fuse_lora
from seqdpo.policy.targets import lora_targets
from seqdpo.study.keys import AdapterKeys, PolicyKeys
from seqdpo.wording import first_line

EARLIER = "earlier"  # PEFT's name for the frozen adapter of `stack`, and for the start of a line
WEIGHTS_FILE = "adapter_model.safetensors"


def lora_config(keys: AdapterKeys) -> LoraConfig:
    return LoraConfig(
        r=keys.lora_r,
        lora_alpha=keys.lora_alpha,
        lora_dropout=keys.lora_dropout,
        target_modules=keys.lora_target_modules,
        task_type="CAUSAL_LM",
    )


@contextmanager
def loaded_adapter(base: PreTrainedModel, folder: Path | None) -> Iterator[nn.Module]:
    """The policy of a checkpoint, for scoring; the base as it is where `folder` is None."""
    if folder is None:
        yield base
        return
    policy = _from_folder(base, folder, trainable=False)
    try:
        yield policy.eval()
    finally:
        _unload(policy)


@contextmanager
def trainable_policy(base: PreTrainedModel, keys: AdapterKeys, parent: Path | None, seed: int) -> Iterator[PeftModel]:
    """A policy whose LoRA weights can be trained, starting from the parent's checkpoint.

    `parent` is the adapter folder of the earlier stage, None for the base. On leaving, the base is as it was.
    A new adapter's initial weights depend on `seed` alone.
    """
    if parent is None:
        with _unloading(new_adapter(base, keys, seed)) as policy:
            yield policy
    elif keys.adapter_mode == "continue":
        with _unloading(_from_folder(base, parent, trainable=True)) as policy:
            yield policy
    elif keys.adapter_mode == "stack":
        with _unloading(_stacked(base, keys, parent, seed)) as policy:
            yield policy
    else:
        with _merged(base, parent) as merged, _unloading(new_adapter(merged, keys, seed)) as policy:
            yield policy


class Line:
    """The policies between two checkpoints: delta W(a) = previous + a * (new - previous)."""

    def __init__(self, policy: PeftModel) -> None:
        self.policy = policy
        self._layers = [layer for layer in policy.modules() if isinstance(layer, LoraLayer)]
        self._scales = [dict(layer.scaling) for layer in self._layers]

    def move_to(self, a: float) -> None:
        """0 is the earlier checkpoint, 1 the later one."""
        weights = {EARLIER: 1 - a, "default": a}
        for layer, scales in zip(self._layers, self._scales, strict=True):
            layer.scaling.update({name: scale * weights[name] for name, scale in scales.items()})


@contextmanager
def line_between(base: PreTrainedModel, previous: Path | None, new: Path) -> Iterator[Line]:
    """The line from one checkpoint's adapter (None: the base) to another's; on leaving, the base is as it was."""
    with _unloading(_from_folder(base, new, trainable=False)) as policy:
        if previous is not None:
            with torch.random.fork_rng():
                policy.load_adapter(str(previous), adapter_name=EARLIER)
            policy.base_model.set_adapter([EARLIER, "default"])
            for parameter in policy.parameters():
                parameter.requires_grad_(False)
        yield Line(policy.eval())


def save_adapter(policy: PeftModel, keys: PolicyKeys, parent: Path | None, folder: Path) -> None:
    """Writes the checkpoint as one adapter that `PeftModel.from_pretrained(base, folder)` loads.

    Where a new adapter was trained on top of the parent's (`new_on_merged`, `stack`) the file holds both, joined
    along the rank, so that it stands on the base alone: dW = [s1 B1, s2 B2] [A1; A2], exactly.
    """
    config = copy(policy.peft_config["default"])
    # only A and B: left to itself PEFT asks the hub for the base's vocabulary, and adds the base's own head
    tensors = get_peft_model_state_dict(policy, adapter_name="default", save_embedding_layers=False)
    if parent is not None and keys.adapter_mode != "continue":
        earlier = LoraConfig.from_pretrained(str(parent))
        tensors = _joined(
            load_file(parent / WEIGHTS_FILE), earlier.lora_alpha / earlier.r, tensors, config.lora_alpha / config.r
        )
        config.r = config.lora_alpha = earlier.r + config.r
    config.base_model_name_or_path = keys.model_name_or_path
    config.revision = keys.model_revision
    _write(config, tensors, folder)


def save_between(previous: Path, new: Path, a: float, folder: Path) -> None:
    """Writes the adapter at `a` between two checkpoints: delta W = (1 - a) * delta W previous + a * delta W new.

    Exact along the rank, [(1 - a) s1 B1, a s2 B2] [A1; A2]; a mean of the factors would have products of one with the
    other. Source: P-SACPO merges so (arXiv 2404.11049); arXiv 2309.06256 finds the best front of many methods.
    """
    tensors, scales, config = [], [], LoraConfig.from_pretrained(str(new))
    for path, weight in ((previous, 1 - a), (new, a)):
        own = LoraConfig.from_pretrained(str(path))
        tensors.append(load_file(path / WEIGHTS_FILE))
        scales.append(weight * own.lora_alpha / own.r)
    config.r += LoraConfig.from_pretrained(str(previous)).r
    config.lora_alpha = config.r
    _write(config, _joined(tensors[0], scales[0], tensors[1], scales[1]), folder)


def _write(config: LoraConfig, tensors: dict[str, Tensor], folder: Path) -> None:
    config.inference_mode = True
    for name, value in vars(config).items():
        if isinstance(value, set):  # whose order changes with PYTHONHASHSEED
            setattr(config, name, sorted(value))
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    on_cpu = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    # not by safetensors' own save_file, whose file only its owner may read
    (folder / WEIGHTS_FILE).write_bytes(save(on_cpu, metadata={"format": "pt"}))


def take_in(base: PreTrainedModel, keys: PolicyKeys, source: Path, folder: Path) -> None:
    """Writes an adapter that was trained elsewhere as `save_adapter` writes a stage's; its weights stay the same."""
    with _unloading(_from_folder(base, source, trainable=False)) as policy:
        save_adapter(policy, keys, None, folder)


def _joined(
    first: dict[str, Tensor], first_scale: float, second: dict[str, Tensor], second_scale: float
) -> dict[str, Tensor]:
    """Both adapters as one whose scale is 1: A stacked by rows (rank first), B by columns (rank last)."""
    joined = {}
    for name, new in second.items():
        old = first[name].to(new.device)
        if "lora_B" in name:
            joined[name] = torch.cat([first_scale * old, second_scale * new], dim=1)
        else:
            joined[name] = torch.cat([old, new], dim=0)
    return joined


@contextmanager
def _unloading(policy: PeftModel) -> Iterator[PeftModel]:
    try:
        yield policy
    finally:
        _unload(policy)


def _unload(policy: PeftModel) -> None:
    forget_adapters(policy.unload())


def new_adapter(base: PreTrainedModel, keys: AdapterKeys, seed: int) -> PeftModel:
    """A fresh adapter around the base.

    Raises: ConfigError if lora_target_modules does not fit it.
    """
    config = _fitted_config(base, keys)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = get_peft_model(base, config)
    fuse_lora(policy)
    return policy


def _fitted_config(base: PreTrainedModel, keys: AdapterKeys) -> LoraConfig:
    config = lora_config(keys)
    config.target_modules = set(lora_targets(base, keys).names)
    return config


def _stacked(base: PreTrainedModel, keys: AdapterKeys, parent: Path, seed: int) -> PeftModel:
    config = _fitted_config(base, keys)
    policy = _from_folder(base, parent, trainable=False, name=EARLIER)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy.add_adapter("default", config)
    fuse_lora(policy)
    policy.base_model.set_adapter([EARLIER, "default"])
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(".default." in name)
    return policy


@contextmanager
def _merged(base: PreTrainedModel, parent: Path) -> Iterator[PreTrainedModel]:
    """The base with the parent's adapter added to its weights; the weights are put back on leaving."""
    policy = _from_folder(base, parent, trainable=False)
    layers = [layer for layer in policy.modules() if hasattr(layer, "base_layer") and hasattr(layer, "lora_A")]
    weights = [layer.base_layer.weight for layer in layers]
    originals = [weight.detach().clone() for weight in weights]
    merged = policy.merge_and_unload()
    forget_adapters(merged)
    try:
        yield merged
    finally:
        with torch.no_grad():
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original)


def _from_folder(base: PreTrainedModel, folder: Path, trainable: bool, name: str = "default") -> PeftModel:
    try:
        with torch.random.fork_rng():  # PEFT draws initial weights before it reads those of the file
            policy = PeftModel.from_pretrained(base, str(folder), adapter_name=name, is_trainable=trainable)
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(
            f"{folder}: the adapter cannot be loaded: {first_line(error)} Remove this stage's folder and run again."
        ) from error
    fuse_lora(policy)
    return policy
