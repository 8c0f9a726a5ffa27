"""Runs of one study from several machines, joined."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from seqdpo.errors import ConfigError, DataError
from seqdpo.files import file_hash, file_hashes
from seqdpo.runner.findings import write_findings
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.merge import merge_runs

OLDER_RUN = Path(__file__).with_name("older_run")
WEIGHTS = "adapter/adapter_model.safetensors"


def a_run(root, seed=0, weights="of this machine", **keys):
    """One machine's run: the stages are those of OLDER_RUN under another seed, their weights some bytes."""
    folder = RunFolder(root)
    shutil.copytree(OLDER_RUN, root)
    study = yaml.safe_load(folder.study.read_text()) | {"seeds": [seed], "output_dir": str(root)} | keys
    folder.study.write_text(yaml.safe_dump(study))
    folder.manifest.unlink()
    for stage in sorted(root.glob("stages/seed0.*")):
        stage = stage.rename(stage.with_name(stage.name.replace("seed0", f"seed{seed}")))
        (stage / "adapter").mkdir()
        (stage / WEIGHTS).write_text(f"{weights} {stage.name}")
    for stage in sorted(root.glob("stages/seed*")):
        parent = None if stage.name.count(".") < 2 else file_hash(root / f"stages/seed{seed}.first" / WEIGHTS)
        record = json.loads((stage / "node.json").read_text()) | {"seed": seed, "parent_adapter": parent}
        (stage / "node.json").unlink()
        (stage / "node.json").write_text(json.dumps(record | {"files": file_hashes(stage)}))
    write_findings(folder)
    return folder


def test_seeds_of_two_machines_become_one_run(tmp_path):
    here, there = a_run(tmp_path / "here"), a_run(tmp_path / "there", seed=1)
    copied = merge_runs(here, [there])
    assert [(node.seed, node.checkpoint) for node in copied] == [
        (1, "first"), (1, "first>second"), (1, "first>second~placebo1"), (1, "first>second~placebo2"),
    ]  # fmt: skip
    assert yaml.safe_load(here.study.read_text())["seeds"] == [0, 1]
    scores = pq.read_table(here.scores)
    assert scores["seed"].value_counts().to_pylist() == [
        {"values": 0, "counts": pq.read_table(OLDER_RUN / "scores.parquet").num_rows},
        {"values": 1, "counts": pq.read_table(OLDER_RUN / "scores.parquet").num_rows},
    ]
    assert {cell["seed"] for cell in json.loads(here.results.read_text())["cells"]} == {0, 1}
    assert merge_runs(here, [there]) == []


def test_a_run_of_another_study_is_refused_with_the_key(tmp_path):
    here, there = a_run(tmp_path / "here"), a_run(tmp_path / "there", seed=1, beta=0.1)
    with pytest.raises(ConfigError, match=r"there: is of another study.*beta = 0\.1 there, 0\.3 here"):
        merge_runs(here, [there])


def test_a_stage_that_two_machines_trained_to_other_weights_is_refused(tmp_path):
    here, there = a_run(tmp_path / "here"), a_run(tmp_path / "there", weights="of that machine")
    with pytest.raises(DataError, match=r"there/stages/seed0.first: has other weights"):
        merge_runs(here, [there])


def test_a_base_that_says_something_else_is_refused(tmp_path):
    here, there = a_run(tmp_path / "here"), a_run(tmp_path / "there", seed=1)
    path = there.stage(None) / "scores.parquet"
    table = pq.read_table(path)
    shifted = pa.chunked_array([pa.array([value + 1 for value in table["chosen_logp"].to_pylist()])])
    pq.write_table(table.set_column(table.column_names.index("chosen_logp"), "chosen_logp", shifted), path)
    with pytest.raises(DataError, match=r"its base says something else"):
        merge_runs(here, [there])


def test_a_spoilt_stage_is_not_copied(tmp_path):
    here, there = a_run(tmp_path / "here"), a_run(tmp_path / "there", seed=1)
    (there.root / "stages/seed1.first" / WEIGHTS).write_text("other bytes")
    with pytest.raises(DataError, match=r"seed1.first/adapter.*checksum.*Run the study again in"):
        merge_runs(here, [there])
    assert not (here.root / "stages/seed1.first").exists()
