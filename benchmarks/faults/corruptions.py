"""One file of a run spoilt, then each command: it must heal, be told, or not matter; never be believed.

    python benchmarks/faults/corruptions.py                       every file, corruption and command
    python benchmarks/faults/corruptions.py --files manifest.json results.json
    python benchmarks/faults/corruptions.py --table table.md      the table of docs/reliability.md, too

A small study of the lab runs once, and once more with another learning rate, for files of another run. Then, on a copy
each time, one file is spoilt and each command called. What it did is right if it is one of

- same: exit code and output (of `run` and `analyse`: every table, the findings, the adapters) are those of before;
- refused: exit 2 with a message that names the file, no traceback, and a remedy after which all is as before.
"""

import argparse
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import yaml

from seqdpo import cli
from seqdpo.lab.model import lab_model_path

OBJECTIVES = {
    "first": {"format": "lab", "angle": 0, "n_pairs": 40, "overlap": 0.5},
    "second": {"format": "lab", "angle": 120, "n_pairs": 40, "overlap": 0.5},
}
STUDY = {
    "lora_r": 2,
    "learning_rate": 3e-3,
    "max_length": 128,
    "objectives": OBJECTIVES,
    "orders": [["first", "second"]],
    "eval_fraction": 0.5,
    "mechanism_share": 8.0,
    "output_dir": "run",
}
STAGE = "stages/seed0.first.second"
CACHE = "cache/base_logps"
#: Every kind of file that a run leaves, the cache's last.
FILES = (
    "run/study.yaml",
    "run/manifest.json",
    "run/data/pairs.parquet",
    "run/data/dropped.json",
    "run/stages/base/scores.parquet",
    "run/stages/base/node.json",
    *(f"run/{STAGE}/adapter/{name}" for name in ("adapter_model.safetensors", "adapter_config.json")),
    *(f"run/{STAGE}/{name}.parquet" for name in ("train", "movement", "gradients", "kl_and_path", "scores")),
    *(f"run/{STAGE}/{name}.json" for name in ("trained", "node")),
    "run/stages/seed0.first/adapter/adapter_model.safetensors",
    *(f"run/{name}.parquet" for name in ("scores", "movement", "gradients", "kl_and_path")),
    "run/results.json",
    "run/events.jsonl",
    "run/report.html",
    CACHE,
)
COMMANDS = {
    "gate": ("gate", "run", "--max-loss", "0.3"),
    "pairs": ("pairs", "run", "--objective", "first"),
    "compare": ("compare", "run", "run"),
    "report": ("report", "run", "-o", "page.html"),
    "analyse": ("analyse", "run"),
    "run": ("run", "study.yaml"),
}
#: What a file may hold, and what must be as before, once `run` or `analyse` is done.
TABLES = ("scores", "movement", "gradients", "kl_and_path")
SAME = ("data/pairs.parquet", "data/dropped.json", *(f"{name}.parquet" for name in TABLES), "results.json")
OF_STAGE = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "scores.parquet", "movement.parquet")


def truncated(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def exchanged(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def retyped(path: Path, other: Path) -> None:
    path.write_text("[1, 2]\n")


def made_folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def removed(path: Path, other: Path) -> None:
    path.unlink()


CORRUPTIONS: dict[str, Callable[[Path, Path], None]] = {
    "cut in half": truncated,
    "one bit flipped": flipped,
    "another run's": exchanged,
    "empty": emptied,
    "wrong type": retyped,
    "a folder": made_folder,
    "missing": removed,
}


class Answer(NamedTuple):
    """What a command ended with."""

    code: int
    output: str
    errors: str


class Outcome(NamedTuple):
    """What a command made of a spoilt file."""

    file: str
    corruption: str
    command: str
    kind: str  # same, refused or WRONG
    detail: str


class Bench:
    """The two runs, and copies of the first one that are spoilt."""

    def __init__(self, root: Path) -> None:
        self.root, self.copies = root, 0
        self.model = str(lab_model_path())
        self._run("whole", learning_rate=3e-3)

    def _run(self, name: str, learning_rate: float) -> Path:
        os.environ |= {"COLUMNS": "80", "OMP_NUM_THREADS": "1"}
        (self.root / name).mkdir()
        study = STUDY | {"model_name_or_path": self.model, "learning_rate": learning_rate}
        (self.root / name / "study.yaml").write_text(yaml.safe_dump(study))
        answer = called(self.root / name, *COMMANDS["run"])
        assert answer.code == 0, answer
        return self.root / name

    @cached_property
    def other(self) -> Path:
        return self._run("other", learning_rate=1e-3)

    @cached_property
    def expected(self) -> dict[str, Answer]:
        """What each command that only reads says of the whole run, and the page that it writes."""
        return {name: answer_of(self.root / "whole", name) for name in COMMANDS if name not in ("analyse", "run")}

    def copy(self) -> Path:
        self.copies += 1
        target = self.root / f"copy{self.copies}"
        shutil.copytree(self.root / "whole", target)
        return target

    def spoilt(self, file: str, corruption: str) -> Path:
        """A copy in which one file is spoilt; of the cache every one, and the stages that would not ask it are gone."""
        copy = self.copy()
        paths = [copy / file] if file != CACHE else sorted((copy / CACHE).iterdir())
        others = [self.other / file] if file != CACHE else paths[1:] + paths[:1]
        contents = [other.read_bytes() for other in others]
        for path, content in zip(paths, contents, strict=True):
            (copy / "other").write_bytes(content)
            CORRUPTIONS[corruption](path, copy / "other")
        if file == CACHE:
            shutil.rmtree(copy / "run")
        return copy

    def outcomes(self, file: str, corruption: str, commands: Sequence[str]) -> list[Outcome]:
        """One for each command."""
        found = []
        for command in commands if file != CACHE else ("run",):
            copy = self.spoilt(file, corruption)
            kind, detail = self.judged(copy, command, file)
            found.append(Outcome(file, corruption, command, kind, detail))
            shutil.rmtree(copy)
        return found

    def judged(self, copy: Path, command: str, file: str) -> tuple[str, str]:
        answer = answer_of(copy, command)
        problems = self.differences(copy, command, answer)
        if not problems:
            return "same", ""
        if answer.code != 2:
            return "WRONG", f"exit {answer.code}: {'; '.join(problems)}: {answer.errors[-300:]}"
        text = " ".join(answer.errors.split())
        if "Traceback" in text or not any(name in text for name in names_of(file)):
            return "WRONG", f"does not name the file: {text}"
        remedy = apply_remedy(copy, text)
        if remedy is None:
            return "WRONG", f"no remedy: {text}"
        problems = self.differences(copy, command, answer_of(copy, command))
        return ("refused", remedy) if not problems else ("WRONG", f"{remedy} does not help: {problems}: {text}")

    def differences(self, copy: Path, command: str, answer: Answer) -> list[str]:
        """In what an answer, and what it left, is not as it was of the whole run."""
        if command in self.expected:
            return ["another answer"] if answer[:2] != self.expected[command][:2] else []
        problems = [f"exit {answer.code}"] if answer.code else []
        whole = self.root / "whole" / "run"
        names = [*SAME, *(f"{STAGE}/{name}" for name in (OF_STAGE if command == "run" else ()))]
        problems += [f"{name} differs" for name in names if not same_file(whole / name, copy / "run" / name)]
        return problems + [f"left {path.name}" for path in copy.rglob("*.tmp")]


def same_file(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def answer_of(folder: Path, command: str) -> Answer:
    """Of `report`, the page stands for the output."""
    answer = called(folder, *COMMANDS[command])
    page = folder / "page.html"
    return answer._replace(output=page.read_text()) if command == "report" and page.is_file() else answer


def called(folder: Path, *arguments: str) -> Answer:
    """The command line in this process."""
    output, errors, code = io.StringIO(), io.StringIO(), 0
    os.environ["SEQDPO_CACHE"] = str(folder / "cache")
    sys.argv = ["seqdpo", *arguments]
    with chdir(folder), redirect_stdout(output), redirect_stderr(errors):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
    return Answer(code, output.getvalue(), errors.getvalue())


def names_of(file: str) -> tuple[str, ...]:
    """How a message may name a file: by its path in the run, or by its stage's folder."""
    inside = file.removeprefix("run/")
    return (inside, *([str(Path(inside).parent)] if "stages/" in inside else []))


def apply_remedy(copy: Path, text: str) -> str | None:
    """Does what a message says; its name, None if it says nothing that can be done."""
    if moved := re.search(r"(?:[Mm]ove|[Rr]emove) (run/stages/\S+) (?:away )?and run again", text):
        shutil.move(copy / moved[1], copy / "moved")
        return "moved away, run again" if called(copy, *COMMANDS["run"]).code == 0 else "moving away"
    if "seqdpo analyse run" in text:
        return "analyse" if called(copy, *COMMANDS["analyse"]).code == 0 else "analyse (fails)"
    if re.search(r"[Rr]un (the study |`seqdpo run` )?again", text):
        answer = called(copy, *COMMANDS["run"])
        return "run again" if answer.code == 0 else f"run again (fails: {answer.errors[-300:]})"
    return None


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: a line for each file and the corruptions that end alike, a column for each command."""
    lines = [f"| file | spoilt by | {' | '.join(COMMANDS)} |", "|---|---|" + "---|" * len(COMMANDS)]
    cells = {(one.file, one.corruption, one.command): one for one in outcomes}
    alike: dict[tuple[str, ...], list[str]] = {}
    for file, corruption in dict.fromkeys((one.file, one.corruption) for one in outcomes):
        row = [cells.get((file, corruption, command)) for command in COMMANDS]
        told = ["" if one is None else f"{one.kind} {one.detail}".strip() for one in row]
        alike.setdefault((file, *told), []).append(corruption)
    for (file, *told), corruptions in alike.items():
        lines.append(f"| `{file.removeprefix('run/')}` | {', '.join(corruptions)} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prints a line for each outcome that is wrong, and counts; exit 1 if there is one."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", nargs="+", default=FILES, help="ends of their paths")
    options.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    options.add_argument("--table", type=Path)
    chosen = options.parse_args()
    files = [file for file in FILES if file.endswith(tuple(chosen.files))]
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for file in files:
            for corruption in CORRUPTIONS:
                found = bench.outcomes(file, corruption, chosen.commands)
                outcomes += found
                for one in found:
                    if one.kind == "WRONG":
                        print(*one, sep=" | ", flush=True)
            print(f"{file}: {len(outcomes)} outcomes so far", flush=True)
            if chosen.table:
                chosen.table.write_text(table(outcomes))
    counts = {kind: sum(one.kind == kind for one in outcomes) for kind in ("same", "refused", "WRONG")}
    print(counts)
    raise SystemExit(counts["WRONG"] > 0)


if __name__ == "__main__":
    main()
