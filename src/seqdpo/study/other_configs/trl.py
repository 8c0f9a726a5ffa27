"""TRL's script for DPO, `trl dpo --config FILE` (read in release 1.16)."""

from seqdpo.study.other_configs.sources import add_objective, data_file, entries, leave_entry, split_keys
from seqdpo.study.other_configs.stage_file import StageFile, Start, Tool

#: Keys of TRL's other trainers.
_OTHERS = {
    **dict.fromkeys(("assistant_only_loss", "completion_only_loss", "dataset_text_field"), "SFT"),
    **dict.fromkeys(("desirable_weight", "undesirable_weight"), "KTO"),
    **dict.fromkeys(("num_generations", "reward_funcs", "reward_model_name_or_path"), "GRPO or RLOO"),
    "center_rewards_coefficient": "reward modelling",
}
_WHOLE_MODEL = (
    "use_peft = false trains every weight; a study trains LoRA adapters. Two models that are trained already are "
    "compared by: seqdpo audit"
)
#: What PEFT takes where no modules are named; of Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3.
_USUAL_TARGETS = ["q_proj", "v_proj"]


def _read(file: StageFile) -> None:
    for key, method in _OTHERS.items():
        if key in file.given:
            file.problems.append(f"{key} is a key of {method}; expected a configuration of DPO")
    _read_adapter(file)
    _read_precision(file)
    _read_data(file)
    if file.given.get("max_length", 1) is None:
        file.leave("max_length", file.take("max_length"), "a study needs a limit")


def _read_adapter(file: StageFile) -> None:
    peft = file.take("use_peft")
    if peft is False:
        file.problems.append(_WHOLE_MODEL)
    elif peft is None:
        file.notes.append(
            "use_peft is not in the file: without --use_peft TRL trains every weight. A study trains a LoRA adapter, "
            "here with TRL's defaults."
        )
    dropout = file.take("lora_dropout")
    if dropout and file.take("disable_dropout", True) is False:
        file.write("lora_dropout", dropout, "lora_dropout")
    elif dropout:
        file.leave("lora_dropout", dropout, "TRL's DPO sets all dropout to 0 (disable_dropout), that of LoRA too")
    if not file.given.get("lora_target_modules"):
        file.notes.append(
            "lora_target_modules is not in the file: PEFT chooses by architecture. Written is its choice for Llama, "
            "Mistral, Qwen and Gemma; correct it for another one."
        )


def _read_precision(file: StageFile) -> None:
    theirs = "dtype" if "dtype" in file.given else "torch_dtype"
    dtype = file.take(theirs)
    if dtype in ("float32", "bfloat16"):
        file.write("dtype", dtype, theirs)
    elif dtype is not None:
        file.leave(theirs, dtype, "expected float32 or bfloat16; bfloat16 is written")
        file.write("dtype", "bfloat16", f"in place of {theirs} = {dtype}")
    if (mixed := file.take("bf16")) is not None:
        file.leave(
            "bf16", mixed, "a pass runs in the dtype of the weights (float32 if there is none), without autocast"
        )


def _read_data(file: StageFile) -> None:
    listed = "datasets" in file.given
    for entry in entries(file, "datasets"):
        path = data_file(entry.pop("path"), entry.pop("data_files", None))
        kept = entry.pop("columns", None)
        if kept and not {"chosen", "rejected"} <= set(kept):
            file.leave("datasets.columns", kept, "expected chosen and rejected among them")
        splits = split_keys(file, entry.pop("split", None), None)
        add_objective(file, path, subset=entry.pop("name", None), **splits)
        leave_entry(file, "datasets", entry)
    source = file.take("dataset_name")
    config, train, test = (file.take(f"dataset_{key}") for key in ("config", "train_split", "test_split"))
    if listed:
        for key, value in (("dataset_name", source), ("dataset_config", config)):
            if value is not None:
                file.leave(key, value, "TRL reads datasets, too, where both are there")
    elif source is None:
        file.problems.append("neither dataset_name nor datasets is there; expected the pairs that are trained on")
    else:
        add_objective(file, source, subset=config, **split_keys(file, train, test))
    if (share := file.take("test_split_size")) is not None:
        file.write("eval_fraction", share, "test_split_size")


def _begins(file: StageFile, first: StageFile) -> Start:
    if file.written["model_name_or_path"].value != first.written["model_name_or_path"].value:
        told = f"its model is taken as that of {first.path.name} with the adapter merged; TRL's reference is that model"
        return Start("previous", "new_on_merged", told)
    told = (
        "as it stands it trains a fresh adapter on the same base, because `trl dpo` begins from no adapter. The study "
        "goes on from the first stage, as DPOTrainer does with a loaded PeftModel; its reference is that stage"
    )
    return Start("previous", "continue", told)


TOOL = Tool(
    "TRL",
    frozenset(
        "dataset_name dataset_config dataset_train_split dataset_test_split use_peft max_length loss_type beta "
        "lora_target_modules dtype attn_implementation truncation_mode precompute_ref_log_probs".split()
    ),
    {
        "lora_r": 16,
        "lora_alpha": 32.0,
        "lora_target_modules": _USUAL_TARGETS,
        "beta": 0.1,
        "learning_rate": 1e-6,
        "num_train_epochs": 3,
        "gradient_checkpointing": True,
        "excess_length_strategy": "truncate",
    },
    _read,
    _begins,
)
