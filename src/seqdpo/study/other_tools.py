"""Keys of TRL, transformers, Axolotl, LLaMA-Factory, Unsloth and torchtune: ours for them, or what to do instead."""

#: Their key and ours, where the same value means the same.
OURS = {
    # the model and its adapter
    **dict.fromkeys(("base_model", "model_name", "model", "model_id", "model_path"), "model_name_or_path"),
    "revision": "model_revision",
    **dict.fromkeys(("torch_dtype", "precision", "compute_dtype", "model_dtype"), "dtype"),
    **dict.fromkeys(("chat_template", "template", "chat_template_jinja"), "chat_template_path"),
    **dict.fromkeys(("lora_rank", "r", "rank"), "lora_r"),
    "alpha": "lora_alpha",
    **dict.fromkeys(("target_modules", "lora_target", "lora_modules", "lora_attn_modules"), "lora_target_modules"),
    # the loss and the optimiser
    **dict.fromkeys(("rl_beta", "dpo_beta", "pref_beta"), "beta"),
    **dict.fromkeys(("pref_loss", "dpo_loss_type", "loss"), "loss_type"),
    "dpo_label_smoothing": "label_smoothing",
    "lr": "learning_rate",
    **dict.fromkeys(("lr_scheduler", "scheduler", "scheduler_type"), "lr_scheduler_type"),
    **dict.fromkeys(("warmup", "num_warmup_steps"), "warmup_steps"),
    **dict.fromkeys(("num_epochs", "epochs", "n_epochs"), "num_train_epochs"),
    **dict.fromkeys(
        ("micro_batch_size", "train_batch_size", "per_gpu_train_batch_size"), "per_device_train_batch_size"
    ),
    **dict.fromkeys(("accumulation_steps", "grad_accum"), "gradient_accumulation_steps"),
    **dict.fromkeys(("adam_eps", "eps"), "adam_epsilon"),
    **dict.fromkeys(("gradient_clipping", "grad_clip", "clip_grad_norm", "max_gradient_norm"), "max_grad_norm"),
    **dict.fromkeys(("use_gradient_checkpointing", "enable_activation_checkpointing"), "gradient_checkpointing"),
    # texts, pairs, results
    **dict.fromkeys(("cutoff_len", "sequence_len", "max_seq_length", "max_seq_len", "block_size"), "max_length"),
    **dict.fromkeys(("truncation_mode", "excess_token_handling"), "excess_length_strategy"),
    **dict.fromkeys(("max_samples", "max_train_samples", "train_size"), "max_train_pairs"),
    **dict.fromkeys(("max_eval_samples", "max_test_samples"), "max_eval_pairs"),
    **dict.fromkeys(("val_size", "val_set_size", "test_size"), "eval_fraction"),
    **dict.fromkeys(("output", "output_path", "save_dir", "run_dir"), "output_dir"),
}
_DATA = "name it under objectives: {NAME: {format: preference, dataset_name: …}}"
_BITS = "the base is quantised by load_in_4bit: true (NF4) or load_in_8bit: true"
_ADAMW = "the optimiser is AdamW in float32. Remove it"
_FILES = "a run sends nothing to the hub. Remove it; seqdpo push RUN publishes a finished one"
_TRACKERS = "name trackers in report_to: [wandb]; the run folder is the project, a stage the run"
_STAGE = "a checkpoint is kept after every stage, and every objective is evaluated then. Remove it"
_AGAIN = "the same command again goes on after the last finished stage. Remove it"
_ONE = "each process holds the whole base. Remove it; docs/scale.md says how several devices are used"
_LORA = "every stage trains a LoRA adapter: lora_r, lora_alpha, lora_target_modules. Remove it"
_SEEDS = "expected seeds, a list. Write seeds: [0]"
#: Their key, and what holds here instead.
INSTEAD = {
    **dict.fromkeys(("quantization_bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "qlora"), _BITS),
    "fp16": "the base is kept in float32 or bfloat16. Set dtype: bfloat16",
    **dict.fromkeys(
        ("bf16", "tf32", "pure_bf16", "mixed_precision", "bf16_full_eval"), "set dtype: bfloat16 or float32"
    ),
    **dict.fromkeys(("optim", "optimizer", "adam8bit", "optim_args", "optim_target_modules"), _ADAMW),
    **dict.fromkeys(("push_to_hub", "hub_model_id", "hub_token", "hub_strategy"), _FILES),
    **dict.fromkeys(
        ("wandb_project", "use_wandb", "run_name", "logging_dir", "plot_loss", "mlflow_experiment_name"), _TRACKERS
    ),
    **dict.fromkeys(("save_steps", "save_strategy", "saves_per_epoch", "save_total_limit", "save_only_model"), _STAGE),
    **dict.fromkeys(("eval_steps", "eval_strategy", "evaluation_strategy", "evals_per_epoch", "do_eval"), _STAGE),
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model"), _STAGE),
    **dict.fromkeys(("resume_from_checkpoint", "overwrite_output_dir", "auto_resume_from_checkpoints"), _AGAIN),
    **dict.fromkeys(("deepspeed", "fsdp", "fsdp_config", "accelerate_config", "num_processes", "ddp_timeout"), _ONE),
    **dict.fromkeys(("adapter", "use_peft", "finetuning_type", "lora_target_linear", "peft_config"), _LORA),
    **dict.fromkeys(("seed", "data_seed", "random_state"), _SEEDS),
    **dict.fromkeys(("dataset", "datasets", "dataset_name", "dataset_dir", "dataset_config", "dataset_path"), _DATA),
    **dict.fromkeys(("test_datasets", "eval_dataset", "dataset_train_split", "dataset_test_split"), _DATA),
    **dict.fromkeys(
        ("ref_model", "ref_model_name_or_path", "reference_model", "ref_adapters", "model_ref"),
        "the reference is a checkpoint of the study itself. Set reference: base, previous or stage:<k>",
    ),
    **dict.fromkeys(
        ("max_prompt_length", "max_completion_length", "max_target_length", "label_pad_token_id"),
        "only the whole is limited. Set max_length, and excess_length_strategy: drop or truncate",
    ),
    **dict.fromkeys(
        ("max_steps", "total_steps", "num_train_steps"),
        "a stage is num_train_epochs over its pairs. Set max_train_pairs to make it shorter",
    ),
    **dict.fromkeys(
        ("precompute_ref_log_probs", "reference_free", "sync_ref_model", "generate_during_eval"),
        "the reference is scored once and kept. Remove it",
    ),
    **dict.fromkeys(
        ("logging_steps", "logging_strategy", "logging_first_step", "log_level", "disable_tqdm"),
        "every step is in train.parquet of its stage. Remove it",
    ),
    **dict.fromkeys(
        ("sample_packing", "packing", "padding_free", "group_by_length", "pad_to_sequence_len"),
        "pairs are packed without padding, which changes no number. Remove it",
    ),
    **dict.fromkeys(
        ("flash_attention", "flash_attn", "attn_implementation", "use_liger_kernel", "sdp_attention", "xformers"),
        "the attention is chosen for the machine. Remove it",
    ),
    **dict.fromkeys(
        ("per_device_eval_batch_size", "per_gpu_eval_batch_size", "eval_batch_size"),
        "set tokens_per_batch, which changes speed and memory, not results",
    ),
    **dict.fromkeys(
        (
            "dataloader_num_workers",
            "preprocessing_num_workers",
            "dataset_num_proc",
            "num_proc",
            "remove_unused_columns",
        ),
        "there is nothing to choose. Remove it",
    ),
    **dict.fromkeys(
        (
            "use_dora",
            "use_rslora",
            "lora_bias",
            "modules_to_save",
            "init_lora_weights",
            "loraplus_lr_ratio",
            "use_unsloth",
        ),
        "the adapter is plain LoRA without bias. Remove it",
    ),
    **dict.fromkeys(
        ("lora_model_dir", "adapter_path", "peft_model_id", "create_new_adapter"),
        "give it as adapter_name_or_path, with learned: OBJECTIVE",
    ),
    "batch_size": "pairs a step are per_device_train_batch_size x gradient_accumulation_steps. Set those",
    **dict.fromkeys(("stage", "rl", "do_train"), "every stage is DPO. Remove it"),
    "debug": "it stands before the command: seqdpo --debug run STUDY.yaml",
}
#: The same for the keys of one objective.
OURS_OF_OBJECTIVE = {
    **dict.fromkeys(("path", "dataset", "data_files", "file_name", "hf_hub_url", "dataset_path"), "dataset_name"),
    **dict.fromkeys(("name", "config", "config_name", "dataset_config", "data_dir"), "subset"),
    **dict.fromkeys(("type", "ds_type", "formatting"), "format"),
    "revision": "dataset_revision",
    "column_mapping": "columns",
    **dict.fromkeys(("split", "train_split"), "dataset_train_split"),
    **dict.fromkeys(("eval_split", "test_split"), "dataset_test_split"),
    **dict.fromkeys(("num_samples", "max_samples", "samples"), "max_train_pairs"),
}
INSTEAD_OF_OBJECTIVE = {
    **dict.fromkeys(("fraction", "weight", "shards", "ratio"), "set max_train_pairs, drawn by hash"),
}


def answer(key: str, of_objective: bool = False) -> str | None:
    """`expected lora_r` or what holds instead, for a key that another tool has; None for any other."""
    ours, instead = (OURS_OF_OBJECTIVE, INSTEAD_OF_OBJECTIVE) if of_objective else (OURS, INSTEAD)
    return f"expected {ours[key]}" if key in ours else instead.get(key)
