"""Kill -9 at random moments, also while findings and report are written: the run must end with the same bytes.

    python benchmarks/faults/kills.py --kills 60

A small study of the lab runs once undisturbed. Then the same study is started again and again, each time killed at a
random moment, until it ends by itself; its tables must be those of the undisturbed run, and nothing half written may
be left.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OBJECTIVES = {
    "first": {"format": "lab", "angle": 0, "n_pairs": 120, "overlap": 0.5},
    "second": {"format": "lab", "angle": 120, "n_pairs": 120, "overlap": 0.5},
}
STUDY = {
    "model_name_or_path": "lab",
    "lora_r": 4,
    "learning_rate": 3e-3,
    "max_length": 128,
    "objectives": OBJECTIVES,
    "eval_fraction": 0.5,
    "mechanism_pairs": 10,
    "save_minutes": 0.01,  # so that kills inside a stage find a save to go on from
}
#: What two runs of one study must have in common to the last byte.
SAME = ("scores.parquet", "movement.parquet", "gradients.parquet", "kl_and_path.parquet", "results.json")


def main() -> None:
    """Prints one line for each run that ended, then a summary; exit 1 if any was not as it should be."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=60)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(killed(Path(folder), chosen.kills, random.Random(chosen.seed))))


def killed(root: Path, kills: int, generator: random.Random) -> dict[str, int]:
    """Runs with `kills` kills in all; counts of kills, of runs that ended, and of those that were wrong."""
    study = root / "study.yaml"
    study.write_text(json.dumps(STUDY | {"output_dir": "unused"}))  # JSON is YAML
    began = time.monotonic()
    command(study, root / "whole").wait()
    seconds = time.monotonic() - began
    expected = contents(root / "whole")
    counts = {"kills": 0, "runs": 0, "wrong": 0}
    while counts["kills"] < kills:
        counts["runs"] += 1
        target = root / f"run{counts['runs']}"
        while True:
            process = command(study, target)
            try:
                code = process.wait(timeout=generator.uniform(0, seconds) if counts["kills"] < kills else None)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                counts["kills"] += 1
        problems = wrong(target, code, expected)
        counts["wrong"] += bool(problems)
        print(f"run {counts['runs']}, {counts['kills']} kills so far: {problems or 'the same bytes'}", flush=True)
    return counts


def command(study: Path, target: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "seqdpo", "run", str(study), "--output-dir", str(target)]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=(target.parent / "errors.txt").open("ab"))


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SAME}


def wrong(folder: Path, code: int, expected: dict[str, bytes]) -> list[str]:
    """What is not as in the undisturbed run."""
    problems = [] if code == 0 else [f"exit {code}"]
    problems += [f"{name} differs" for name, content in contents(folder).items() if content != expected[name]]
    problems += [f"left: {path}" for path in folder.rglob("*") if ".tmp" in path.name or ".damaged" in path.name]
    return problems


if __name__ == "__main__":
    main()
