"""A hub that says no, says nothing, or breaks off: one clear screen each, at once, with what to do."""

import json
import shutil
from itertools import count

import pytest
import upstream
import yaml

MAX_LINES, MAX_LINE = 24, 500
NUMBERS = count()  # a name of its own for every repository: no cache has it yet


@pytest.fixture
def study(tmp_path):
    """`study(model, dataset)`: a study file of one objective; what is None is sound and lies here."""
    rows = [{"prompt": f"what is {i}? ", "chosen": "the answer", "rejected": "no"} for i in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(model=None, dataset=None, **keys):
        source = {"format": "preference", "dataset_name": dataset or "pairs.jsonl", **keys.pop("source", {})}
        values = {"model_name_or_path": model or "lab", "objectives": {"brief": source}, "output_dir": "out"}
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(values | keys))
        return "s.yaml"

    return write


@pytest.fixture
def model(hub):
    """`model("gated")`: the stand-in under a name of its own, which no cache has yet, with this fault."""
    made = []

    def make(fault, file=None):
        name = f"acme/llama-{next(NUMBERS)}-{(fault or 'sound').replace(' ', '-')}"
        shutil.copytree(hub.root / "models" / upstream.LLAMA, hub.root / "models" / name)
        hub.faults[name] = (fault, file) if file else fault
        made.append(hub.root / "models" / name)
        return name

    yield make
    for folder in made:
        shutil.rmtree(folder)


@pytest.fixture
def dataset(hub):
    made = []

    def make(fault, file=None):
        name = f"acme/pairs-{next(NUMBERS)}-{(fault or 'sound').replace(' ', '-')}"
        folder = hub.root / "datasets" / name
        rows = [{"prompt": f"what is {i}? ", "chosen": "the answer", "rejected": "no"} for i in range(12)]
        upstream._write_lines(folder / "train.jsonl", rows)
        hub.faults[name] = (fault, file) if file else fault
        made.append(folder)
        return name

    yield make
    for folder in made:
        shutil.rmtree(folder)


def refused(ended, *parts):
    assert ended.code == 2, ended
    assert ended.output == ""
    assert "Traceback" not in ended.errors
    lines = [line for line in ended.errors.splitlines() if not line.startswith(("reading ", "tokenising "))]
    assert lines[0].startswith("Error: ")
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= MAX_LINE
    for part in parts:
        assert part in ended.errors


#: What the hub does, and what its user must read.
REFUSALS = {
    "missing": ("The hub has no {kind} of that name for you", "hf auth login"),
    "gated": ("it is gated", "Ask for access at http://127.0.0.1:", "then log in: hf auth login"),
    "unauthorized": ("does not accept you without a login (401); expected a valid token", "hf auth login"),
    "forbidden": ("forbids it to you without a login (403); expected a token that may read it", "HF_TOKEN"),
    "revision": ("The hub has no revision 'v9' of it; expected a branch, a tag or a commit. Check {kind}_revision.",),
    "too many": ("The hub fails (429 Too Many Requests)", "not whole in the cache", "Wait some minutes"),
    "broken": (
        "The hub fails (500 Internal Server Error)",
        "Try again later",
        "download the {kind} and give its folder",
    ),
    "overloaded": ("The hub fails (503 Service Unavailable)", "Try again later"),
    "hangs": ("The hub did not answer within 1 s (http://127.0.0.1:", "Check the path or the network"),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_model_that_the_hub_does_not_give(client, tmp_path, study, model, fault):
    name = model(fault)
    revision = {"model_revision": "v9"} if fault == "revision" else {}
    ended = client(tmp_path, "run", study(model=name, **revision))
    refused(ended, f"model_name_or_path = '{name}'", *(part.format(kind="model") for part in REFUSALS[fault]))


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_dataset_that_the_hub_does_not_give(client, tmp_path, study, dataset, fault):
    name = dataset(fault)
    source = {"dataset_revision": "v9"} if fault == "revision" else {}
    ended = client(tmp_path, "check", study(model=upstream.LLAMA, dataset=name, source=source))
    refused(ended, f"dataset_name = '{name}'", *(part.format(kind="dataset") for part in REFUSALS[fault]))


def test_a_revision_that_the_hub_does_not_have_is_not_another_one_from_the_cache(hub, client, tmp_path, study, dataset):
    name = dataset("")
    assert client(tmp_path, "check", study(model=upstream.LLAMA, dataset=name)).code == 0
    hub.faults[name] = "revision"
    ended = client(tmp_path, "check", study(model=upstream.LLAMA, dataset=name, source={"dataset_revision": "v9"}))
    refused(ended, "The hub has no revision 'v9'")


def test_a_download_that_breaks_off_says_that_what_is_whole_is_kept(client, tmp_path, study, model):
    ended = client(tmp_path, "check", study(model=model("cut off", "config.json")))
    refused(ended, "The hub's answer broke off", "Run the same command again")


def test_a_repository_of_another_name_now_is_found(hub, client, tmp_path, study, model):
    name = model("moved")
    (hub.root / "models" / f"{name}-renamed").symlink_to(hub.root / "models" / name)
    assert client(tmp_path, "check", study(model=name)).code == 0


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_offline_by_choice_names_the_cache_and_asks_nobody(hub, client, tmp_path, study, model, dataset, kind):
    asked = len(hub.asked)
    names = {"model": model("")} if kind == "model" else {"model": upstream.LLAMA, "dataset": dataset("")}
    ended = client(tmp_path, "check", study(**names), offline=True)
    refused(ended, "HF_HUB_OFFLINE is set", f"the {kind} is not whole in the cache (", "Unset it")
    assert len(hub.asked) == asked


def test_a_hub_in_trouble_is_no_hindrance_to_what_the_cache_has(hub, client, tmp_path, study, model, dataset):
    names = {"model": model(""), "dataset": dataset("")}
    assert client(tmp_path, "check", study(**names)).code == 0
    for fault in ("overloaded", "hangs"):
        hub.faults.update(dict.fromkeys(names.values(), fault))
        ended = client(tmp_path, "check", study(**names))
        assert ended.code == 0, ended.errors
