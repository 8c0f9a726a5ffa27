"""Kill -9 at random moments, also while findings and report are written: the run must end with the same bytes.

    python benchmarks/faults/kills.py --kills 60
    python benchmarks/faults/kills.py --kills 50 --inside     while a stage trains; and how much work each cost

A small study of the lab runs once undisturbed. Then the same study is started again and again, each time killed at a
random moment, until it ends by itself; its tables and pages must be those of the undisturbed run, and nothing half
written may be left. Every second one is `seqdpo analyse` of a finished run, which writes findings and report only.

With --inside every kill falls into the training of a stage. The work that one costs is what was done since the last save
that is whole, or since the stage began: at most `save_minutes`, the step that was under way and the time of writing a save.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path

import seqdpo.runner.study  # noqa: F401 - imported once, for all processes that are forked
from seqdpo import cli
from seqdpo.runner.events import read_events

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
#: Longer stages of shorter steps, and one order: of a run most is spent in training.
INSIDE = STUDY | {
    "objectives": {name: {**one, "n_pairs": 240} for name, one in OBJECTIVES.items()},
    "orders": [["first", "second"]],
    "per_device_train_batch_size": 2,
    "placebo": 0,
    "max_eval_pairs": 40,
    "save_minutes": 0.003,
}
#: Seconds beyond `save_minutes` that a kill may cost: a step, and a save that was not yet whole.
UNDER_WAY = 2.0
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
    options.add_argument("--inside", action="store_true")
    chosen = options.parse_args()
    kill = killed_inside if chosen.inside else killed
    with tempfile.TemporaryDirectory() as folder:
        counts = kill(Path(folder), chosen.kills, random.Random(chosen.seed))
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


def killed_inside(root: Path, kills: int, generator: random.Random) -> dict[str, float]:
    """The same of kills while a stage trains; and the most seconds of work that one of them cost."""
    study, whole = root / "study.yaml", root / "whole" / "run"
    study.write_text(json.dumps(INSIDE | {"output_dir": "unused"}))
    assert struck(running(study, whole), whole, None, {}) == (0, None)
    expected, trained = contents(whole), training_seconds(whole)
    counts = {"kills": 0, "ended": 0, "wrong": 0, "stage_seconds": max(trained.values()), "most_lost_seconds": 0.0}
    allowed = 60 * INSIDE["save_minutes"] + UNDER_WAY
    while counts["kills"] < kills:
        target = root / str(counts["ended"]) / "run"
        code, losses = None, []
        while code is None:
            moment = generator.random() if counts["kills"] < kills else None
            code, lost = struck(running(study, target), target, moment, trained)
            losses += [] if lost is None else [lost]
            counts["kills"] += lost is not None
        problems = wrong(target, code, expected)
        problems += [f"a kill cost {lost:.1f} s" for lost in losses if lost > allowed]
        counts["ended"] += 1
        counts["wrong"] += bool(problems)
        counts["most_lost_seconds"] = round(max([counts["most_lost_seconds"], *losses]), 2)
        cost = " ".join(f"{lost:.2f}" for lost in losses)
        print(f"{counts['kills']} kills so far, that cost {cost} s: {problems or 'the same bytes'}", flush=True)
        shutil.rmtree(target)
    return counts


def training_seconds(folder: Path) -> dict[str, float]:
    """How long each stage trained, by its folder's name."""
    records = folder.glob("stages/*/trained.json")
    return {path.parent.name: json.loads(path.read_text())["train_seconds"] for path in records}


def struck(
    arguments: Sequence[str], target: Path, moment: float | None, trained: dict[str, float]
) -> tuple[int | None, float | None]:
    """(exit code, None) of a command that ended, or (None, seconds of work lost) of one that was killed.

    `moment` is the share of a stage's training after which it is killed; None: never.
    """
    target.parent.mkdir(exist_ok=True)
    process = get_context("fork").Process(target=command, args=(arguments, target.parent / "errors.txt"))
    process.start()
    while process.is_alive():
        now = training(target, process.pid) if moment is not None else None
        if now is not None and time.time() - now[1] >= moment * trained[now[0]]:
            process.kill()
            process.join()
            if not (target / "stages" / now[0]).exists():  # else it was trained by then
                return None, time.time() - max([now[1], *save_times(target / "saves" / now[0])])
            return None, None
        process.join(0.01)
    return process.exitcode, None


def command(arguments: Sequence[str], errors: Path) -> None:
    """The command line in a process that was forked: what is imported need not be imported again for every kill."""
    with errors.open("a") as file:
        os.dup2(file.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["seqdpo", *arguments]
    cli.main()


def training(target: Path, pid: int) -> tuple[str, float] | None:
    """The stage that a process trains, and when it began or went on with it."""
    for log in target.glob("logs/seed*.jsonl"):
        events = read_events(log)
        began = [event for event in events if event["event"] == "began" and event["pid"] == pid]
        if began and events[-1]["event"] != "done" and not (target / "stages" / log.stem).exists():
            return log.stem, datetime.fromisoformat(began[-1]["time"]).timestamp()
    return None


def save_times(saves: Path) -> list[float]:
    times = []
    for path in saves.glob("0*/save.json"):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return times


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
