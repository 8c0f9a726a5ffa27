"""Training steps of seqdpo and of TRL: `python benchmarks/training_speed.py [--data FOLDER] [--shape 41M]`.

Same weights, pairs, LoRA, dtype, optimiser and pairs a step. TRL runs in its best configuration: reference
log-probabilities computed before, no checkpointing, and of several batch sizes the fastest. Every run is a process of
its own, the two in turn; a run's first step is not counted. Half an hour on two cores.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from tables import report
from workload import DATA, SHAPES, pairs_of, study_for

PAIRS_PER_STEP = 8
STEPS = 9  # the first one is not counted
TRL_BATCH_SIZES = (1, 2, 4, 8)
DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=DATA, help="a copy of Anthropic/hh-rlhf")
    parser.add_argument("--shape", choices=SHAPES, default="41M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--name", default="training_speed")
    parser.add_argument("--worker", choices=["seqdpo", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is None:
        compare(arguments)
    else:
        train: Callable[..., dict[str, Any]] = {"seqdpo": train_seqdpo, "trl": train_trl}[arguments.worker]
        print(json.dumps(train(arguments.shape, arguments.dtypes[0], arguments.data, arguments.batch_size)))


def compare(arguments: argparse.Namespace) -> None:
    rows = []
    for dtype in arguments.dtypes:

        def run(worker: str, batch_size: int = 1, dtype: str = dtype) -> dict[str, Any]:
            options = ["--shape", arguments.shape, "--dtypes", dtype, "--data", arguments.data]
            command = [sys.executable, __file__, *options, "--worker", worker, "--batch-size", str(batch_size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            print(dtype, worker, batch_size, {key: round(value, 2) for key, value in result.items()}, flush=True)
            return result

        scan = {size: run("trl", size)["pairs/s"] for size in TRL_BATCH_SIZES}
        best = max(scan, key=lambda size: scan[size])
        both = [(run("seqdpo"), run("trl", best)) for _ in range(arguments.rounds)]
        ratios = [ours["pairs/s"] / trl["pairs/s"] for ours, trl in both]
        memory = [ours["peak MB"] / trl["peak MB"] for ours, trl in both]
        rows.append(
            {
                "dtype": dtype,
                "tokens a pair": both[0][0]["tokens a pair"],
                "seqdpo pairs/s": median(ours["pairs/s"] for ours, _ in both),
                "TRL pairs/s": median(trl["pairs/s"] for _, trl in both),
                "TRL's batch size": best,
                "ratio": median(ratios),
                "from": min(ratios),
                "to": max(ratios),
                "seqdpo peak MB": median(ours["peak MB"] for ours, _ in both),
                "TRL peak MB": median(trl["peak MB"] for _, trl in both),
                "memory ratio": median(memory),
            }
        )
    report(
        arguments.name,
        rows,
        f"A Llama of {arguments.shape} parameters with LoRA r=32 on all linear layers, pairs of HH-RLHF harmless-base, "
        f"{PAIRS_PER_STEP} pairs a step; medians of {arguments.rounds} runs of each in turn, the ratio run by run. Peak: "
        "resident memory of the whole process, libraries included. Tokens: of a prompt once and both responses.",
    )


def train_seqdpo(shape: str, dtype: str, data: str, batch_size: int) -> dict[str, Any]:
    import numpy as np

    from seqdpo.policy.adapters import trainable_policy
    from seqdpo.policy.engine import PACKED, choose_engine
    from seqdpo.policy.load import load_model
    from seqdpo.training.placebo import TrainingPairs
    from seqdpo.training.stage import Step, train_stage

    study = study_for(shape, dtype, STEPS * PAIRS_PER_STEP, data, per_device_train_batch_size=PAIRS_PER_STEP)
    prepared = pairs_of(study)
    base = load_model(study)
    assert choose_engine(base, max(pair.tokens.longest for pair in prepared)) == PACKED
    pairs = TrainingPairs(
        [pair.pair.pair_id for pair in prepared], [pair.tokens for pair in prepared], np.zeros(len(prepared))
    )
    steps: list[Step] = []
    with trainable_policy(base, study, None, seed=0) as policy:
        train_stage(policy, pairs, study, 0, steps.append)
    counted = steps[1:]
    return {
        "pairs/s": sum(step.n_pairs for step in counted) / sum(step.seconds for step in counted),
        "peak MB": _peak_megabytes(),
        "tokens a pair": sum(pair.tokens.n_tokens for pair in prepared) / len(prepared),
    }


def train_trl(shape: str, dtype: str, data: str, batch_size: int) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from seqdpo.policy.adapters import lora_config

    class Clock(TrainerCallback):
        seconds: list[float]

        def on_train_begin(self, *args: Any, **options: Any) -> None:
            self.seconds, self.last = [], time.perf_counter()

        def on_step_end(self, *args: Any, **options: Any) -> None:
            now = time.perf_counter()
            self.seconds.append(now - self.last)
            self.last = now

    study = study_for(shape, dtype, STEPS * PAIRS_PER_STEP, data)
    rows = [
        {
            "prompt": [message._asdict() for message in pair.pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.pair.rejected}],
        }
        for pair in pairs_of(study)
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
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
        model = AutoModelForCausalLM.from_pretrained(study.model_name_or_path, dtype=getattr(torch, dtype))
        clock = Clock()
        trainer = DPOTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(study.model_name_or_path),
            peft_config=lora_config(study),
            callbacks=[clock],
        )
        trainer.train()
    counted = clock.seconds[1:]
    return {"pairs/s": len(counted) * PAIRS_PER_STEP / sum(counted), "peak MB": _peak_megabytes()}


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
