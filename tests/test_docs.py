"""Every block of code in README and docs, run as it stands there.

The names in them are folders here, which go before the hub: `meta-llama/Llama-3.1-8B-Instruct` is a tiny Llama of
random weights, `Anthropic/hh-rlhf` a few dialogues in upstream's layout. Numbers in an output are the author's.
"""

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
import yaml

from seqdpo.study.file import audit_from, study_from

ROOT = Path(__file__).parents[1]
LLAMA, HH_RLHF = "meta-llama/Llama-3.1-8B-Instruct", "Anthropic/hh-rlhf"
QUESTIONS = ("bake bread", "mend a chair", "plant a tree", "paint a wall", "write a letter", "tune a guitar")
#: What CI itself runs, and what needs an installation.
ELSEWHERE = ("make ", "pip install")
#: Runs that docs name; all of them are one here.
RUNS = ("runs/base-reference", "runs/previous-reference", "runs/demo/lab-conflict")
#: Adapters of others, of which docs/audit.md speaks; here they are those of a study.
ADAPTERS = {"out/helpful": "seed0.helpful", "out/helpful-harmless": "seed0.helpful.harmless"}
#: A command that fails a gate ends with 1, and is right.
MAY_FAIL = ("seqdpo gate",)


class Block(NamedTuple):
    """A fenced block of code."""

    file: str
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.file}:{self.line}"


def blocks() -> Iterator[Block]:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]:
        text = path.read_text() if path.exists() else ""
        for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text[: found.start()].count("\n") + 1
            yield Block(path.relative_to(ROOT).as_posix(), line, found[1], found[2])


def commands(block: Block) -> list[str]:
    """The commands of a shell block: every line, or those behind a prompt."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    found = [line.split("  #")[0].strip() for line in lines]
    return [line for line in found if line.startswith("seqdpo ") and not line.startswith(ELSEWHERE)]


def of_language(*languages: str) -> list[object]:
    return [pytest.param(block, id=block.id) for block in blocks() if block.language in languages]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A folder with the models, data and runs that README and docs name."""
    root = tmp_path_factory.mktemp("world")
    (root / LLAMA).parent.mkdir(parents=True)
    shutil.copytree(tiny_model_folder, root / LLAMA)
    config = json.loads((root / LLAMA / "config.json").read_text()) | {"max_position_embeddings": 2048}
    (root / LLAMA / "config.json").write_text(json.dumps(config))
    for subset, good, bad in (("helpful-base", "First", "Never"), ("harmless-base", "Safely", "Recklessly")):
        for split, n in (("train", 48), ("test", 24)):
            path = root / HH_RLHF / subset / f"{split}.jsonl.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [dialogue(i if split == "train" else 1000 + i, good, bad) for i in range(n)]
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    (root / "data").mkdir()
    (root / "data/brief.jsonl").write_text("".join(json.dumps(brief(i)) + "\n" for i in range(60)))
    (root / "data/polite.jsonl").write_text("".join(json.dumps(brief(i + 60)) + "\n" for i in range(60)))
    tutorial = next(one.text for one in blocks() if one.file == "docs/tutorial.md" and one.language == "yaml")
    (root / "brief.yaml").write_text(tutorial)
    for objective in ("helpful", "harmless"):  # as TRL takes them
        config = {"model_name_or_path": LLAMA, "use_peft": True, "dataset_name": f"data/{objective}.jsonl"}
        (root / f"{objective}.yaml").write_text(yaml.safe_dump(config))
    for command in ("seqdpo init hh-rlhf", "seqdpo run hh-rlhf.yaml"):
        run(root, command)
    scores = pq.read_table(root / "runs/hh-rlhf/scores.parquet").to_pylist()
    (root / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))
    for name in RUNS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(root / "runs/hh-rlhf", root / name)
    for name, stage in ADAPTERS.items():
        shutil.copytree(root / "runs/hh-rlhf/stages" / stage / "adapter", root / name)
    return root


def dialogue(i: int, good: str, bad: str) -> dict[str, str]:
    question = f"\n\nHuman: How do I {QUESTIONS[i % len(QUESTIONS)]} in {i} steps?\n\nAssistant:"
    return {"chosen": f"{question} {good}, take {i % 7} of them.", "rejected": f"{question} {bad} take {i % 5}."}


def brief(i: int) -> dict[str, str]:
    question = f"How do I {QUESTIONS[i % len(QUESTIONS)]} for {i} people?"
    return {"prompt": question, "chosen": f" Take {i}.", "rejected": f" Well, it is a long story, and {i} of them."}


def run(root: Path, command: str) -> str:
    """A line for a shell in that folder, with the seqdpo of the tests; must end well."""
    environment = os.environ | {"SEQDPO_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(command, shell=True, cwd=root, env=environment, capture_output=True, text=True, check=False)
    expected = (0, 1) if command.startswith(MAY_FAIL) else (0,)
    assert done.returncode in expected, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("block", of_language("sh", "console", "bash"))
def test_every_command_that_is_shown_works(world: Path, block: Block) -> None:
    first_id = json.loads(run(world, "seqdpo pairs runs/hh-rlhf --objective helpful --limit 1 --format jsonl"))[
        "pair_id"
    ]
    for command in commands(block):
        if command.startswith("seqdpo init"):
            study = world / f"{shlex.split(command)[2]}.yaml"
            study.unlink(missing_ok=True)
        run(world, re.sub(r"--pair \w+", f"--pair {first_id}", command.split(";")[0]))


@pytest.mark.parametrize("block", of_language("yaml"))
def test_every_study_that_is_shown_is_a_study(block: Block) -> None:
    values = yaml.safe_load(block.text)
    if "checkpoints" in values:
        audit_from(values, block.id)
        return
    rest = {"model_name_or_path": LLAMA, "output_dir": "runs/shown"} | (
        {} if "objectives" in values else {"setting": "hh-rlhf"}
    )
    study_from(rest | values, block.id)


@pytest.mark.parametrize("block", of_language("python"))
def test_every_python_block_runs(world: Path, block: Block) -> None:
    (world / "block.py").write_text(block.text)
    run(world, "python -W ignore block.py")


def test_no_block_is_of_a_language_that_nothing_runs() -> None:
    known = {"sh", "console", "bash", "yaml", "python", "json", "text", "make", ""}
    assert {block.language for block in blocks()} <= known


def test_the_notebook_runs(world: Path) -> None:
    notebook = json.loads((ROOT / "examples/notebook.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    (world / "cells.py").write_text("\n".join(cells))
    assert "sentence" in cells[1]
    assert run(world, "python cells.py").strip()
