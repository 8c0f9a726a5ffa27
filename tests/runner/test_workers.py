"""Nodes of one run in processes of their own: as make, a cluster or a person calls them."""

import errno
import json
import os
import shutil
import subprocess
import sys
from time import time

import pytest
from test_run_study import SilentBoard, lab_study

from seqdpo.errors import ConfigError
from seqdpo.files import host_name, read_sealed, write_sealed
from seqdpo.runner.claims import claimed
from seqdpo.runner.environment import environment
from seqdpo.runner.events import read_events
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.plan_formats import plan_make
from seqdpo.runner.study import prepare_run, run_study
from seqdpo.runner.worker import Worker
from seqdpo.study.file import study_yaml
from seqdpo.study.tree import find_node

pytestmark = pytest.mark.usefixtures("base_logps_cache")

#: Scores alone: a process of its own for each node costs enough.
SMALL = {"orders": [["first", "second"], ["second"]], "placebo": 0, "gradient_trace_points": 0, "mechanism_pairs": 0}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The run of one process, by which the others are judged."""
    root = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: root / "cache")
        return run_study(lab_study(root / "run", **SMALL), SilentBoard())


def say(text): ...


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_make_with_two_jobs_gives_the_bytes_of_one_process(here, tmp_path):
    """The command line, its processes and the environment as a user has them; one thread in each, as here."""
    study = tmp_path / "a study.yaml"
    study.write_text(study_yaml(lab_study("another place", **SMALL)))
    output = tmp_path / "it's $HOME run"
    arguments = [str(study), "--output-dir", str(output)]
    (tmp_path / "plan.mk").write_text(plan_make(lab_study(output, **SMALL), str(output), arguments))
    made = subprocess.run(
        ["make", "-j2", "-f", "plan.mk", f"SEQDPO={sys.executable} -m seqdpo"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "SEQDPO_CACHE": str(tmp_path / "other cache")},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    for name in ("scores.parquet", "results.json"):
        assert (output / name).read_bytes() == (here.root / name).read_bytes(), name
    pids = {read_events(log)[0]["pid"] for log in output.glob("logs/*.jsonl")}
    assert len(pids) == 4  # the base and three stages, each a process of its own
    manifest, expected = (json.loads((root / "manifest.json").read_text()) for root in (output, here.root))
    for name in ("engine", "parameters", "model_notes"):  # the workers' bench told
        assert manifest[name] == expected[name]


def test_workers_need_the_parent_first_and_do_nothing_twice(here, tmp_path):
    folder = prepare_run(lab_study(tmp_path / "run", **SMALL), SilentBoard())
    worker = Worker(folder.root, say)
    with pytest.raises(ConfigError, match=r"'first' starts from 'base', which is not done.*Run that stage first"):
        worker.run("first")
    assert worker.run("base")
    assert worker.run("seed0.first")
    assert not worker.run("first")
    for name in ("base", "seed0.first"):
        scores = f"stages/{name}/scores.parquet"
        assert (folder.root / scores).read_bytes() == (here.root / scores).read_bytes()
    events = [event["event"] for event in read_events(folder.events)]
    assert events == ["run_began"]  # workers write to their stages and logs only
    log = read_events(folder.root / "logs/seed0.first.jsonl")
    assert [log[0]["event"], log[-1]["event"]] == ["began", "done"]
    assert log[0]["pid"] == os.getpid()


def test_a_worker_that_finds_other_data_is_refused(here, tmp_path):
    folder = prepare_run(lab_study(tmp_path / "run", **SMALL), SilentBoard())
    manifest = read_sealed(folder.manifest)
    manifest["identity"]["data"] = "0" * 64
    write_sealed(folder.manifest, manifest)
    with pytest.raises(ConfigError, match=r"the data is another one: .* Give this machine the same model, data"):
        Worker(folder.root, say).run("base")


def test_a_node_is_named_by_its_folder_or_its_checkpoint(tmp_path):
    study = lab_study(tmp_path, seeds=[0, 1])
    node = find_node(study, "seed1.first.placebo1-second")
    assert (node.seed, node.checkpoint) == (1, "first>second~placebo1")
    assert find_node(study, "base") is None
    one = lab_study(tmp_path)
    assert find_node(one, "first/second") == find_node(one, "first>second") == find_node(one, "seed0.first.second")
    with pytest.raises(ConfigError, match=r"'first' is of several seeds; expected one of seed0.first, seed1.first"):
        find_node(study, "first")
    with pytest.raises(ConfigError, match=r"'seed0.frist' is no stage.*Did you mean 'seed0.first'"):
        find_node(one, "seed0.frist")


@pytest.fixture
def another_machine(monkeypatch):
    """A worker whose processor is another one than the base's."""

    def elsewhere(**parts):
        made = environment()
        monkeypatch.setattr("seqdpo.runner.study.environment", lambda: made | parts)

    return elsewhere


def test_a_worker_on_another_machine_is_recorded_or_refused_as_the_study_wishes(tmp_path, another_machine):
    said = []
    study = lab_study(tmp_path / "run", **SMALL)
    folder = prepare_run(study, SilentBoard())
    Worker(folder.root, said.append).run("base")
    another_machine(cpu="another one", packages=environment()["packages"] | {"torch": "2.99"})
    Worker(folder.root, said.append).run("seed0.first")
    (told,) = [text for text in said if "another machine" in text]
    assert "cpu another one here" in told
    assert "torch 2.99 here" in told
    folder = prepare_run(study.model_copy(update={"mixed_machines": False}), SilentBoard())  # may change between runs
    with pytest.raises(ConfigError, match=r"cpu another one here, .*; torch 2.99 here, .* as mixed_machines is false"):
        Worker(folder.root, say).run("seed0.second")
    another_machine()
    assert Worker(folder.root, say).run("seed0.second")


def test_a_file_system_without_locks_is_said_and_not_worked_on(tmp_path, monkeypatch):
    folder = prepare_run(lab_study(tmp_path / "run", **SMALL), SilentBoard())

    def none(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    for work in (lambda: prepare_run(lab_study(folder.root, **SMALL), SilentBoard()), Worker(folder.root, say).run):
        with pytest.raises(ConfigError, match=r"its file system has no locks .*NFS from version 4"):
            work("base") if work.__name__ == "run" else work()
    assert not folder.stage(None).exists()


@pytest.mark.parametrize(
    ("host", "last", "seconds", "is_said"),
    [
        ("n1", "progress", 5, True),
        ("n1", "progress", 600, False),  # long ago: its worker is gone
        ("n1", "interrupted", 5, False),  # it said good-bye
        (host_name(), "progress", 5, False),  # this machine's locks are believed
    ],
)
def test_a_node_that_another_machine_works_on_without_its_claim_is_said(host, last, seconds, is_said, tmp_path):
    """Of the file system's own times; the log's are those of another clock, a day ahead."""
    folder, said = RunFolder(tmp_path), []
    log = folder.node_log(None)
    log.parent.mkdir()
    events = [{"event": "began", "host": host}, {"event": last}]
    log.write_text("".join(json.dumps({"time": "2199-01-01T00:00:00+00:00"} | event) + "\n" for event in events))
    os.utime(log, (time() - seconds, time() - seconds))
    with claimed(folder, None, said.append):
        pass
    assert [f"base: {host} wrote its log {seconds} s ago" in text for text in said] == [True] * is_said


HOLD = """
import sys
from seqdpo.runner.claims import claimed
from seqdpo.runner.folder import RunFolder
from pathlib import Path

with claimed(RunFolder(Path(sys.argv[1])), None, print):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_claim_lasts_as_long_as_its_process(here, tmp_path):
    """The coordinator leaves what a living worker writes; what a dead one left is swept by the next."""
    shutil.copytree(here.root, tmp_path / "run")
    folder = type(here)(tmp_path / "run")
    half = folder.root / "stages/.base.elsewhere-1.tmp"
    half.mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    assert not half.exists()
    half.mkdir()
    with folder.locked():
        assert folder.held() == {"base"}
        assert half.exists()
    said = []

    def end_it(text):
        said.append(text)
        process.kill()

    with claimed(folder, None, end_it):  # waits for the other, which dies meanwhile
        assert not half.exists()
    process.communicate()
    assert said == ["base: another process is at it; waiting for it."]
    assert folder.held() == set()


def test_the_plan_as_json_says_what_each_stage_needs(seqdpo, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(study_yaml(lab_study(tmp_path / "run", orders=[["first", "second"]])))
    code, output, _ = seqdpo("plan", file, "--format", "json")
    plan = json.loads(output)
    assert (code, plan["output_dir"]) == (0, str(tmp_path / "run"))
    assert {node["node"]: node["needs"] for node in plan["nodes"]} == {
        "base": [],
        "seed0.first": ["base"],
        "seed0.first.second": ["seed0.first"],
        "seed0.first.placebo1-second": ["seed0.first"],
    }
    control = plan["nodes"][3]
    assert (control["checkpoint"], control["objective"], control["placebo"]) == ("first>second~placebo1", "second", 1)
    assert all(node["tokens"] > 0 and node["seconds"] > 0 for node in plan["nodes"])


def test_flags_of_executors_are_no_keys_of_the_study(seqdpo, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(study_yaml(lab_study(tmp_path / "run")))
    code, _, errors = seqdpo("run", file, "--executor", "here", "--executor-args", "workers=2")
    assert code == 2
    assert "--executor here, which has none" in " ".join(errors.split())
    assert not (tmp_path / "run").exists()
