"""What `seqdpo plan` foresees of a study against what the run then takes, stage by stage.

    python benchmarks/plan_against_run.py                     the demo's study
    python benchmarks/plan_against_run.py STUDY.yaml          another one; its output_dir is not written to

The run is in this process, on one thread. Beside the time on the clock stands the processor's, which is what a quiet
machine would have taken; on an accelerator only the clock counts.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from seqdpo.lab.demo import demo_studies
from seqdpo.policy.load import device
from seqdpo.runner.board import board_for
from seqdpo.runner.executors import here
from seqdpo.runner.inputs import read_preferences, with_model_path
from seqdpo.runner.plan import plan_study
from seqdpo.runner.stage import run_node
from seqdpo.runner.study import run_study
from seqdpo.screen import Screen
from seqdpo.study.checkpoints import folder_name
from seqdpo.study.file import load_study


def main() -> None:
    """Prints a line for each stage, and the ratios."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("study", nargs="?", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as root:
        study = demo_studies(root)[0] if chosen.study is None else load_study(chosen.study)
        study = with_model_path(study.model_copy(update={"output_dir": str(Path(root) / "run")}))
        plan = plan_study(study, read_preferences(study, lambda text: None)[0])
        print(plan.rates)
        taken: dict[str, tuple[float, float]] = {}

        def timed(bench, node):
            began, used = time.perf_counter(), time.process_time()
            run_node(bench, node)
            taken[folder_name(node)] = time.perf_counter() - began, time.process_time() - used
            print(folder_name(node), *(f"{seconds:.1f}" for seconds in taken[folder_name(node)]), flush=True)

        here.run_node = timed
        began, used = time.perf_counter(), time.process_time()
        with board_for(Screen()) as board:
            run_study(study, board)
        whole = time.perf_counter() - began, time.process_time() - used
    foreseen = {folder_name(stage.node): stage.seconds for stage in plan.stages}
    for name, seconds in foreseen.items():
        clock, processor = taken[name]
        console.print(f"{name}: planned {seconds:.1f} s, clock {clock:.1f} s, processor {processor:.1f} s")
    which = 1 if device().type == "cpu" else 0
    stages = sum(one[which] for one in taken.values())
    found = {"planned": round(plan.seconds, 1), "stages": round(stages, 1), "run": round(whole[which], 1)}
    console.print(json.dumps(found | {"planned / stages": round(plan.seconds / stages, 2)}))
    console.print(json.dumps({"planned / run": round(plan.seconds / whole[which], 2)}))


if __name__ == "__main__":
    main()
