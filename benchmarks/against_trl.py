"""seqdpo beside TRL: `python benchmarks/against_trl.py training|scoring|study [--data FOLDER] [--shape 41M]`.

    training  steps of DPO with LoRA: same weights, pairs, dtype, optimiser and pairs a step
    scoring   log-probabilities of pairs under one policy
    study     two objectives in both orders, both scored at the base and after each stage; from start to end

TRL runs in its best configuration: reference log-probabilities computed before, no checkpointing, and of several batch
sizes the fastest. Every run is a process of its own, the two in turn. A training's first step is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tables import report
from workload import DATA, SHAPES, model_folder, objective, pairs_of, peak_megabytes, study_for, training_pairs

PAIRS_PER_STEP = 8
STEPS = 9  # the first one is not counted
SCORED = 64
STUDY_PAIRS = 32  # to train on, and as many to score, of each objective
TRL_BATCH_SIZES = (1, 2, 4, 8)
DTYPES = ("float32", "bfloat16")
TASKS = ("training", "scoring", "study")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", default=DATA, help="a copy of Anthropic/hh-rlhf")
    parser.add_argument("--shape", choices=SHAPES, default="41M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=TRL_BATCH_SIZES, help="TRL's, to choose from")
    parser.add_argument("--worker", choices=["seqdpo", "trl"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is None:
        compare(arguments)
    else:
        work = globals()[f"{arguments.task}_{arguments.worker}"]
        print(json.dumps(work(arguments.shape, arguments.dtypes[0], arguments.data, arguments.batch_sizes[0])))


def compare(arguments: argparse.Namespace) -> None:
    rows = []
    for dtype in arguments.dtypes:
        best = fastest(arguments, dtype)
        both = [
            (run(arguments, dtype, "seqdpo", 1), run(arguments, dtype, "trl", best)) for _ in range(arguments.rounds)
        ]
        rows.append({"dtype": dtype, "TRL's batch size": best, **ratios(both)})
    report(
        f"{arguments.task}_against_trl",
        rows,
        f"A random Llama of {arguments.shape} parameters with LoRA r=32 on all linear layers, pairs of HH-RLHF "
        f"harmless-base; medians of {arguments.rounds} runs of each in turn, ratios run by run. Peak: resident memory "
        "of the whole process, libraries included.",
    )


def fastest(arguments: argparse.Namespace, dtype: str) -> int:
    """TRL's best batch size."""
    sizes: list[int] = list(arguments.batch_sizes)
    return sizes[0] if len(sizes) == 1 else max(sizes, key=lambda size: run(arguments, dtype, "trl", size)["pairs/s"])


def run(arguments: argparse.Namespace, dtype: str, worker: str, batch_size: int) -> dict[str, Any]:
    options = ["--shape", arguments.shape, "--dtypes", dtype, "--data", arguments.data]
    command = [sys.executable, __file__, arguments.task, *options, "--worker", worker, "--batch-sizes", str(batch_size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(dtype, worker, batch_size, {key: round(value, 2) for key, value in result.items()}, flush=True)
    return result


def ratios(both: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    speed = [ours["pairs/s"] / trl["pairs/s"] for ours, trl in both]
    return {
        "seqdpo pairs/s": median(ours["pairs/s"] for ours, _ in both),
        "TRL pairs/s": median(trl["pairs/s"] for _, trl in both),
        "ratio": median(speed),
        "from": min(speed),
        "to": max(speed),
        "seqdpo peak MB": median(ours["peak MB"] for ours, _ in both),
        "TRL peak MB": median(trl["peak MB"] for _, trl in both),
        "memory ratio": median(ours["peak MB"] / trl["peak MB"] for ours, trl in both),
    }


def training_seqdpo(shape: str, dtype: str, data: str, batch_size: int) -> dict[str, Any]:
    from seqdpo.policy.adapters import trainable_policy
    from seqdpo.policy.engine import PACKED, choose_engine
    from seqdpo.policy.load import load_model
    from seqdpo.training.stage import Step, train_stage

    study = study_for(shape, dtype, STEPS * PAIRS_PER_STEP, data, per_device_train_batch_size=PAIRS_PER_STEP)
    tokens = [pair.tokens for pair in pairs_of(study)]
    base = load_model(study)
    assert choose_engine(base, max(pair.longest for pair in tokens)).startswith(PACKED)
    pairs = training_pairs(base, tokens, study)
    steps: list[Step] = []
    with trainable_policy(base, study, None, seed=0) as policy:
        train_stage(policy, pairs, study, 0, steps.append)
    counted = steps[1:]
    speed = sum(step.n_pairs for step in counted) / sum(step.seconds for step in counted)
    return {"pairs/s": speed, "peak MB": peak_megabytes()}


def training_trl(shape: str, dtype: str, data: str, batch_size: int) -> dict[str, Any]:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, *args: Any, **options: Any) -> None:
            self.times = [time.perf_counter()]

        def on_step_end(self, *args: Any, **options: Any) -> None:
            self.times.append(time.perf_counter())

    study = study_for(shape, dtype, STEPS * PAIRS_PER_STEP, data)
    rows = trl_rows(pairs_of(study))
    clock = Clock()
    trainer = dpo_trainer(study.model_name_or_path, dtype, batch_size, rows, None, callbacks=[clock])
    trainer.train()
    counted = len(clock.times) - 2
    return {
        "pairs/s": counted * PAIRS_PER_STEP / (clock.times[-1] - clock.times[1]),
        "peak MB": peak_megabytes(),
    }


def scoring_seqdpo(shape: str, dtype: str, data: str, batch_size: int) -> dict[str, Any]:
    from seqdpo.measure.scores import pair_logps
    from seqdpo.policy.adapters import trainable_policy
    from seqdpo.policy.engine import choose_engine
    from seqdpo.policy.load import load_model

    study = study_for(shape, dtype, SCORED, data)
    tokens = [pair.tokens for pair in pairs_of(study)]
    base = load_model(study)
    choose_engine(base, max(pair.longest for pair in tokens))
    with trainable_policy(base, study, None, seed=0) as policy:
        pair_logps(policy.eval(), tokens[:PAIRS_PER_STEP], None)
        began = time.perf_counter()
        pair_logps(policy, tokens, None)
        seconds = time.perf_counter() - began
    return {"pairs/s": SCORED / seconds, "peak MB": peak_megabytes()}


def scoring_trl(shape: str, dtype: str, data: str, batch_size: int) -> dict[str, Any]:
    """Its trainer's evaluation; the references are computed before the clock starts."""
    study = study_for(shape, dtype, SCORED, data)
    rows = trl_rows(pairs_of(study))
    trainer = dpo_trainer(study.model_name_or_path, dtype, batch_size, rows[:PAIRS_PER_STEP], rows)
    began = time.perf_counter()
    trainer.evaluate()
    return {"pairs/s": SCORED / (time.perf_counter() - began), "peak MB": peak_megabytes()}


def study_seqdpo(shape: str, dtype: str, data: str, batch_size: int) -> dict[str, Any]:
    """`seqdpo run` without control stages and mechanism, which TRL does not do, and with an empty cache."""
    from rich.console import Console

    from seqdpo.runner.board import board_for
    from seqdpo.runner.study import run_study

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        study = two_objectives(shape, dtype, data, Path(folder))
        os.environ["SEQDPO_CACHE"] = folder
        with board_for(Console(stderr=True)) as board:
            run_study(study, board)
    return {"pairs/s": study_pairs() / (time.perf_counter() - began), "peak MB": peak_megabytes()}


def study_trl(shape: str, dtype: str, data: str, batch_size: int) -> dict[str, Any]:
    """A plain script: in each order train both stages against the base, and evaluate both objectives after each."""
    from seqdpo.runner.inputs import read_preferences

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        study = two_objectives(shape, dtype, data, Path(folder))
        preferences, _ = read_preferences(study, lambda text: None)
    train = {name: trl_rows(found.train) for name, found in preferences.objectives.items()}
    held_out = {name: trl_rows(found.eval) for name, found in preferences.objectives.items()}
    for order in study.all_orders():
        policy = None
        for stage, name in enumerate(order):
            trainer = dpo_trainer(study.model_name_or_path, dtype, batch_size, train[name], held_out, policy)
            if stage == 0:
                trainer.evaluate()  # the base
            trainer.train()
            trainer.evaluate()
            policy = trainer.model
    return {"pairs/s": study_pairs() / (time.perf_counter() - began), "peak MB": peak_megabytes()}


def study_pairs() -> int:
    """Pairs trained on in the four stages of both orders; the unit of a study's speed."""
    return 4 * STUDY_PAIRS


def two_objectives(shape: str, dtype: str, data: str, folder: Path) -> Any:
    """Harmless as it is, and on other prompts `brief`, which prefers the shorter response."""
    source = study_for(shape, dtype, 8 * STUDY_PAIRS, data)
    pairs = [pair.pair for pair in pairs_of(source) if len(pair.pair.chosen) != len(pair.pair.rejected)]
    path = folder / "brief.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            chosen, rejected = sorted([pair.chosen, pair.rejected], key=len)
            prompt = [message._asdict() for message in pair.prompt]
            responses = {"chosen": chosen, "rejected": rejected}
            turns = {side: [{"role": "assistant", "content": text}] for side, text in responses.items()}
            file.write(json.dumps({"prompt": prompt, **turns}) + "\n")
    objectives = {
        "harmless": objective(data).model_dump(),
        "brief": {"format": "preference", "dataset_name": str(path)},
    }
    return study_for(
        shape,
        dtype,
        STUDY_PAIRS,
        data,
        model_name_or_path=str(model_folder(shape, data)),
        objectives=objectives,
        placebo=0,
        gradient_trace_points=0,
        mechanism_pairs=0,
        eval_fraction=0.4,
        output_dir=str(folder / "run"),
    )


def trl_rows(pairs: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [message._asdict() for message in pair.pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.pair.rejected}],
        }
        for pair in pairs
    ]


def dpo_trainer(
    model_path: str, dtype: str, batch_size: int, train: Any, held_out: Any, policy: Any = None, **options: Any
) -> Any:
    """`policy`: a PEFT model to train on, with the base as its reference; None: a new adapter."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from seqdpo.policy.adapters import lora_config
    from seqdpo.study.config import Study

    defaults = {"model_name_or_path": model_path, "setting": "hh-rlhf", "output_dir": "runs/unused"}
    study = Study.model_validate(defaults)
    settings = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=PAIRS_PER_STEP // batch_size,
        precompute_ref_log_probs=True,
        gradient_checkpointing=False,
        learning_rate=study.learning_rate,
        beta=study.beta,
        max_length=study.max_length,
        num_train_epochs=1,
        lr_scheduler_type="linear",
        bf16=dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, dtype))

    if isinstance(held_out, dict):
        held_out = {name: Dataset.from_list(rows) for name, rows in held_out.items()}
    elif held_out is not None:
        held_out = Dataset.from_list(held_out)
    return DPOTrainer(
        model=base() if policy is None else policy,
        ref_model=None if policy is None else base(),
        args=settings,
        train_dataset=Dataset.from_list(train),
        eval_dataset=held_out,
        processing_class=AutoTokenizer.from_pretrained(model_path),
        peft_config=lora_config(study) if policy is None else None,
        **options,
    )


if __name__ == "__main__":
    main()
