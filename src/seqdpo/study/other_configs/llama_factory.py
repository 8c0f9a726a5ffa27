"""LLaMA-Factory's DPO, `llamafactory-cli train FILE` with `stage: dpo` (read in the sources of August 2026)."""

import json
from pathlib import Path
from typing import Any

from seqdpo.errors import ConfigError
from seqdpo.study.other_configs.sources import TEXT, add_objective, columns, split_keys
from seqdpo.study.other_configs.stage_file import StageFile, Start, Tool
from seqdpo.wording import brief, did_you_mean

_INFO = "dataset_info.json"
_NO_DROPOUT = "LLaMA-Factory's DPO sets all dropout to 0, that of LoRA too"
_SMOOTHED = "a study has no smoothed sigmoid loss; loss_type: robust with label_smoothing is near it"
_AUDIT = "Two models that are trained already are compared by: seqdpo audit"
#: Tags of a chat that are ShareGPT's or OpenAI's own; both are read.
_READ_TAGS = (
    {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "system_tag": "system"},
    {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
)


def _read(file: StageFile) -> None:
    _read_method(file)
    _read_precision(file)
    if dropout := file.take("lora_dropout"):
        file.leave("lora_dropout", dropout, _NO_DROPOUT)
    rank = file.given.get("lora_rank", TOOL.defaults["lora_r"])
    if not file.given.get("lora_alpha") and isinstance(rank, int):
        file.fill("lora_alpha", 2.0 * rank, "lora_rank x 2")
    if file.take("disable_gradient_checkpointing"):
        file.write("gradient_checkpointing", False, "disable_gradient_checkpointing")
    file.adapter = file.take("adapter_name_or_path")
    file.merged_adapter = bool(file.take("create_new_adapter"))
    if smoothing := file.take("dpo_label_smoothing"):
        file.leave("dpo_label_smoothing", smoothing, _SMOOTHED)
    _read_data(file)


def _read_method(file: StageFile) -> None:
    stage, kind, loss = file.take("stage", "sft"), file.take("finetuning_type", "lora"), file.given.get("pref_loss")
    if stage != "dpo":
        file.problems.append(f"stage = {stage!r}; expected stage: dpo")
    if kind != "lora":
        file.problems.append(f"finetuning_type = {kind!r}; expected lora, the adapter of a study. {_AUDIT}")
    if loss in ("orpo", "simpo", "kto_pair"):
        file.take("pref_loss")
        file.problems.append(f"pref_loss = {loss!r} is not DPO; expected sigmoid, hinge or ipo")


def _read_precision(file: StageFile) -> None:
    half = [key for key in ("bf16", "pure_bf16", "fp16") if file.take(key)]
    if half:
        file.write("dtype", "bfloat16", f"{half[0]}: true")
    else:
        file.fill("dtype", "bfloat16", "that of the weights, taken to be bfloat16")
    if half == ["fp16"]:
        file.leave("fp16", True, "the base is kept in float32 or bfloat16; bfloat16 is written")


def _read_data(file: StageFile) -> None:
    folder, limit = file.take("dataset_dir", "data"), file.take("max_samples")
    names, held_out = (_names(file.take(key)) for key in ("dataset", "eval_dataset"))
    if not names:
        file.problems.append("dataset is not there; expected the names of the pairs that are trained on")
    known = _known(file, folder, [*names, *held_out])
    evaluated = held_out[0] if len(names) == len(held_out) == 1 else None
    for name in names:
        _add(file, name, known.get(name, {}), known.get(evaluated or "", {}), limit)
    if held_out and not evaluated:
        file.leave("eval_dataset", held_out, "held-out pairs stand with their objective: {train: …, eval: …}")


def _names(value: Any) -> list[str]:
    listed = value if isinstance(value, list) else str(value or "").split(",")
    return [str(name).strip() for name in listed if str(name).strip()]


def _known(file: StageFile, folder: Any, names: list[str]) -> dict[str, dict[str, Any]]:
    """What dataset_info.json says of each name, with its `source`: a path or a hub id."""
    if folder == "ONLINE":
        return {name: {"source": name, "columns": {}} for name in names}
    places = [Path(str(folder)), file.path.parent / str(folder), file.path.parent]
    place = next((place for place in places if (place / _INFO).is_file()), None)
    if place is None:
        tried = ", ".join(dict.fromkeys(str(place / _INFO) for place in places))
        file.problems.append(
            f"dataset = {', '.join(names)}, and no {_INFO} says what that is (looked for {tried}). Copy it beside the "
            "file, or run the command where dataset_dir is"
        )
        return {}
    info = _read_info(place / _INFO)
    found = {}
    for name in names:
        if not isinstance(info.get(name), dict):
            near = did_you_mean(name, info)
            file.problems.append(f"dataset {name!r} is not in {place / _INFO}{f'.{near}'.removesuffix('?')}")
        else:
            found[name] = dict(info[name]) | {"source": _source(file, name, info[name], place)}
    return found


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({brief(str(error))}); expected JSON. Correct it.") from None
    if not isinstance(info, dict):
        raise ConfigError(f"{path}: holds {brief(info)}; expected names with descriptions. Correct it.")
    return info


def _source(file: StageFile, name: str, described: dict[str, Any], place: Path) -> str:
    if not described.get("ranking"):
        file.problems.append(f"dataset {name!r} has no `ranking: true` in {_INFO}; expected preference pairs")
    if described.get("hf_hub_url"):
        return str(described["hf_hub_url"])
    if described.get("file_name"):
        return str(place / described["file_name"])
    elsewhere = next(
        (key for key in ("ms_hub_url", "om_hub_url", "script_url", "cloud_file_name") if key in described), ""
    )
    file.problems.append(f"dataset {name!r} is read by {elsewhere or 'nothing'}; expected file_name or hf_hub_url")
    return name


def _add(file: StageFile, name: str, described: dict[str, Any], held_out: dict[str, Any], limit: Any) -> None:
    if not described:
        return
    source: Any = described["source"]
    if held_out:
        source = {"train": source, "eval": held_out["source"]}
    limit = described.get("num_samples") or limit
    if limit:
        file.notes.append(f"{name}: {limit} pairs are drawn by hash; LLaMA-Factory takes the first ones.")
    add_objective(
        file,
        source,
        name,
        subset=described.get("subset") or described.get("folder"),
        columns=_columns(file, name, described),
        max_train_pairs=limit,
        **split_keys(file, described.get("split"), None),
    )


def _columns(file: StageFile, name: str, described: dict[str, Any]) -> dict[str, str]:
    given = described.get("columns") or {}
    chat = described.get("formatting", "alpaca") != "alpaca"
    unread = [key for key in ("system", "history", "images", "videos", "audios") if given.get(key)]
    if not chat and given.get("query"):
        unread.append("query")
    for key in unread:
        file.leave(f"{name}.columns.{key}", given[key], "only prompt and responses are read: write it into the prompt")
    if chat:
        tags = described.get("tags") or {}
        if tags and not any(
            tags.items() <= (known | {key: tags.get(key) for key in _ROLES}).items() for known in _READ_TAGS
        ):
            file.leave(f"{name}.tags", tags, "roles and contents are read under OpenAI's or ShareGPT's names")
        prompt = given.get("messages", "conversations")
    else:
        file.notes.append(f"{name}: {TEXT.format(tool='LLaMA-Factory')}.")
        prompt = given.get("prompt", "instruction")
    return columns(prompt=prompt, chosen=given.get("chosen"), rejected=given.get("rejected"), tools=given.get("tools"))


def _begins(file: StageFile, first: StageFile) -> Start:
    if file.written["model_name_or_path"].value != first.written["model_name_or_path"].value:
        told = f"its model is taken as that of {first.path.name} with the adapter merged; the reference is that model"
        return Start("previous", "new_on_merged", told)
    if not file.adapter:
        told = (
            "without adapter_name_or_path it trains a fresh adapter on the base, so it does not follow the first "
            "stage. The study's second stage goes on from the first one's adapter; the reference is the base, as there"
        )
        return Start("base", "continue", told)
    if file.merged_adapter:
        told = "create_new_adapter merges the first stage and trains a new adapter; the reference is the merged model"
        return Start("previous", "new_on_merged", told)
    told = "it goes on from the adapter; LLaMA-Factory's reference is then the base, with the adapter switched off"
    return Start("base", "continue", told)


#: Tags that name roles of tool use, which no response may have.
_ROLES = ("observation_tag", "function_tag", "system_tag")
TOOL = Tool(
    "LLaMA-Factory",
    frozenset(
        "stage finetuning_type lora_rank lora_target pref_beta pref_loss dataset dataset_dir template cutoff_len "
        "val_size plot_loss do_train overwrite_cache".split()
    ),
    {
        "lora_r": 8,
        "beta": 0.1,
        "num_train_epochs": 3,
        "gradient_checkpointing": True,
        "max_length": 2048,
        "excess_length_strategy": "truncate",
    },
    _read,
    _begins,
)
