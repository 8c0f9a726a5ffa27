"""`seqdpo push` with the hub's own client: one commit a repository, or nothing and one clear message."""

import json
import shutil
from itertools import count

import pytest
import yaml
from huggingface_hub import ModelCard

from run_folders import pair, write_run

TOKEN = "hf_" + "secret" * 6
NUMBERS = count()
ORDER = "helpful>harmless"
BASE = {"model": "acme/llama@" + "a" * 40}
#: Margins of 12 held-out pairs: each of them learned 2 nats and lost 1.
MARGINS = {(ORDER, 1, 0): [2.0, 1.5, 2.5] * 4, (ORDER, 2, 0): [1.0, 0.5, 1.5] * 4}
OBJECTIVES = {
    "helpful": {"format": "preference", "dataset_name": "acme/pairs"},
    "harmless": {"format": "preference", "dataset_name": "/home/me/secret-folder/harmless.jsonl"},
}


@pytest.fixture
def run(tmp_path):
    """A run folder with adapters; its own path and the machine's are in the files that name them."""
    pairs = {name: [pair(f"{name}{i}") for i in range(12)] for name in OBJECTIVES}
    study = {"model_name_or_path": "acme/llama", "objectives": OBJECTIVES, "adapter_mode": "continue", "placebo": 0}
    root = write_run(tmp_path / "my-run", pairs, {"helpful": MARGINS, "harmless": MARGINS}, study, BASE)
    for folder in ("seed0.helpful", "seed0.helpful.harmless"):
        adapter = root / "stages" / folder / "adapter"
        adapter.mkdir(parents=True)
        (adapter / "adapter_model.safetensors").write_bytes(folder.encode() * 10)
        config = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "cache"), "r": 4}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        (adapter.parent / "node.json").write_text(json.dumps({"objective": folder.split(".")[-1], "seed": 0}))
    return root


@pytest.fixture
def pushed(run, client, hub):
    """`pushed("--dry-run")`: the end of the command, and the name of the repository, which no test had before."""
    made = []

    def call(*flags, fault=None, of=""):
        name = f"acme/pushed-{next(NUMBERS)}"
        hub.faults |= {name + of: fault} if fault else {}
        made.append(name)
        hub.commits.clear(), hub.blobs.clear(), hub.asked.clear()
        return client(run.parent, "push", run, "--repo", name, *flags, token=TOKEN), name

    yield call
    for name in made:
        for path in (hub.root / "models" / name, hub.root / "datasets" / f"{name}-results"):
            shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def analysed(run):
    """What `seqdpo analyse` derives needs stages' tables; here the findings alone are made."""
    from seqdpo.analysis.results import results
    from seqdpo.analysis.schema import to_json
    from seqdpo.files import read_table, write_json, write_table
    from seqdpo.layout import RunFiles
    from seqdpo.tables import GRADIENTS_SCHEMA, KL_AND_PATH_SCHEMA, MOVEMENT_SCHEMA

    files = RunFiles(run)
    scores, pairs = read_table(files.scores), read_table(files.pairs)
    study = yaml.safe_load(files.study.read_text())
    write_json(files.results, to_json(results(scores, pairs, 0.3, study=study)))
    write_table(files.movement, MOVEMENT_SCHEMA.empty_table())
    write_table(files.gradients, GRADIENTS_SCHEMA.empty_table())
    write_table(files.kl_and_path, KL_AND_PATH_SCHEMA.empty_table())
    write_json(files.dropped, {name: {"read": 12, "train": 0, "eval": 12, "dropped": {}} for name in OBJECTIVES})


def test_each_repository_is_one_commit_of_all_its_files(pushed, hub, run):
    ended, name = pushed()
    assert ended.code == 0, ended.errors
    data, model = hub.commits
    assert data[:2] == ("datasets", f"{name}-results")
    assert {"README.md", "scores.parquet", "data/pairs.parquet", "results.json", "report.html"} <= {*data[2]}
    assert model == (
        "models",
        name,
        [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "lineage.json",
            "stages/seed0.helpful/adapter_config.json",
            "stages/seed0.helpful/adapter_model.safetensors",
        ],
    )
    there = hub.root / "models" / name
    assert (there / "adapter_model.safetensors").read_bytes() == b"seed0.helpful.harmless" * 10
    results = hub.root / "datasets" / f"{name}-results"
    assert (results / "scores.parquet").read_bytes() == (run / "scores.parquet").read_bytes()
    assert f"Published {hub.address}/{name}" in ended.output


def test_the_card_has_what_the_hub_reads_and_the_verdicts_with_n_and_intervals(pushed, hub):
    _, name = pushed()
    card = ModelCard((hub.root / "models" / name / "README.md").read_text())
    assert (card.data.library_name, card.data.base_model, card.data.base_model_revision) == (
        "peft",
        "acme/llama",
        "a" * 40,
    )
    assert card.data.datasets == ["acme/pairs"]
    values = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    # at the end of the order every margin is 0.5, 1.0 or 1.5
    assert values["helpful", "accuracy"] == 1.0
    assert values["helpful", "margin"] == pytest.approx(1.0)
    assert set(values) == {(name, metric) for name in OBJECTIVES for metric in ("accuracy", "margin")}
    assert all("n=12" in one.metric_name for one in card.data.eval_results)
    [row] = [line for line in card.text.splitlines() if line.startswith("| helpful\\>harmless | helpful | helpful")]
    assert "| -1.00 (-1.00 to -1.00) |" in row  # each pair lost 1 nat
    assert row.endswith("| 12 |")
    assert f'from_pretrained(base, "{name}")' in card.text
    lineage = json.loads((hub.root / "models" / name / "lineage.json").read_text())
    assert [stage["objective"] for stage in lineage["stages"]] == ["helpful", "harmless"]
    assert (lineage["base_model"], lineage["base_model_revision"]) == ("acme/llama", "a" * 40)


@pytest.mark.parametrize("base", ["acme/llama", "/home/me/models/llama"])
def test_nothing_of_this_machine_and_no_token_is_published(pushed, hub, run, tmp_path, base):
    for file, load in ((run / "study.yaml", yaml.safe_load), (run / "results.json", json.loads)):
        content = load(file.read_text())
        content.get("study", content)["model_name_or_path"] = base
        file.write_text(json.dumps(content))
    ended, name = pushed()
    assert ended.code == 0, ended.errors
    folders = (hub.root / "models" / name, hub.root / "datasets" / f"{name}-results")
    published = [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]
    for text in (str(tmp_path), "/home/me", TOKEN):
        assert not [1 for content in published if text.encode() in content], text
    assert TOKEN not in ended.output + ended.errors


def test_dry_run_lists_the_files_and_asks_nothing_of_the_hub(pushed, hub):
    ended, name = pushed("--dry-run")
    assert ended.code == 0, ended.errors
    assert f"model {name}, private:" in ended.output
    assert "adapter_model.safetensors" in ended.output
    assert "Nothing was sent." in ended.output
    assert (hub.asked, hub.commits) == ([], [])


def test_another_checkpoint(pushed, hub):
    ended, name = pushed("--checkpoint", "helpful")
    assert ended.code == 0, ended.errors
    assert (hub.root / "models" / name / "adapter_model.safetensors").read_bytes() == b"seed0.helpful" * 10
    ended, _ = pushed("--checkpoint", "harmless")
    assert (ended.code, hub.commits) == (2, [])
    assert "--checkpoint = 'harmless'; expected one of 'helpful', 'helpful>harmless'. In a shell:" in ended.errors


@pytest.mark.parametrize(
    ("fault", "of", "expected", "left"),
    [
        ("unauthorized", "-results", "does not accept your token (401)", 0),
        ("forbidden", "-results", "forbids it to your token (403)", 0),
        (("forbidden", "create"), "", "forbids it to your token (403)", 1),
        (("missing with a token", "commit"), "", "no such owner or name for you (404)", 1),
        (("too many", "preupload"), "-results", "429 Too Many Requests). Wait some minutes", 0),
        (("broken", "commit"), "-results", "500 Internal Server Error", 0),
        (("cut off", "blob"), "-results", "the connection broke off", 0),
    ],
)
def test_what_the_hub_refuses_is_told_and_not_half_there(pushed, hub, fault, of, expected, left):
    ended, name = pushed(fault=fault, of=of)
    assert ended.code == 2, ended
    assert expected in ended.errors
    assert "No file of it was published." in ended.errors
    assert "Traceback" not in ended.errors
    assert TOKEN not in ended.errors
    assert len(hub.commits) == left
    assert (f"{name}-results is whole there." in ended.errors) == bool(left)
    failed = hub.root / ("datasets" if of else "models") / (name + of)
    assert not [path for path in failed.rglob("*") if path.is_file()]


def test_a_repository_with_other_files_is_left_alone(pushed, hub, run, client):
    name = f"acme/pushed-{next(NUMBERS)}"
    other = hub.root / "models" / name
    other.mkdir(parents=True)
    (other / "model.safetensors").write_bytes(b"theirs")
    hub.commits.clear()
    ended = client(run.parent, "push", run, "--repo", name, token=TOKEN)
    shutil.rmtree(other)
    assert (ended.code, hub.commits) == (2, [])
    assert "with files such as model.safetensors; expected none, or one that seqdpo pushed" in ended.errors


def test_the_same_push_again_is_one_more_commit(pushed, hub, run, client):
    _, name = pushed()
    assert client(run.parent, "push", run, "--repo", name, token=TOKEN).code == 0
    assert [commit[1] for commit in hub.commits] == [f"{name}-results", name] * 2


def test_a_file_that_holds_a_token_is_not_published(pushed, hub, run):
    config = run / "stages/seed0.helpful/adapter/adapter_model.safetensors"
    config.write_bytes(b"x " + TOKEN.encode())
    ended, _ = pushed()
    assert (ended.code, hub.commits) == (2, [])
    assert "stages/seed0.helpful/adapter_model.safetensors: holds what looks like a token" in ended.errors


@pytest.mark.parametrize("name", ["x", "a/b/c", "a b/c"])
def test_a_name_that_is_none(run, client, name):
    ended = client(run.parent, "push", run, "--repo", name, token=TOKEN)
    assert ended.code == 2
    assert "--repo = " in ended.errors
    assert "expected OWNER/NAME" in ended.errors


def test_without_a_token_nothing_is_asked_of_the_hub(run, client, hub):
    hub.asked.clear()
    ended = client(run.parent, "push", run, "--repo", "acme/x")
    assert (ended.code, hub.asked) == (2, [])
    assert "no token of the hub; expected one that may write. Log in: hf auth login" in ended.errors
