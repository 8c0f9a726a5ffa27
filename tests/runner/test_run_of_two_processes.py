"""A run of two processes, as torchrun starts them, beside that of one."""

import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from test_run_study import SilentBoard, lab_study

from seqdpo.files import read_sealed
from seqdpo.runner.events import read_events
from seqdpo.runner.study import run_study
from seqdpo.study.file import study_yaml

KEYS = {"orders": [["first", "second"]], "placebo": 0, "gradient_trace_points": 3, "mechanism_pairs": 10}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "seqdpo"]


def torchrun(*arguments, cwd):
    """One thread a process, which torchrun sets, and a cache of their own."""
    environment = os.environ | {"SEQDPO_CACHE": str(cwd / "cache")}
    return subprocess.run([*TORCHRUN, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True)


def test_two_processes_leave_the_run_of_one(tmp_path):
    """Adapters, scores and mechanism, up to the order of float32 sums; the first process alone writes and prints."""
    one = run_study(lab_study(tmp_path / "one", **KEYS), SilentBoard())
    (tmp_path / "study.yaml").write_text(study_yaml(lab_study("two", **KEYS)))
    two = torchrun("run", "study.yaml", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("base: begins") == 1
    folder = type(one)(tmp_path / "two")
    for table, columns in (
        ("scores", ["chosen_logp", "rejected_logp", "base_chosen_logp"]),
        ("gradients", ["dot", "update_dot"]),
        ("kl_and_path", ["chosen_forecast"]),
    ):
        here, there = (pq.read_table(run.root / f"{table}.parquet") for run in (one, folder))
        assert here.num_rows == there.num_rows > 0
        for column in columns:
            expected = here[column].drop_null().to_numpy()
            assert there[column].drop_null().to_numpy() == pytest.approx(expected, rel=1e-3, abs=1e-3), column
    record = read_sealed(folder.stage(None) / "node.json")
    assert record["environment"]["processes"] == 2
    pids = {event["pid"] for log in folder.root.glob("logs/*.jsonl") for event in read_events(log) if "pid" in event}
    assert len(pids) == 1


TOLD = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (("run", "study.yaml", "--executor", "ray"), "seqdpo run --executor ray: started as 2 processes"),
        (("run", "study.yaml", "--prepare"), "seqdpo run --prepare: started as 2 processes"),
        (("check", "study.yaml"), "seqdpo check: started as 2 processes"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_before_anything_loads(
    arguments, refused, seqdpo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(study_yaml(lab_study("run")))
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)
    code, _, errors = seqdpo(*arguments)
    assert code == 2
    assert refused in errors
    assert not (tmp_path / "run").exists()
