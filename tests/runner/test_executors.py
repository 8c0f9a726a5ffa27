"""Executors elsewhere: the walk of the tree over workers that get lost, and each kind of them against one process."""

import os
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from time import monotonic, sleep

import pytest
from test_run_study import SilentBoard, lab_study

from seqdpo.errors import ConfigError, RunError
from seqdpo.runner.events import append_event, read_events
from seqdpo.runner.executors import fleet
from seqdpo.runner.executors.choice import chosen_executor
from seqdpo.runner.executors.fleet import MOST_TRIES, Ended, walk
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.study import run_study
from seqdpo.study.file import study_yaml
from seqdpo.study.tree import stage_tree

SMALL = {"orders": [["first", "second"], ["second"]], "placebo": 0, "per_device_train_batch_size": 2}
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")
needs_submitit = pytest.mark.skipif(find_spec("submitit") is None, reason="the extra slurm is not installed")
RESULTS = ("scores.parquet", "results.json", "gradients.parquet", "movement.parquet")


@pytest.fixture
def board(monkeypatch):
    return SilentBoard()


class Planned:
    """Workers whose fates are known: by node, what comes of each try; done where nothing is said."""

    def __init__(self, folder, size=8, **fates):
        self.folder, self.size, self.fates = folder, size, {name: list(some) for name, some in fates.items()}
        self.started, self.together, self.stopped, self._running = [], 0, False, []
        (folder.root / "logs").mkdir()
        folder.study.write_text(study_yaml(lab_study(folder.root)))

    def start(self, names):
        for name in names:
            append_event(self.folder.root / f"logs/{name}.jsonl", "began", host="h", device="d")
        self.started += names
        self._running += names
        self.together = max(self.together, len(self._running))

    def ended(self):
        running, self._running = self._running, []
        return [self.fates[name].pop(0) if self.fates.get(name) else Ended(name) for name in running]

    def stop(self):
        self.stopped = True


@pytest.fixture
def walked(tmp_path, monkeypatch):
    """`walked(size, **fates)`: the fleet after a walk of two orders with a control stage each, and its error."""
    monkeypatch.setattr(fleet, "SECONDS_BETWEEN_LOOKS", 0)
    monkeypatch.setattr("seqdpo.runner.executors.account._note", lambda folder, node: "")

    def call(size=8, **fates):
        folder = RunFolder(tmp_path)
        workers = Planned(folder, size, **fates)
        error = None
        try:
            walk(folder, [None, *stage_tree(lab_study(tmp_path))], SilentBoard(), workers)
        except RunError as raised:
            error = str(raised)
        assert workers.stopped
        return workers, error

    return call


TREE = {
    "base": None,
    "seed0.first": "base",
    "seed0.first.second": "seed0.first",
    "seed0.first.placebo1-second": "seed0.first",
    "seed0.second": "base",
    "seed0.second.first": "seed0.second",
    "seed0.second.placebo1-first": "seed0.second",
}


@pytest.mark.parametrize(("size", "together"), [(1, 1), (3, 3), (8, 4)])
def test_a_node_begins_after_its_parent_and_no_more_than_there_are_workers(size, together, walked):
    workers, error = walked(size)
    assert error is None
    assert sorted(workers.started) == sorted(TREE)
    for name, parent in TREE.items():
        assert parent is None or workers.started.index(parent) < workers.started.index(name)
    assert workers.together == together


def test_a_lost_worker_costs_its_node_only(walked, tmp_path):
    name = "seed0.first"
    workers, error = walked(**{name: [Ended(name, "gone", lost=True)] * (MOST_TRIES - 1)})
    assert error is None
    assert [one for one in TREE if workers.started.count(one) > 1] == [name]
    events = [event["event"] for event in read_events(tmp_path / "events.jsonl")]
    assert events.count("worker_lost") == MOST_TRIES - 1
    assert events.count("stage_done") == len(TREE)


def test_a_node_that_loses_every_worker_fails_and_the_other_branch_is_done(walked):
    name = "seed0.first"
    workers, error = walked(**{name: [Ended(name, "gone", lost=True)] * MOST_TRIES})
    assert error == "seed0.first: gone"
    assert workers.started.count(name) == MOST_TRIES
    assert set(TREE) - set(workers.started) == {"seed0.first.second", "seed0.first.placebo1-second"}


def test_what_a_user_has_to_mend_is_not_tried_again(walked):
    workers, error = walked(base=[Ended("base", "the data is another one")])
    assert error == "base: the data is another one"
    assert workers.started == ["base"]


def test_arguments_of_executors_are_checked_before_anything_is_read():
    assert chosen_executor("here", None, None) is None
    with pytest.raises(ConfigError, match=r"--address = 'auto' with --executor here"):
        chosen_executor("here", "auto", None)
    with pytest.raises(ConfigError, match=r"--executor-args = 'workers=2' with --executor here, which has none"):
        chosen_executor("here", None, "workers=2")


def test_an_interruption_ends_the_workers(tmp_path, monkeypatch):
    workers = Planned(RunFolder(tmp_path))

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "ended", interrupted)
    with pytest.raises(KeyboardInterrupt):
        walk(RunFolder(tmp_path), [None], SilentBoard(), workers)
    assert workers.stopped


def test_without_its_library_an_executor_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"ray is not installed; .*pip install 'seqdpo\[ray\]'"):
        chosen_executor("ray", None, None)


PLAIN_RUN = """
import atexit, sys
from seqdpo.policy import quantised
quantised.import_module = None  # PEFT imports bitsandbytes by itself where it is installed; we do not
from seqdpo import cli
def tell():
    print("imported:", *{"ray", "submitit"} & {*sys.modules})
    import torch  # which imports torch.distributed itself
    print("joined others:", torch.distributed.is_initialized())
atexit.register(tell)
sys.argv = ["seqdpo", "run", "study.yaml"]
cli.main()
"""


def test_a_local_run_imports_no_executor_library(tmp_path):
    study = lab_study("run", **SMALL | {"orders": [["first"]], "mechanism_pairs": 0, "max_train_pairs": 8})
    (tmp_path / "study.yaml").write_text(study_yaml(study))
    environment = os.environ | {"SEQDPO_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PLAIN_RUN]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert done.stdout.splitlines()[-2:] == ["imported:", "joined others: False"], done.stderr
    assert (tmp_path / "run" / "results.json").is_file()


# the real ones


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The run of one process, by which the others are judged, and its cache."""
    root = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: root / "cache")
        return run_study(lab_study(root / "run", **SMALL), SilentBoard())


@pytest.fixture
def one_thread_a_worker(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def assert_as_here(folder, here):
    for name in RESULTS:
        assert (folder.root / name).read_bytes() == (here.root / name).read_bytes(), name


def workers_of(folder):
    return {event["pid"] for log in folder.root.glob("logs/*.jsonl") for event in read_events(log) if "pid" in event}


def strike_inside(root, name, number):
    """Sends a signal to the process that trains a stage, once, when some of its steps are done."""

    def watch():
        until = monotonic() + 300
        while monotonic() < until:
            if list(root.glob(f"saves/{name}/0*")):
                os.kill(read_events(root / f"logs/{name}.jsonl")[0]["pid"], number)
                return
            sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()


@needs_ray
def test_two_ray_workers_one_of_them_killed_give_the_bytes_of_one_process(here, tmp_path, one_thread_a_worker):
    root = tmp_path / "run"
    strike_inside(root, "seed0.second", signal.SIGKILL)
    execute = chosen_executor("ray", None, "workers=2,num_cpus=1")
    folder = run_study(lab_study(root, **SMALL, save_minutes=0), SilentBoard(), execute)
    assert_as_here(folder, here)
    events = [event for event in read_events(folder.events) if event["event"] == "worker_lost"]
    assert [event["node"] for event in events] == ["seed0.second"]
    assert len(workers_of(folder)) == 3  # two, and the one in place of the killed one
    assert os.getpid() not in workers_of(folder)


@needs_ray
def test_a_cluster_that_does_not_answer_or_has_no_room_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match=r"--address = 'auto': no Ray cluster answers"):
        chosen_executor("ray", "auto", None)(RunFolder(tmp_path), [], SilentBoard())
    with pytest.raises(ConfigError, match=r"num_cpus=1000 for a worker; found \d+ GPUs and \d+ CPUs"):
        chosen_executor("ray", None, "num_cpus=1000")(RunFolder(tmp_path), [], SilentBoard())


@needs_ray
def test_arguments_of_ray_are_known_ones():
    with pytest.raises(ConfigError, match=r"'worker' is unknown; .*Did you mean 'workers'"):
        chosen_executor("ray", None, "worker=2")
    with pytest.raises(ConfigError, match=r"'workers=two' cannot be read; expected NAME=VALUE"):
        chosen_executor("ray", None, "workers=two")


@needs_submitit
def test_jobs_of_submitit_one_of_them_preempted_give_the_bytes_of_one_process(here, tmp_path, one_thread_a_worker):
    """Its local executor queues a job again as Slurm does, in this way of submitit's own."""
    root = tmp_path / "run"
    strike_inside(root, "seed0.second", signal.SIGUSR2)
    execute = chosen_executor("slurm", None, "cluster=local,workers=2,time=60")
    folder = run_study(lab_study(root, **SMALL, save_minutes=0), SilentBoard(), execute)
    assert_as_here(folder, here)
    events = [event["event"] for event in read_events(folder.root / "logs/seed0.second.jsonl")]
    assert events.count("began") == 2
    assert any("seed0.second: goes on after step" in log.read_text() for log in root.glob("logs/jobs/*.out"))
    assert not [event for event in read_events(folder.events) if event["event"] == "worker_lost"]


@needs_submitit
def test_where_no_jobs_can_be_submitted_slurm_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"--executor slurm: Could not detect \"srun\""):
        chosen_executor("slurm", None, "partition=gpu")(RunFolder(tmp_path), [], SilentBoard())


@needs_submitit
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of submitit's own logs
def test_submitits_debug_executor_runs_in_this_process(here, tmp_path, one_thread_a_worker):
    folder = run_study(
        lab_study(tmp_path / "run", **SMALL), SilentBoard(), chosen_executor("slurm", None, "cluster=debug")
    )
    assert_as_here(folder, here)
    assert workers_of(folder) == {os.getpid()}
