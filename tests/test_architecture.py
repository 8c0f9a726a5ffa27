"""Imports point one way, and each layer takes only what it reads; docs/architecture.md draws the picture."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import seqdpo

PACKAGE = Path(seqdpo.__file__).parent
#: A layer imports from those above it. `lab` makes pairs for `preferences`, which asks it late: `datasets/lab.py`.
LAYERS = (
    *("errors", "wording", "values", "launched", "cache", "hub", "files", "layout", "tables", "screen"),
    *("study", "preferences", "lab", "policy", "training", "measure", "analysis", "report", "runner", "trl", "cli"),
)
LATE = {("preferences/datasets/lab.py", "lab")}
#: What a laptop without PyTorch can read.
WITHOUT_TORCH = (
    *("errors", "wording", "values", "launched", "files", "layout", "tables", "screen"),
    *("study", "analysis", "report"),
)
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors"}
#: Where a whole study is the subject.
WHOLE_STUDY = {"study", "runner/study.py", "runner/until_separable.py", "runner/preflight.py", "cli.py"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in ("__init__.py", "__main__.py"):
            yield name, ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(name: str) -> str:
    return name.partition("/")[0].removesuffix(".py")


def test_imports_point_up_the_list_of_layers() -> None:
    against = [
        f"{name} imports {target}"
        for name, tree in modules()
        for target in imported(tree)
        if target.startswith("seqdpo.")
        and (name, layer := target.split(".")[1]) not in LATE
        and layer in LAYERS
        and LAYERS.index(layer) > LAYERS.index(layer_of(name))
    ]
    assert against == []


def test_every_module_has_a_layer() -> None:
    assert {layer_of(name) for name, _ in modules()} == set(LAYERS)


def test_what_reads_files_imports_nothing_of_torch() -> None:
    against = [
        f"{name} imports {target}"
        for name, tree in modules()
        if layer_of(name) in WITHOUT_TORCH
        for target in imported(tree)
        if target.split(".")[0] in HEAVY
    ]
    assert against == []


def test_only_who_runs_a_study_takes_a_whole_one() -> None:
    against = [
        f"{name}: {function.name}({argument.arg}: Study)"
        for name, tree in modules()
        if not {layer_of(name), name} & WHOLE_STUDY
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for argument in [*function.args.args, *function.args.kwonlyargs]
        if argument.annotation is not None and ast.unparse(argument.annotation).strip("\"'") == "Study"
    ]
    assert against == []


@pytest.mark.parametrize("name", seqdpo.__all__)
def test_the_front_door_opens(name: str) -> None:
    assert getattr(seqdpo, name).__doc__


def test_import_seqdpo_imports_nothing_else_and_its_functions_stay_functions() -> None:
    code = (
        "import sys, seqdpo; assert not {m for m in sys.modules if m.startswith('seqdpo.')}; "
        "import seqdpo.runner.findings, seqdpo.analysis.results; "
        "assert callable(seqdpo.analyse) and callable(seqdpo.read_run); "
        f"assert not {sorted(HEAVY)!r} & sys.modules.keys()"
    ).replace(f"{sorted(HEAVY)!r}", f"set({sorted(HEAVY)!r})")
    subprocess.run([sys.executable, "-c", code], check=True)
