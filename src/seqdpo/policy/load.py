"""Loading the base model and its tokenizer, with errors that say what to do; counting and naming its weights."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from seqdpo.errors import ConfigError, SeqdpoError
from seqdpo.hub import cached_commit, is_cached
from seqdpo.policy.adapters import new_adapter
from seqdpo.policy.checks import check_causal, check_template, loading
from seqdpo.policy.library import keep_softcap
from seqdpo.policy.quantised import BYTES, bits_of, check_quantisation, keep_gradients, named, quantisation
from seqdpo.policy.weights import (
    WEIGHTS,
    check_finite,
    check_tensors,
    check_unquantised,
    check_weight_files,
    weight_files,
)
from seqdpo.preferences.files import not_found
from seqdpo.study.keys import ModelKeys, PolicyKeys
from seqdpo.wording import reason

#: What Notepad writes before a text; no part of a chat template.
BOM = "\ufeff"


class ParameterCount(NamedTuple):
    """Sizes of the policy; the percentage is trainable / total, adapter included, as PEFT prints it."""

    trainable: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.trainable / self.total


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
        assert accelerator is not None
        return accelerator
    return torch.device("cpu")


def load_tokenizer(keys: ModelKeys) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with the chat template of `chat_template_path` where one is given."""
    with loading(keys, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(keys.model_name_or_path, **_origin(keys))
    if keys.chat_template_path is not None:
        tokenizer.chat_template = _chat_template(keys.chat_template_path)
    elif isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = tokenizer.chat_template.removeprefix(BOM)
    check_template(keys, tokenizer)
    return tokenizer


def load_config(keys: ModelKeys) -> PreTrainedConfig:
    """The model's configuration.

    Raises: ConfigError where it cannot be read, or its weights are quantised.
    """
    with loading(keys, "configuration"):
        config = AutoConfig.from_pretrained(keys.model_name_or_path, **_origin(keys))
    check_unquantised(keys, config)
    return config


def context_length(keys: ModelKeys) -> int | None:
    """Tokens that the model reads at most; None where its configuration does not say."""
    length: int | None = getattr(load_config(keys).get_text_config(), "max_position_embeddings", None)
    return length


def load_generation_config(keys: ModelKeys) -> GenerationConfig:
    """The settings that come with the model, as a model that is loaded has them."""
    config = load_config(keys)
    try:
        return GenerationConfig.from_pretrained(keys.model_name_or_path, revision=_origin(keys)["revision"])
    except OSError:  # it has no generation_config.json
        return GenerationConfig.from_model_config(config)


def load_model(keys: ModelKeys) -> PreTrainedModel:
    """The base model with frozen weights, without dropout, on the device, in evaluation mode."""
    load_config(keys)
    quantised = quantisation(keys)
    if quantised is None:
        model = _from_files(keys).to(device())
    else:
        model = _from_files(keys, quantization_config=quantised, device_map={"": str(device())})
        keep_gradients(model)
    keep_softcap(model)
    model.requires_grad_(False)
    _disable_dropout(model)
    model.eval()
    check_finite(keys, model)
    return model


def _from_files(keys: ModelKeys, **options: Any) -> PreTrainedModel:
    with loading(keys, "weights"):
        model, found = AutoModelForCausalLM.from_pretrained(
            keys.model_name_or_path,
            dtype=getattr(torch, keys.dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **options,
            **_origin(keys),
        )
    check_tensors(keys, found)
    return model


def check_weights(keys: ModelKeys) -> None:
    """Whether the weight files of a local model are those that its configuration describes; no weight is read.

    Raises: ConfigError where they are to be rounded, and nothing here can do that; for files that are missing or cut off, and tensors that are missing or of another shape.
    """
    check_quantisation(keys)
    if Path(keys.model_name_or_path).is_dir():
        check_weight_files(keys)
        _from_files(keys, device_map="meta")


def outline(keys: ModelKeys) -> PreTrainedModel:
    """The model without weights, from its configuration alone, on torch's meta device.

    Raises: ConfigError if it is no causal language model.
    """
    config = load_config(keys)
    with torch.device("meta"), loading(keys, "configuration"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=keys.trust_remote_code)
    check_causal(keys, model)
    return model


def count_parameters(keys: PolicyKeys) -> ParameterCount:
    """The adapter's and the whole policy's parameters, from the model's configuration alone.

    Raises: ConfigError if it is no causal language model, or lora_target_modules does not fit it.
    """
    model = outline(keys)
    with torch.device("meta"):
        parameters = list(new_adapter(model, keys, seed=0).parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return ParameterCount(trainable, sum(parameter.numel() for parameter in parameters))


def has_weights(keys: ModelKeys) -> bool:
    """Whether the base's weights are on this machine: in its folder, or in the hub's cache."""
    folder = Path(keys.model_name_or_path)
    if folder.is_dir():
        return bool(weight_files(folder))
    return is_cached(keys.model_name_or_path, _origin(keys)["revision"], WEIGHTS)


def base_bytes(keys: ModelKeys) -> int:
    """Memory that the base's weights take: in the study's dtype, or fewer bits for its linear layers but the head."""
    model, bits = outline(keys), bits_of(keys)
    total = sum(parameter.numel() for parameter in model.parameters()) * getattr(torch, keys.dtype).itemsize
    if bits is None:
        return total
    head = model.get_output_embeddings()
    linear = sum(one.weight.numel() for one in model.modules() if isinstance(one, nn.Linear) and one is not head)
    return round(total - linear * (getattr(torch, keys.dtype).itemsize - BYTES[bits]))


def model_hash(keys: ModelKeys, progress: Callable[[str], None] = lambda text: None) -> str:
    """A name for the base weights: the hub's commit, or the SHA-256 of the local weight files; with NF4 or LLM.int8
    where they are rounded to it."""
    bits = bits_of(keys)
    return _files_hash(keys, progress) + ("" if bits is None else f" in {named(bits)}")


def _files_hash(keys: ModelKeys, progress: Callable[[str], None]) -> str:
    folder = Path(keys.model_name_or_path)
    if not folder.is_dir():
        return f"{keys.model_name_or_path}@{cached_commit(keys.model_name_or_path, _origin(keys)['revision'])}"
    progress("hashing the base weights")
    digest = hashlib.sha256()
    for path in sorted([*weight_files(folder), folder / "config.json"]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _origin(keys: ModelKeys) -> dict[str, Any]:
    return {"revision": keys.model_revision or "main", "trust_remote_code": keys.trust_remote_code}


def _chat_template(name: str) -> str:
    path = Path(name)
    try:
        if path.is_dir():
            template = _template_of_folder(path)
        elif path.exists():
            template = path.read_text(encoding="utf-8")
        else:
            raise ConfigError(
                not_found("chat_template_path", name) + " Expected a Jinja file or a tokenizer folder. Check the path."
            )
    except SeqdpoError:
        raise
    except Exception as error:  # of every kind, as in policy.checks
        raise ConfigError(
            f"chat_template_path = {name!r}: cannot be read: {reason(error)} Expected a Jinja file or a tokenizer "
            "folder. Check the path."
        ) from error
    if not template:
        raise ConfigError(f"chat_template_path = {name!r}: holds no chat template; expected one. Give another file.")
    return str(template).removeprefix(BOM)


def _template_of_folder(folder: Path) -> str | None:
    """The default template of a tokenizer's folder, read as a file: loading the tokenizer might run code of it."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    templates = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    if isinstance(templates, list):  # several, each with its name
        templates = {one["name"]: one["template"] for one in templates}.get("default")
    return templates if isinstance(templates, str) else None


def _disable_dropout(model: PreTrainedModel) -> None:
    """DPO compares two passes over the same weights; the base's own dropout would only add noise to that.

    Some families keep rates as numbers of a module (OPT, BLOOM) or read them from the configuration (Falcon).
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        _set_dropout_rates_to_zero(module)
    _set_dropout_rates_to_zero(model.config)


def _set_dropout_rates_to_zero(holder: object) -> None:
    for name, value in list(vars(holder).items()):
        if "drop" in name and isinstance(value, float):
            setattr(holder, name, 0.0)
