"""Samples for the viewers of lm-evaluation-harness and Inspect: their keys, and numbers that can be told by hand."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from run_folders import pair, write_run
from seqdpo.report.finished import read_run
from seqdpo.report.samples import samples

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ORDERS = ("helpful>harmless", "harmless>helpful")
#: Of two pairs: one right with 2 nats, one wrong with 1; a control stage is no checkpoint of these files.
MARGINS = {(order, stage, control): [2.0, -1.0] for order in ORDERS for stage, control in ((1, 0), (2, 0), (2, 1))}


@pytest.fixture
def run(tmp_path):
    pairs = {name: [pair(f"{name}-a"), pair(f"{name}-b")] for name in ("helpful", "harmless")}
    return read_run(write_run(tmp_path / "run", pairs, dict.fromkeys(pairs, MARGINS)))


def test_lm_eval_has_a_folder_for_each_checkpoint_and_a_file_for_each_objective(run):
    files = dict(samples(run, "lm-eval", WHEN))
    models = ["base", "seed0.helpful", "seed0.helpful.harmless", "seed0.harmless", "seed0.harmless.helpful"]
    stamp = "2026-01-02T03-04-05+00-00"
    names = [f"results_{stamp}.json", *(f"samples_{task}_{stamp}.jsonl" for task in ("helpful", "harmless"))]
    assert sorted(files) == sorted(f"{model}/{name}" for model in models for name in names)
    right, wrong = map(json.loads, files[f"seed0.helpful/samples_helpful_{stamp}.jsonl"].splitlines())
    assert (right["accuracy"], right["margin"], wrong["accuracy"], wrong["margin"]) == (1.0, 2.0, 0.0, -1.0)
    # the base says -10 of both; of a margin of 2 the chosen side has 3/4 and the rejected one -1/4
    assert right["resps"] == [[["-8.5", "False"]], [["-10.5", "False"]]]
    assert right["arguments"]["gen_args_1"] == {
        "arg_0": "user: question of helpful-a",
        "arg_1": "rejected of helpful-a",
    }
    assert (right["doc_id"], right["target"], right["doc"]["pair_id"]) == (0, "0", "helpful-a")
    results = json.loads(files[f"seed0.helpful/results_{stamp}.json"])
    assert results["results"]["helpful"]["accuracy,none"] == 0.5
    assert results["results"]["harmless"]["margin,none"] == 0.5
    assert results["n-samples"]["helpful"] == {"original": 2, "effective": 2}
    assert results["model_name"] == "seed0.helpful"


def test_an_inspect_log_for_each_checkpoint_and_objective(run):
    files = dict(samples(run, "inspect", WHEN))
    assert len(files) == 5 * 2
    logs = {name: json.loads(text) for name, text in files.items()}
    # Inspect takes logs of one id for one task that was tried again
    for name, log in logs.items():
        assert name == f"2026-01-02T03-04-05+00-00_{log['eval']['task']}_{log['eval']['task_id']}.json"
    assert len({log["eval"]["task_id"] for log in logs.values()}) == len(logs)
    [log] = [
        log
        for log in logs.values()
        if (log["eval"]["task"], log["eval"]["model"]) == ("helpful", "seqdpo/seed0.helpful.harmless")
    ]
    assert (log["version"], log["status"]) == (2, "success")
    assert [*log] == ["version", "status", "eval", "plan", "results", "stats", "samples"]
    values = {score["name"]: score["metrics"]["mean"]["value"] for score in log["results"]["scores"]}
    assert values == {"accuracy": 0.5, "margin": 0.5}
    right, wrong = log["samples"]
    assert right["input"] == [{"role": "user", "content": "question of helpful-a"}]
    assert right["scores"]["accuracy"] == {"value": 1.0, "answer": "chosen of helpful-a"}
    assert wrong["scores"]["accuracy"] == {"value": 0.0, "answer": "rejected of helpful-b"}
    assert right["metadata"]["base_chosen_logp"] == -10.0


def test_lm_eval_itself_reads_the_files(run, tmp_path, seqdpo):
    utils, schema = (pytest.importorskip(f"lm_eval.{name}") for name in ("utils", "result_schema"))
    assert seqdpo("samples", run.folder, "--format", "lm-eval", "-o", tmp_path / "out")[0] == 0
    files = [str(path) for path in (tmp_path / "out").glob("*/*")]
    of_samples = utils.get_sample_results_filenames(files)
    assert {utils.get_file_task_name(Path(name).name) for name in of_samples} == {"helpful", "harmless"}
    for name in of_samples:
        for line in Path(name).read_text().splitlines():
            sample = TypeAdapter(schema.SampleResult).validate_json(line, strict=True)
            assert sample["margin"] in (0.0, 2.0, -1.0)
    [results] = [json.loads(Path(name).read_text()) for name in utils.get_results_filenames(files) if "/base/" in name]
    assert "|harmless|      1|none  |     0|accuracy|↑  |  0.5|±  |   N/A|" in utils.make_table(results)


def test_inspect_itself_reads_the_log(run, tmp_path):
    log = pytest.importorskip("inspect_ai.log")
    for name, text in samples(run, "inspect", WHEN):
        (tmp_path / name).write_text(text)
        read = log.read_eval_log(str(tmp_path / name))
        assert read.results.total_samples == len(read.samples) == 2
        assert log.read_eval_log(str(tmp_path / name), header_only=True).eval.task == read.eval.task


def test_the_command_writes_a_new_folder_whole(run, seqdpo, tmp_path):
    code, out, _ = seqdpo("samples", run.folder, "--format", "lm-eval", "-o", tmp_path / "out")
    assert (code, out.startswith("Wrote 15 files into ")) == (0, True)
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 15
    code, _, err = seqdpo("samples", run.folder, "--format", "inspect", "-o", tmp_path / "out")
    assert (code, "exists already; expected a new folder" in err) == (2, True)
