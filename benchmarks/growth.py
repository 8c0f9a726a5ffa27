"""How do time and memory of a training step grow? `python benchmarks/growth.py`; about five minutes on two cores.

One step of a random Llama of 41M parameters; prompt length, response length, number of pairs and vocabulary are varied
one at a time, each in a process of its own.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from tables import report
from workload import made_up_pairs, peak_megabytes, random_model, training_pairs

from seqdpo.policy.adapters import trainable_policy
from seqdpo.policy.engine import choose_engine
from seqdpo.study.config import Study
from seqdpo.training.stage import Step, train_stage

START = {"prompt": 128, "response": 64, "pairs": 16, "vocabulary": 32_000}
VARIED = {
    "prompt": (64, 128, 256, 512),
    "response": (32, 64, 128, 256),
    "pairs": (8, 16, 32, 64),
    "vocabulary": (8_000, 32_000, 128_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        print(json.dumps(step(**json.loads(arguments.worker))))
        return
    rows = []
    for varied, values in VARIED.items():
        for value in values:
            given = START | {varied: value}
            command = [sys.executable, __file__, "--worker", json.dumps(given)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append({"varied": varied, **given, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    report("growth", rows, "The second of two steps, float32, 1024 tokens a batch. Peak: the whole process.")


def step(prompt: int, response: int, pairs: int, vocabulary: int) -> dict[str, Any]:
    study = Study.model_validate(
        {
            "model_name_or_path": "random",
            "setting": "hh-rlhf",
            "dtype": "float32",
            "per_device_train_batch_size": pairs,
            "output_dir": "runs/unused",
        }
    )
    tokens = made_up_pairs(2 * pairs, prompt, response, spread=0.0)
    base = random_model("41M", "float32", vocab_size=vocabulary)
    choose_engine(base, max(pair.longest for pair in tokens))
    given = training_pairs(base, tokens, study)
    steps: list[Step] = []
    with trainable_policy(base, study, None, seed=0) as policy:
        train_stage(policy, given, study, 0, steps.append)
    return {"seconds": steps[1].seconds, "tokens/s": steps[1].n_tokens / steps[1].seconds, "peak MB": peak_megabytes()}


if __name__ == "__main__":
    main()
