"""`seqdpo audit` from the command line: what is written, what is said, what is refused."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file, save_file

from audited import N_PAIRS, found, scores
from seqdpo.runner.folder import RunFolder


@pytest.fixture
def typed(seqdpo, audit_values, base_logps_cache, tmp_path):
    """`typed(*arguments, **keys)`: `seqdpo audit audit.yaml *arguments`, with keys laid over those of the file."""

    def call(*arguments, **keys):
        (tmp_path / "audit.yaml").write_text(yaml.safe_dump(audit_values | keys))
        return seqdpo("audit", tmp_path / "audit.yaml", *arguments)

    return call


@pytest.fixture
def two(make_adapter):
    return make_adapter("first"), make_adapter("second", r=2)


def test_one_command_scores_two_adapters_and_the_other_commands_read_them(typed, two, seqdpo, audit_values, tmp_path):
    first, second = two
    code, output, _ = typed("--checkpoint", f"helpful={first}", "--checkpoint", f"helpful/harmless={second}")
    assert code == 0
    assert "helpful: LoRA, rank 4, on base; " in output
    assert "an audit has no control stages" in " ".join(output.split())
    assert f"vllm serve {audit_values['model_name_or_path']} --enable-lora --max-lora-rank 8 --lora-modules" in output
    run = RunFolder(tmp_path / "run")
    records = [
        json.loads((run.root / "stages" / name / "node.json").read_text()) for name in ("seed0.helpful.harmless",)
    ]
    assert [(one["kind"], one["checkpoint"], one["parent"]) for one in records] == [
        ("audit", "helpful>harmless", "helpful")
    ]
    [cell] = json.loads(run.results.read_text())["cells"]
    assert (cell["objective"], cell["from"], cell["to"], cell["n"]) == ("helpful", "helpful", "helpful>harmless", 12)
    assert {one["statement"] for one in (cell["recipe"][name] for name in ("margin", "accuracy", "flips"))} == {
        "UNTESTED"
    }
    assert set(pq.read_table(run.pairs)["split"].to_pylist()) == {"eval"}
    moved = pq.read_table(run.movement).to_pylist()
    assert {row["checkpoint"] for row in moved} == {"helpful", "helpful>harmless"}
    card = run.report.with_suffix(".md").read_text()
    assert f"policy = PeftModel.from_pretrained(base, '{second}')" in card
    assert "checkpoint helpful&gt;harmless" in run.report.read_text()
    assert seqdpo("report", run.root)[0] == 0
    assert seqdpo("gate", run.root, "--max-loss", 0.05)[0] in (0, 1)
    code, output, _ = seqdpo("pairs", run.root, "--objective", "helpful", "--format", "jsonl")
    assert code == 0 and len(output.splitlines()) == N_PAIRS
    assert seqdpo("analyse", run.root)[0] == 0
    assert seqdpo("compare", run.root, run.root)[0] == 0
    code, _, errors = seqdpo("merge", run.root, run.root)
    assert code == 2 and "is an audit, which trained nothing" in errors


def test_run_again_scores_only_what_is_new(typed, two, monkeypatch, tmp_path):
    first, second = two
    typed("--checkpoint", f"helpful={first}")
    before = scores(RunFolder(tmp_path / "run"), "helpful")
    stamp = (tmp_path / "run/stages/seed0.helpful/scores.parquet").stat().st_mtime_ns
    code, output, _ = typed("--checkpoint", f"helpful={first}", "--checkpoint", f"helpful>harmless={second}")
    assert code == 0 and "[1/1] helpful>harmless: begins" in output
    assert (tmp_path / "run/stages/seed0.helpful/scores.parquet").stat().st_mtime_ns == stamp
    monkeypatch.setattr("seqdpo.runner.audit.load_model", lambda keys: pytest.fail("nothing is left to score"))
    assert typed("--checkpoint", f"helpful={first}", "--checkpoint", f"helpful>harmless={second}")[0] == 0
    monkeypatch.undo()
    (tmp_path / "run/stages/seed0.helpful/scores.parquet").write_bytes(b"spoilt")
    code, output, _ = typed("--checkpoint", f"helpful={first}", "--checkpoint", f"helpful>harmless={second}")
    assert code == 0 and "[1/1] helpful: begins" in output
    assert (scores(RunFolder(tmp_path / "run"), "helpful")["helpful"] == before["helpful"]).all()


def test_other_weights_under_the_same_name_are_not_mixed_with_the_old_scores(typed, two, tmp_path):
    first, second = two
    typed("--checkpoint", f"helpful={first}")
    code, _, errors = typed("--checkpoint", f"helpful={second}")
    assert code == 2 and "weights = " in errors and "Move" in errors


def test_trained_pairs_are_kept_apart(typed, two, pairs_folder, tmp_path):
    lines = (pairs_folder / "helpful.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "trained.jsonl").write_text("".join(lines[:5]))
    assert typed("--checkpoint", f"helpful={two[0]}", trained_on={"helpful": str(tmp_path / "trained.jsonl")})[0] == 0
    dropped = json.loads((tmp_path / "run/data/dropped.json").read_text())
    assert (dropped["helpful"]["eval"], dropped["helpful"]["dropped"]) == (N_PAIRS - 5, {"trained_on": 5})
    assert (dropped["harmless"]["eval"], dropped["harmless"]["dropped"]) == (N_PAIRS, {})


def test_a_sources_training_split_is_kept_apart_with_its_prompts(typed, two, pairs_folder, tmp_path, audit_values):
    lines = (pairs_folder / "helpful.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text("".join(lines[:4]))
    other_answer = json.loads(lines[0]) | {"rejected": [{"role": "assistant", "content": "no"}]}
    (tmp_path / "data/test.jsonl").write_text("".join(lines[4:]) + json.dumps(other_answer) + "\n")
    objectives = audit_values["objectives"] | {
        "helpful": {"format": "preference", "dataset_name": str(tmp_path / "data")}
    }
    assert typed("--checkpoint", f"helpful={two[0]}", objectives=objectives)[0] == 0
    dropped = json.loads((tmp_path / "run/data/dropped.json").read_text())["helpful"]
    assert (dropped["eval"], dropped["dropped"]) == (N_PAIRS - 4, {"upstream_train_split": 5})


def test_what_is_odd_about_a_checkpoint_is_said(typed, make_adapter, tiny_model_folder, tmp_path):
    idle = make_adapter("idle", scale=0.0)
    edit(idle, base_model_name_or_path="/gone/llama-bnb-4bit")
    for file in tiny_model_folder.glob("token*"):
        shutil.copy(file, idle)
    (idle / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = json.loads((idle / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 300, "content": "<new>"})
    (idle / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert typed("--checkpoint", f"helpful={idle}")[0] == 0
    notes = "\n".join(found(RunFolder(tmp_path / "run"))["helpful"]["notes"])
    assert "changes nothing: every log-probability is that of base" in notes
    assert "names '/gone/llama-bnb-4bit' as its base, which is not here" in notes
    assert "was trained on a quantised base" in notes
    assert "its chat template is another one than the base's" in notes
    assert "its tokenizer has other tokens than the base's: 1 of" in notes and "'<new>'" in notes


def edit(adapter: Path, **keys: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def pickled(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")


def of_other_vocabulary(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    weights["base_model.model.model.embed_tokens.weight"] = next(iter(weights.values())).new_ones(310, 64)
    save_file(weights, adapter / "adapter_model.safetensors")


SPOILT = {
    "pickled": (pickled, "its weights are pickled"),
    "other vocabulary": (of_other_vocabulary, r"holds 'model.embed_tokens' of \(310, 64\) besides the adapter"),
    "a module to import": (lambda a: edit(a, megatron_config={"x": 1}), "megatron_config = "),
    "biases": (lambda a: edit(a, bias="all"), "bias = 'all'; expected 'none'"),
    "no LoRA": (lambda a: edit(a, peft_type="IA3"), "peft_type = 'IA3'; expected 'LORA'"),
    "other ranks": (lambda a: edit(a, r=7), "does not fit the base"),
    "too few modules": (lambda a: edit(a, target_modules=["q_proj"]), "tensors fit no module of the base"),
    "cut off": (lambda a: (a / "adapter_model.safetensors").write_bytes(b"x"), "no whole safetensors file"),
    "no configuration": (lambda a: (a / "adapter_config.json").write_text("{"), "expected a PEFT LoRA configuration"),
    "wrong types": (lambda a: edit(a, rank_pattern=["x"]), "expected a PEFT LoRA configuration"),
    "itself below it": (lambda a: edit(a, base_model_name_or_path=str(a)), "names itself as its base"),
    "nothing": (lambda a: (a / "adapter_config.json").unlink(), "neither adapter_config.json nor config.json"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_an_adapter_that_cannot_be_audited_is_refused(what, typed, make_adapter, tmp_path):
    adapter = make_adapter("adapter")
    spoil, message = SPOILT[what]
    spoil(adapter)
    code, _, errors = typed("--checkpoint", f"helpful={adapter}")
    assert code == 2
    assert_message(errors, message)


def assert_message(errors: str, message: str) -> None:
    import re

    assert re.search(message, " ".join(errors.split())), errors
    assert "Traceback" not in errors


MISTAKES = {
    "missing path": (["--checkpoint", "helpful=/nowhere/adapter"], "path = '/nowhere/adapter': no such folder"),
    "no path": (["--checkpoint", "helpful"], "expected --checkpoint NAME=PATH"),
    "unknown name": (["--checkpoint", "helpfull=FIRST"], "'helpfull' is no objective.*Did you mean 'helpful'"),
    "no parent": (["--checkpoint", "helpful/harmless=FIRST"], "but not 'helpful' before it"),
    "twice": (["--checkpoint", "helpful/helpful=FIRST"], "trains an objective twice"),
    "the base": (["--checkpoint", "base=FIRST"], "'base' is no checkpoint of an audit"),
    "nothing": ([], "checkpoints is missing"),
    "a key of a study": (["--checkpoint", "helpful=FIRST", "--learning-rate", "1"], "not a key of an audit"),
    "a file": (["--checkpoint", "helpful=FIRST/adapter_config.json"], "is a file; expected the folder"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_clear_message(what, typed, two):
    arguments, message = MISTAKES[what]
    code, _, errors = typed(*[one.replace("FIRST", str(two[0])) for one in arguments])
    assert code == 2
    assert_message(errors, message)


def test_another_base_is_refused_for_a_first_checkpoint_and_named(typed, make_adapter, merge_into):
    other = merge_into(make_adapter("change"), "other-base")
    code, _, errors = typed("--checkpoint", f"helpful={make_adapter('adapter', base=other)}")
    assert code == 2
    assert_message(errors, r"which has other weights \(.*\) than .*expected the same base. Set model_name_or_path")


def test_a_lost_parent_has_to_be_named(typed, two):
    first, second = two
    edit(second, base_model_name_or_path="/gone/merged")
    arguments = "--checkpoint", f"helpful={first}", "--checkpoint", f"helpful/harmless={second}"
    code, _, errors = typed(*arguments)
    assert code == 2
    assert_message(errors, "whether 'helpful' was merged into it. Say so in the YAML: {path: .*, on: helpful}")


def test_on_is_read_from_yaml_though_yaml_calls_it_true(typed, two, tmp_path):
    first, second = two
    text = f"checkpoints:\n  helpful: {first}\n  helpful/harmless: {{path: {second}, on: helpful}}\n"
    checkpoints = yaml.safe_load(text)["checkpoints"]
    assert True in checkpoints["helpful/harmless"]
    assert typed(checkpoints=checkpoints)[0] == 0
    assert found(RunFolder(tmp_path / "run"))["helpful>harmless"]["stands_on"] == "helpful, merged"


def test_a_hub_id_is_downloaded_at_its_revision_without_pickles_and_code(typed, two, monkeypatch, tmp_path):
    asked = []

    def snapshot_download(hub_id, revision, allow_patterns):
        asked.append((hub_id, revision, allow_patterns))
        return str(two[0])

    monkeypatch.setattr("seqdpo.policy.foreign.snapshot_download", snapshot_download)
    assert typed(checkpoints={"helpful": {"path": "someone/adapter", "revision": "v1"}})[0] == 0
    [(hub_id, revision, patterns)] = asked
    assert (hub_id, revision) == ("someone/adapter", "v1")
    assert not {"*.bin", "*.py", "*.pt", "*"} & set(patterns)


def test_a_hub_id_that_is_not_there_is_one_message(typed):
    code, _, errors = typed(checkpoints={"helpful": "someone/adapter"})
    assert code == 2
    expected = "path = 'someone/adapter': no such folder here. The hub could not be reached.*download the model"
    assert_message(errors, expected)
