"""The coordinator killed with -9 while its workers train: the same command goes on from the folder, to the same bytes.

    python benchmarks/faults/lost_coordinator.py --executor slurm     submitit's local executor: its jobs outlive it
    python benchmarks/faults/lost_coordinator.py --executor ray       its actors end with it

A small study of the lab runs in one process. Then it runs with two workers; its coordinator is killed as soon as one
is half way through a stage, and the command is given again. A job that outlived its coordinator holds its node, and is
waited for.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kills import INSIDE, contents, running, seqdpo, wrong

ARGUMENTS = {"slurm": "cluster=local,workers=2,time=60", "ray": "workers=2,num_cpus=1"}


def main() -> None:
    """Prints what was killed and what came of it; exit 1 if that is not as it should be."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--executor", choices=[*ARGUMENTS], default="slurm")
    chosen = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        study = root / "study.yaml"
        study.write_text(json.dumps(INSIDE | {"orders": "all", "output_dir": "unused"}))
        whole, target = root / "whole" / "run", root / "struck" / "run"
        subprocess.run(seqdpo(running(study, whole)), check=True, stdout=subprocess.DEVNULL)
        expected = contents(whole)
        arguments = ["--executor", chosen.executor, "--executor-args", ARGUMENTS[chosen.executor]]
        command = seqdpo([*running(study, target), *arguments])
        print(f"killed while {kill_inside(command, target)} was trained", flush=True)
        code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
        problems = wrong(target, code, expected)
        print(problems or "the same bytes")
    raise SystemExit(bool(problems))


def kill_inside(command: Sequence[str], target: Path) -> list[str]:
    """Starts a coordinator, and kills it when some stage is kept; the stages that were half trained then."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(target.glob("saves/*/0*")):
            time.sleep(0.05)
        assert process.poll() is None, "it ended before a stage was kept"
        process.kill()
    return sorted(path.name for path in target.glob("saves/*"))


if __name__ == "__main__":
    main()
