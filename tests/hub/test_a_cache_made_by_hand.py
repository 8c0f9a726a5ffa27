"""A hub cache copied to a machine without a network: `snapshots/` and `refs/`, as the hub's client lays them out."""

import json
import shutil
from pathlib import Path

import pytest
import upstream
import yaml

COMMITS = {"model": "a" * 40, "dataset": "b" * 40}
NAMES = {"model": "acme/carried", "dataset": "acme/carried-pairs"}


@pytest.fixture
def carried(hub, environment):
    """Puts a model and a data set into the cache, as if they had been downloaded."""
    cache = Path(environment["HF_HOME"]) / "hub"
    folders = {kind: cache / f"{kind}s--{name.replace('/', '--')}" for kind, name in NAMES.items()}
    shutil.copytree(hub.root / "models" / upstream.LLAMA, folders["model"] / "snapshots" / COMMITS["model"])
    rows = [{"prompt": f"what is {i}? ", "chosen": "the answer", "rejected": "no"} for i in range(24)]
    upstream._write_lines(folders["dataset"] / "snapshots" / COMMITS["dataset"] / "train.jsonl", rows)
    for kind, folder in folders.items():
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(COMMITS[kind])
    yield folders
    for folder in folders.values():
        shutil.rmtree(folder)


def study(folder, **keys):
    source = {"format": "preference", "dataset_name": NAMES["dataset"]}
    values = {
        "model_name_or_path": NAMES["model"],
        "lora_r": 2,
        "placebo": 0,
        "gradient_trace_points": 0,
        "mechanism_pairs": 0,
        "objectives": {"brief": source},
        "output_dir": "out",
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(values | keys))
    return "s.yaml"


def test_a_study_runs_from_it_and_names_the_commit(carried, client, hub, tmp_path):
    asked = len(hub.asked)
    ended = client(tmp_path, "run", study(tmp_path), offline=True)
    assert ended.code == 0, ended.errors
    assert len(hub.asked) == asked
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["identity"]["model"] == f"acme/carried@{COMMITS['model']}"


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_another_revision_than_the_one_that_was_carried_is_refused(carried, client, tmp_path, kind):
    other = {"model_revision": "v2"}
    if kind == "dataset":
        source = {"format": "preference", "dataset_name": NAMES["dataset"], "dataset_revision": "v2"}
        other = {"objectives": {"brief": source}}
    ended = client(tmp_path, "check", study(tmp_path, **other), offline=True)
    assert ended.code == 2
    assert f"the {kind} is not whole in the cache" in ended.errors


def test_a_model_without_its_weights_is_refused_before_anything_is_written(carried, client, tmp_path):
    (carried["model"] / "snapshots" / COMMITS["model"] / "model.safetensors").unlink()
    ended = client(tmp_path, "run", study(tmp_path), offline=True)
    assert ended.code == 2
    assert "the model is not whole in the cache" in ended.errors
    assert not (tmp_path / "out").exists()
