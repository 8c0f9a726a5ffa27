"""Findings from the files of a run folder alone, also those that an older release wrote, and without torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seqdpo.analysis.schema import SCHEMA_VERSION
from seqdpo.errors import ConfigError, DataError
from seqdpo.files import read_sealed, write_sealed
from seqdpo.runner.findings import write_findings
from seqdpo.runner.folder import RunFolder

#: The files that a release before this one left, adapters and training curves taken out.
OLDER_RUN = Path(__file__).with_name("older_run")
#: `import torch` fails below it, and so for what a laptop does without.
WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from seqdpo.cli import main
main()
"""


@pytest.fixture
def older_run(tmp_path):
    shutil.copytree(OLDER_RUN, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    shutil.copytree(OLDER_RUN, folder.root)
    write_findings(folder)
    return folder


def command(folder, *arguments):
    run = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(run, cwd=folder.root.parent, capture_output=True, text=True, env=os.environ, check=False)


def test_the_run_of_an_older_release_is_analysed_by_this_one(analysed):
    assert pq.read_table(analysed.scores).equals(pq.read_table(OLDER_RUN / "scores.parquet"))
    found = json.loads(analysed.results.read_text())
    assert found["schema_version"] == SCHEMA_VERSION
    assert [(cell["from"], cell["to"], cell["n"]) for cell in found["cells"]] == [("first", "first>second", 40)]
    assert {one["to"] for one in found["mechanism"]["kl_and_path"]} >= {"first", "first>second"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("analyse", "run"),
        ("report", "run"),
        ("pairs", "run", "--objective", "first"),
        ("gate", "run", "--max-loss", "0.99"),
        ("compare", "run", "run"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_reads_a_run_needs_neither_torch_nor_transformers(analysed, arguments):
    found = command(analysed, *arguments)
    assert found.returncode in ((0, 1) if arguments[0] == "gate" else (0,)), found.stderr
    assert "Traceback" not in found.stderr


def test_findings_are_the_same_bytes_each_time(analysed, older_run):
    before = analysed.results.read_bytes()
    write_findings(older_run)
    assert older_run.results.read_bytes() == before


@pytest.mark.parametrize("content", [None, "{"])
def test_a_manifest_that_is_gone_or_spoilt_is_written_anew_from_the_stages(older_run, content):
    identity = json.loads(older_run.manifest.read_text())["identity"]
    older_run.manifest.unlink()
    if content:
        older_run.manifest.write_text(content)
    write_findings(older_run)
    assert json.loads(older_run.manifest.read_text())["identity"] == identity


def test_a_base_of_another_run_is_not_taken_for_this_one(analysed, tmp_path):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(analysed.root, folder.root)
    record = folder.stage(None) / "node.json"
    values = read_sealed(record)
    write_sealed(record, values | {"identity": values["identity"] | {"data": "0" * 16}})
    before = folder.manifest.read_bytes()
    with pytest.raises(DataError, match=r"base/node.json: is of another run.*Move .*stages/base away and run again"):
        write_findings(folder)
    assert folder.manifest.read_bytes() == before


def test_a_stage_of_another_run_is_not_analysed_as_this_ones(older_run):
    record = older_run.root / "stages/seed0.first.second/node.json"
    values = read_sealed(record)
    write_sealed(record, values | {"identity": values["identity"] | {"data": "0" * 16}})
    with pytest.raises(DataError, match=r"second/node.json: data = 0000.*Move .*seed0.first.second away and run again"):
        write_findings(older_run)


def test_stages_that_changed_places_are_not_analysed(older_run):
    stages = older_run.root / "stages"
    (stages / "seed0.first.second").rename(stages / "aside")
    (stages / "seed0.first.placebo1-second").rename(stages / "seed0.first.second")
    (stages / "aside").rename(stages / "seed0.first.placebo1-second")
    with pytest.raises(DataError, match=r"is of 'first>second~placebo1' of seed 0; expected 'first>second' of seed 0"):
        write_findings(older_run)


def test_an_unfinished_run_is_refused_with_what_is_left(older_run):
    (older_run.root / "stages/seed0.first.second/node.json").unlink()
    with pytest.raises(ConfigError, match=r"1 of 5 stages are not done, .*seed0.first.second first.*seqdpo run"):
        write_findings(older_run)


@pytest.mark.parametrize("name", ["data/pairs.parquet", "study.yaml", "stages/seed0.first/scores.parquet"])
def test_what_is_not_what_the_run_wrote_is_refused_by_name(older_run, name):
    path = older_run.root / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match=rf"{name}: checksum = .*Run the study again"):
        write_findings(older_run)


def test_pairs_that_were_not_scored_are_refused(older_run):
    pairs = pq.read_table(older_run.pairs)
    pq.write_table(pairs.slice(0, pairs.num_rows - 1), older_run.pairs)
    manifest = json.loads(older_run.manifest.read_text())
    older_run.manifest.write_text(json.dumps(manifest | {"files": {}}))
    with pytest.raises(DataError, match=r"pairs.parquet: its held-out pairs are not those that were scored"):
        write_findings(older_run)


@pytest.mark.parametrize("name", ["results.json", "scores.parquet", "study.yaml"])
@pytest.mark.parametrize("arguments", [("gate", "run", "--max-loss", "0.99"), ("pairs", "run", "--objective", "first")])
def test_no_command_answers_from_a_file_that_the_run_did_not_write(analysed, tmp_path, name, arguments):
    shutil.copytree(analysed.root, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    found = command(RunFolder(tmp_path / "run"), *arguments)
    read_it = name != ("scores.parquet" if arguments[0] == "gate" else "results.json")
    assert (found.returncode, f"{name}: checksum" in found.stderr) == (
        (2, True) if read_it else (found.returncode, False)
    )
