"""Kill -9 at random moments, also while findings and report are written: the run must end with the same bytes.

    python benchmarks/faults/kills.py --kills 60

A small study of the lab runs once undisturbed. Then the same study is started again and again, each time killed at a
random moment, until it ends by itself; its tables and pages must be those of the undisturbed run, and nothing half
written may be left. Every second one is `seqdpo analyse` of a finished run, which writes findings and report only.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
SAME = (
    *(f"{name}.parquet" for name in ("scores", "movement", "gradients", "kl_and_path")),
    *("results.json", "report.html", "report.md"),
)
#: When a command is killed, as shares of the time that it takes; the first half of `analyse` only imports and reads.
MOMENTS = {"run": (0, 1.2), "analyse": (0.4, 1.2)}


def main() -> None:
    """Prints one line for each run that ended, then a summary; exit 1 if any was not as it should be."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=60)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = killed(Path(folder), chosen.kills, random.Random(chosen.seed))
    print(json.dumps(counts))
    raise SystemExit(counts["wrong"] > 0)


def killed(root: Path, kills: int, generator: random.Random) -> dict[str, int]:
    """Counts of kills, of what ended in spite of them, and of those that were wrong."""
    study = root / "study.yaml"
    study.write_text(json.dumps(STUDY | {"output_dir": "unused"}))  # JSON is YAML
    whole = root / "whole" / "run"
    seconds = {"run": timed(running(study, whole))}
    shutil.copytree(whole, root / "analysed" / "run")
    seconds["analyse"] = timed(analysing(root / "analysed" / "run"))
    expected = contents(whole)
    counts = {"kills": 0, "ended": 0, "wrong": 0}
    while counts["kills"] < kills:
        target = root / str(counts["ended"]) / "run"  # pages hold the folder's name: the same for all
        arguments, what = running(study, target), "run"
        if counts["ended"] % 2:
            shutil.copytree(whole, target)
            arguments, what = analysing(target), "analyse"
        code = None
        while code is None:
            moment = seconds[what] * generator.uniform(*MOMENTS[what])
            limit = moment if counts["kills"] < kills else None
            code = started(arguments, target, limit)
            counts["kills"] += code is None
        problems = wrong(target, code, expected)
        counts["ended"] += 1
        counts["wrong"] += bool(problems)
        print(f"{what}, {counts['kills']} kills so far: {problems or 'the same bytes'}", flush=True)
        shutil.rmtree(target)
    return counts


def running(study: Path, target: Path) -> list[str]:
    return ["run", str(study), "--output-dir", str(target)]


def analysing(target: Path) -> list[str]:
    return ["analyse", str(target)]


def timed(arguments: Sequence[str]) -> float:
    began = time.monotonic()
    subprocess.run(seqdpo(arguments), stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def started(arguments: Sequence[str], target: Path, limit: float | None) -> int | None:
    """A command's exit code; None if it was killed after so many seconds."""
    target.parent.mkdir(exist_ok=True)
    with (target.parent / "errors.txt").open("ab") as errors:
        process = subprocess.Popen(seqdpo(arguments), stdout=subprocess.DEVNULL, stderr=errors)
    try:
        return process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def seqdpo(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "seqdpo", *arguments]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SAME if (folder / name).is_file()}


def wrong(folder: Path, code: int, expected: dict[str, bytes]) -> list[str]:
    """What is not as in the undisturbed run."""
    found = contents(folder)
    problems = [] if code == 0 else [f"exit {code}"]
    problems += [f"{name} differs" for name, content in expected.items() if found.get(name) != content]
    problems += [f"left: {path}" for path in folder.rglob("*") if ".tmp" in path.name or ".damaged" in path.name]
    return problems


if __name__ == "__main__":
    main()
