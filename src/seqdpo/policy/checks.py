"""What can be wrong with the model that a study names, told so that its user can mend it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import transformers
from jinja2 import TemplateSyntaxError
from torch import nn
from transformers import PreTrainedTokenizerBase

from seqdpo import hub
from seqdpo.errors import ConfigError, SeqdpoError
from seqdpo.preferences.chat import EndlessTemplateError, time_limit
from seqdpo.preferences.files import contents, not_found
from seqdpo.study.keys import ModelKeys
from seqdpo.wording import reason

_EXPECTED = {
    "configuration": f"config.json of a causal language model that transformers {transformers.__version__} knows",
    "tokenizer": "tokenizer.json and tokenizer_config.json in the folder",
    "weights": "*.safetensors that fit config.json",
}


@contextmanager
def loading(keys: ModelKeys, what: str) -> Iterator[None]:
    """Turns what transformers says about a wrong model into one message, and keeps its progress bars away."""
    local = _is_local(keys)
    try:
        with _without_bars(), nullcontext() if local else hub.hub_or_cache("model", *_asked(keys)):
            yield
    except SeqdpoError:
        raise
    except Exception as error:  # of every kind, and all of them about files that are the user's
        raise ConfigError(_not_loaded(keys, what, local, error)) from error


def _not_loaded(keys: ModelKeys, what: str, local: bool, error: Exception) -> str:
    name = keys.model_name_or_path
    trust = " If you trust the code in it: trust_remote_code: true." if "trust_remote_code" in str(error) else ""
    if local:
        return (
            f"model_name_or_path = {name!r}: its {what} cannot be loaded; expected {_EXPECTED[what]}. Save or "
            f"download it again.{trust} transformers says: {reason(error)}"
        )
    because = hub.why_not("model", *_asked(keys), error) or (
        f"From the hub its {what} cannot be loaded; expected {_EXPECTED[what]}. Check the name and model_revision."
        f"{trust} transformers says: {reason(error)}"
    )
    return f"{not_found('model_name_or_path', name)} {because}"


def _asked(keys: ModelKeys) -> tuple[str, str | None]:
    return keys.model_name_or_path, keys.model_revision


@contextmanager
def _without_bars() -> Iterator[None]:
    shown = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.logging.enable_progress_bar()


def _is_local(keys: ModelKeys) -> bool:
    """Whether the model is a folder here, and not on the hub.

    Raises: ConfigError if it can be neither, or the folder cannot be a model's.
    """
    name = keys.model_name_or_path
    folder = Path(name)
    try:
        if folder.is_dir():
            _check_folder(keys, folder)
            return True
        if folder.exists():
            raise ConfigError(
                f"model_name_or_path = {name!r}: is a file; expected a model's folder or a hub id. Give its folder."
            )
        if not hub.MODEL_ID.fullmatch(name):
            raise ConfigError(
                not_found("model_name_or_path", name)
                + " Check the path, or give a hub id such as 'meta-llama/Llama-3.1-8B-Instruct'."
            )
    except OSError as error:
        raise ConfigError(
            f"model_name_or_path = {name!r}: cannot be read: {error.strerror}. Check its rights."
        ) from None
    return False


def _check_folder(keys: ModelKeys, folder: Path) -> None:
    if keys.model_revision is not None:
        raise ConfigError(
            f"model_revision = {keys.model_revision!r}, but model_name_or_path = {str(folder)!r} is a local folder; "
            "expected a revision with a hub id only. Remove model_revision."
        )
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"model_name_or_path = {str(folder)!r}: an adapter{_base_of(folder)}; expected a whole model. "
            "Give the adapter's base model."
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model_name_or_path = {str(folder)!r}: no config.json; there: {contents(folder)}; expected config.json, "
            "tokenizer and *.safetensors. Check the path."
        )


def _base_of(adapter: Path) -> str:
    try:
        base = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return f" of {base!r}"


def check_causal(keys: ModelKeys, model: nn.Module) -> None:
    """transformers builds encoders such as BERT as language models whose tokens see those that come after."""
    causal = [flag for module in model.modules() if isinstance(flag := getattr(module, "is_causal", None), bool)]
    if causal and not any(causal):
        raise ConfigError(
            f"model_name_or_path = {keys.model_name_or_path!r}: {type(model).__name__} reads text in both directions; "
            "expected a causal language model, such as a Llama or a Qwen. Choose another model."
        )


def check_template(keys: ModelKeys, tokenizer: PreTrainedTokenizerBase) -> None:
    try:
        if tokenizer.chat_template:
            with time_limit():
                tokenizer.apply_chat_template([{"role": "user", "content": "A question."}], tokenize=False)
    except TemplateSyntaxError as error:
        where = keys.chat_template_path or f"chat template of {keys.model_name_or_path!r}"
        raise ConfigError(
            f"{where}, line {error.lineno}: {error.message}; expected a chat template in Jinja. Correct it, or give "
            "another one with chat_template_path."
        ) from None
    except EndlessTemplateError:
        raise
    except Exception:  # what one conversation runs into says nothing of the others; those are counted
        return
