"""The weight files of a model: whether they are there, whole, unquantised, and what its configuration describes."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedConfig

from seqdpo.errors import ConfigError
from seqdpo.policy.quantised import is_quantised, plain_weight
from seqdpo.preferences.files import contents
from seqdpo.study.keys import ModelKeys
from seqdpo.wording import reason

_MAX_NAMED = 3  # tensors in a message
#: What transformers reads, the first that is there: a file, or an index that names several.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
#: Beside a configuration that says nothing: files of AutoGPTQ and AutoAWQ before transformers knew of them.
_QUANTISED_BY = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


def check_unquantised(keys: ModelKeys, config: PreTrainedConfig) -> None:
    """Raises: ConfigError for weights that were rounded to fewer bits, by the name of the method."""
    method = _method(config) or _method(config.get_text_config()) or _method_of_files(Path(keys.model_name_or_path))
    if method is not None:
        raise ConfigError(
            f"model_name_or_path = {keys.model_name_or_path!r}: its weights are quantised ({method}); expected weights "
            "in float32, float16 or bfloat16, on which adapters can be merged and compared exactly. Give the "
            "unquantised model it was made from; dtype: bfloat16 halves the memory."
        )


def _method(config: PreTrainedConfig) -> str | None:
    found = getattr(config, "quantization_config", None) or getattr(config, "compression_config", None)
    if not found:
        return None
    written: dict[str, Any] = found if isinstance(found, dict) else found.to_dict()
    bits = next((name for name in ("load_in_4bit", "load_in_8bit") if written.get(name)), None)
    return str(written.get("quant_method") or written.get("quant_library") or bits or "by its quantization_config")


def _method_of_files(folder: Path) -> str | None:
    return next((method for name, method in _QUANTISED_BY.items() if (folder / name).is_file()), None)


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads the weights of a local model from; none where there are no weights.

    Raises: ConfigError where an index cannot be read, or names a file that is not there.
    """
    first = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if first is None:
        return []
    return _shards(first) if first.suffix == ".json" else [first]


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{index}: cannot be read ({reason(error)}); expected a weight_map from tensors to files. Save or download "
            "the model again."
        ) from None
    files = [index.with_name(name) for name in sorted(names)]
    gone = [path.name for path in files if not path.is_file()]
    if gone:
        raise ConfigError(
            f"model_name_or_path = {str(index.parent)!r}: its weights cannot be loaded: {index.name} names "
            f"{_some(gone)}, not there ({len(gone)} of {len(files)} files); expected all of them. Copy or download the "
            "rest."
        )
    return files


def check_weight_files(keys: ModelKeys) -> None:
    """Looks at the weight files of a local model without reading the weights.

    Raises: ConfigError if there are none, or one of them is cut off.
    """
    folder = Path(keys.model_name_or_path)
    if not folder.is_dir():
        return
    files = weight_files(folder)
    if not files:
        raise ConfigError(f"{folder}: no weights; expected *.safetensors beside {contents(folder)}. Copy them there.")
    for path in files:
        if path.suffix == ".safetensors":
            _check_safetensors(path)


def _check_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{path}: no whole safetensors file: {reason(error)} Copy or download it again ({path.stat().st_size:,} "
            "bytes are here)."
        ) from None


def check_tensors(keys: ModelKeys, found: dict[str, Any]) -> None:
    """transformers would draw at random what the files lack or hold in another shape, and only warn."""
    missing = sorted(found["missing_keys"])
    misshapen = [
        f"{name} is {tuple(there)} where config.json wants {tuple(here)}"
        for name, there, here in found["mismatched_keys"]
    ]
    problems = [
        f"{len(names)} tensors {kind}: {_some(names)}"
        for kind, names in (("missing", missing), ("of another shape", sorted(misshapen)))
        if names
    ]
    if problems:
        raise ConfigError(
            f"model_name_or_path = {keys.model_name_or_path!r}: {'; '.join(problems)}; expected weights for every "
            "part of the model that config.json describes. Save or download it again."
        )


def check_finite(keys: ModelKeys, model: nn.Module) -> None:
    """A weight that is no number makes every log-probability none; better to hear which one it is."""
    broken = [
        name
        for name, weight in model.named_parameters()
        if not _numbers(model, name, weight).sum(dtype=torch.float32).isfinite()
    ]
    if broken:
        raise ConfigError(
            f"model_name_or_path = {keys.model_name_or_path!r}: {_some(broken)}: not all numbers in it are finite; "
            "expected finite weights. Save or download it again."
        )


def _numbers(model: nn.Module, name: str, weight: torch.Tensor) -> torch.Tensor:
    module = model.get_submodule(name.rpartition(".")[0])
    return plain_weight(module) if is_quantised(module) and weight is module.weight else weight


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")
