"""Axolotl's DPO, `axolotl train FILE` with `rl: dpo` (read in the schemas of July 2026)."""

from typing import Any

from seqdpo.study.other_configs.sources import (
    TEXT,
    add_objective,
    columns,
    data_file,
    entries,
    leave_entry,
    split_keys,
)
from seqdpo.study.other_configs.stage_file import StageFile, Start, Tool

_NO_DROPOUT = "TRL's DPO, which Axolotl calls, sets all dropout to 0, that of LoRA too"
#: Where the prompt stands in the rows of a `type`; "": in what both responses begin with.
_PROMPT_OF_TYPE = {"intel": "question", "icr": "input", "argilla_chat": "", "ultra": "prompt", "prompt_pairs": "prompt"}
_OF_TEXT = ("intel", "icr", "prompt_pairs", "argilla", "default", "nectar")


def _read(file: StageFile) -> None:
    _read_method(file)
    if isinstance(file.given.get("trl"), dict):
        file.given |= {key: value for key, value in file.take("trl").items() if value is not None}
    _read_precision(file)
    if file.take("lora_target_linear"):
        file.write("lora_target_modules", "all-linear", "lora_target_linear")
        file.take("lora_target_modules")
    elif not file.given.get("lora_target_modules"):
        file.notes.append("The file names no modules: lora_target_modules: all-linear is written.")
    if dropout := file.take("lora_dropout"):
        file.leave("lora_dropout", dropout, _NO_DROPOUT)
    if file.given.get("chat_template") == "jinja":
        file.take("chat_template")
    file.adapter = file.take("lora_model_dir")
    _read_data(file)


def _read_method(file: StageFile) -> None:
    method, adapter = file.take("rl"), file.take("adapter")
    if method not in ("dpo", "ipo"):
        found = f"rl = {method!r}" if method else "rl is not there, so this is supervised fine-tuning"
        file.problems.append(f"{found}; expected rl: dpo")
    elif method == "ipo":
        file.write("loss_type", "ipo", "rl: ipo")
    if adapter not in ("lora", "qlora"):
        found = f"adapter = {adapter!r}" if adapter else "adapter is not there, so every weight is trained"
        file.problems.append(
            f"{found}; expected adapter: lora. Two models that are trained already are compared by: seqdpo audit"
        )


def _read_precision(file: StageFile) -> None:
    flags = {key: file.take(key) for key in ("bf16", "fp16", "bfloat16", "float16")}
    half = [f"{key}: {str(value).lower()}" for key, value in flags.items() if value not in (None, False)]
    full = flags["bf16"] is False and not half
    if half or full:
        file.write("dtype", "float32" if full else "bfloat16", ", ".join(half) or "bf16: false")
    else:
        file.fill("dtype", "bfloat16", "bf16: auto")
    if flags["fp16"] or flags["float16"]:
        file.leave("fp16", True, "the base is kept in float32 or bfloat16; bfloat16 is written")


def _read_data(file: StageFile) -> None:
    held_out = [entry["path"] for entry in entries(file, "test_datasets")]
    sources = list(entries(file, "datasets"))
    if not sources:
        file.problems.append("datasets is not there; expected the pairs that are trained on")
    for entry in sources:
        path = data_file(entry.pop("path"), entry.pop("data_files", None))
        entry.pop("ds_type", None)
        source = {"train": path, "eval": held_out[0]} if len(sources) == len(held_out) == 1 else path
        mapped = _columns(file, entry)
        splits = split_keys(file, entry.pop("split", None), None)
        revision = entry.pop("revision", None)
        add_objective(file, source, subset=entry.pop("name", None), dataset_revision=revision, columns=mapped, **splits)
        leave_entry(file, "datasets", entry)
    if held_out and not len(sources) == len(held_out) == 1:
        file.leave("test_datasets", held_out, "held-out pairs stand with their objective: {train: …, eval: …}")


def _columns(file: StageFile, entry: dict[str, Any]) -> dict[str, str]:
    """The columns that the `type` of a source reads."""
    kind = entry.pop("type", None)
    if isinstance(kind, dict):
        return _columns_of_user(file, kind)
    family, _, form = str(kind or "").partition(".")
    if family == "chat_template":
        return _columns_of_messages(entry, form)
    if form in _OF_TEXT:
        file.notes.append(f"type: {kind}: {TEXT.format(tool='Axolotl')}.")
    elif family and form not in _PROMPT_OF_TYPE:
        file.leave("datasets.type", kind, "not known; rows are read as prompt, chosen and rejected")
    return columns(prompt=_PROMPT_OF_TYPE.get(form, "prompt"))


def _columns_of_messages(entry: dict[str, Any], form: str) -> dict[str, str]:
    """`chat_template.default` has the prompt as messages, `argilla_chat` in front of both responses."""
    for key in ("roles", "message_property_mappings"):
        if _is_usual(entry.get(key, {})):
            entry.pop(key, None)
    prompt = entry.pop("field_messages", "messages")
    given = {name: entry.pop(f"field_{name}", name) for name in ("chosen", "rejected")}
    return columns(prompt="" if form == "argilla_chat" else prompt, **given)


def _columns_of_user(file: StageFile, kind: dict[str, Any]) -> dict[str, str]:
    fields = {name: kind.get(f"field_{name}") for name in ("prompt", "chosen", "rejected")}
    for key, value in kind.items():
        if value and key.removeprefix("field_") not in fields:
            file.leave(f"datasets.type.{key}", value, "texts are read as they stand")
    file.notes.append(f"type with fields: {TEXT.format(tool='Axolotl')}.")
    return columns(**fields)


def _is_usual(mapping: Any) -> bool:
    """Names that stand for themselves, as in `roles: {user: [user]}`."""
    return isinstance(mapping, dict) and all(value in (key, [key]) for key, value in mapping.items())


def _begins(file: StageFile, first: StageFile) -> Start:
    if file.written["model_name_or_path"].value != first.written["model_name_or_path"].value:
        told = f"its model is taken as that of {first.path.name} with the adapter merged; the reference is that model"
        return Start("previous", "new_on_merged", told)
    unread = " (of lora_model_dir only the configuration is read)" if file.adapter else ""
    told = (
        f"as Axolotl's code reads, it trains a fresh adapter on the base{unread}, so it does not follow the first "
        "stage. The study's second stage goes on from the first one's adapter; the reference is the base, as there"
    )
    return Start("base", "continue", told)


TOOL = Tool(
    "Axolotl",
    frozenset(
        "base_model rl adapter micro_batch_size num_epochs sequence_len val_set_size lora_target_linear rl_beta "
        "lora_model_dir dataset_prepared_path flash_attention sample_packing".split()
    ),
    {
        "beta": 0.1,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.03,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 1,
        "max_length": 512,
    },
    _read,
    _begins,
)
