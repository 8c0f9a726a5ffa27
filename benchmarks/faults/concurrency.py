"""Several commands at once on one folder, and on one cache: each must end well or be refused, and no byte may change.

    python benchmarks/faults/concurrency.py --rounds 5

A small study of the lab runs once undisturbed. Then, in every round, with random pauses between the starts: two runs in
one folder; two runs of two folders with one cache that is empty; `analyse`, `report` and `gate` again and again while a
run goes on; a run in a folder with the locks and half-written files that killed processes leave.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from disk_full import STUDY
from kills import contents, running, seqdpo, started, wrong

IN_USE = "another process is running a study there"


class Bench:
    """The undisturbed run, and what a round needs of it."""

    def __init__(self, root: Path, generator: random.Random) -> None:
        self.root, self.generator = root, generator
        self.study = root / "study.yaml"
        self.study.write_text(json.dumps(STUDY | {"output_dir": "unused"}))  # JSON is YAML
        self.whole = root / "whole" / "run"
        began = time.monotonic()
        assert started(running(self.study, self.whole), self.whole, None) == 0
        self.seconds = time.monotonic() - began
        self.expected = contents(self.whole)

    def pause(self) -> None:
        """At most as long as a run."""
        time.sleep(self.seconds * self.generator.random())

    def unfinished(self, place: str) -> Path:
        """A copy of the run whose last stages are to be done again."""
        target = self.root / place / "run"
        shutil.copytree(self.whole, target)
        for stage in (target / "stages").glob("seed0.first.*"):
            shutil.rmtree(stage)
        return target


class Started:
    """A command that goes on while others do."""

    def __init__(self, arguments: Sequence[str], cache: Path | None = None) -> None:
        environment = os.environ | ({} if cache is None else {"SEQDPO_CACHE": str(cache)})
        self._process = subprocess.Popen(
            seqdpo(arguments), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def goes_on(self) -> bool:
        return self._process.poll() is None

    def ended(self) -> tuple[int, str]:
        """Its exit code, and what it said as errors, in one line."""
        told = self._process.communicate()[1]
        return self._process.returncode, " ".join(told.split())


def two_runs_of_one_folder(bench: Bench, place: str) -> list[str]:
    target = bench.root / place / "run"
    runs = [Started(running(bench.study, target))]
    bench.pause()
    runs.append(Started(running(bench.study, target)))
    answers = sorted(run.ended() for run in runs)
    problems = wrong(target, answers[0][0], bench.expected)
    if answers[1][0] != 0 and not (answers[1][0] == 2 and IN_USE in answers[1][1]):
        problems.append(f"the other one: exit {answers[1][0]}: {answers[1][1]}")
    return problems


def two_runs_of_one_cache(bench: Bench, place: str) -> list[str]:
    cache = bench.root / place / "cache"
    targets = [bench.root / place / name / "run" for name in "ab"]
    runs = []
    for target in targets:
        runs.append(Started(running(bench.study, target), cache))
        bench.pause()
    problems = [problem for run, target in zip(runs, targets, strict=True) for problem in after(run, target, bench)]
    return problems + [f"left: {path}" for path in cache.rglob("*") if path.suffix in (".tmp", ".damaged")]


def after(run: Started, target: Path, bench: Bench) -> list[str]:
    code, told = run.ended()
    return [*wrong(target, code, bench.expected), *([told[-500:]] if code else [])]


def analyse_during_a_run(bench: Bench, place: str) -> list[str]:
    return beside_a_run(bench, place, lambda target: ["analyse", str(target)])


def report_during_a_run(bench: Bench, place: str) -> list[str]:
    page = bench.root / place / "page.html"
    problems = beside_a_run(bench, place, lambda target: ["report", str(target), "-o", str(page)])
    if page.is_file() and page.read_bytes() != bench.expected["report.html"]:
        problems.append("another page")
    return problems


def gate_during_a_run(bench: Bench, place: str) -> list[str]:
    return beside_a_run(bench, place, lambda target: ["gate", str(target), "--max-loss", "0.99"])


def beside_a_run(bench: Bench, place: str, command: Callable[[Path], list[str]]) -> list[str]:
    """A command again and again, from before a run until it is over."""
    target = bench.unfinished(place)
    run, problems = Started(running(bench.study, target)), []
    while run.goes_on():
        code, told = Started(command(target)).ended()
        if code not in (0, 2) or "Traceback" in told or (code == 2 and str(target) not in told):
            problems.append(f"exit {code}: {told[-300:]}")
    return problems + after(run, target, bench)


def what_killed_processes_left(bench: Bench, place: str) -> list[str]:
    target = bench.unfinished(place)
    for lock in (".lock", "logs/.seed0.first.second.lock"):
        (target / lock).write_text("4194304\n")  # no process has that number
    for left in (".scores.parquet.host-4194304.tmp", "stages/base/.node.json.host-4194304.tmp"):
        (target / left).write_text("half")
    return after(Started(running(bench.study, target)), target, bench)


TRIALS: tuple[Callable[[Bench, str], list[str]], ...] = (
    *(two_runs_of_one_folder, two_runs_of_one_cache, analyse_during_a_run, report_during_a_run, gate_during_a_run),
    what_killed_processes_left,
)


def main() -> None:
    """Prints a line for each trial; exit 1 if one did not end as it should."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    n_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), random.Random(chosen.seed))
        for number in range(chosen.rounds):
            for trial in TRIALS:
                problems = trial(bench, f"{trial.__name__}{number}")
                n_wrong += bool(problems)
                print(f"{trial.__name__.replace('_', ' ')}: {problems or 'as it should be'}", flush=True)
    raise SystemExit(n_wrong > 0)


if __name__ == "__main__":
    main()
