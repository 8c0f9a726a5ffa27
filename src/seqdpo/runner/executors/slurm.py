"""On a Slurm cluster, by submitit: what may run goes out as a job array, each node a job of its own.

A job whose time is over, or that has to make room, keeps its stage (`seqdpo.runner.saves`), is queued again, and goes
on inside the stage. All machines have to see the run folder, the model and the data under the same paths.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from seqdpo.errors import ConfigError
from seqdpo.runner.board import Board
from seqdpo.runner.executors.fleet import Ended, walk, work
from seqdpo.runner.folder import RunFolder
from seqdpo.study.checkpoints import Node

#: What `--executor-args` may hold besides options of sbatch, which are handed through (partition, account, gres, ...).
#: `cluster`: slurm, or local or debug as submitit has them; `time`: minutes a job; `requeues`: at most so many.
ARGUMENTS = {"cluster": str, "workers": int, "time": int, "requeues": int}
DEFAULTS: dict[str, Any] = {"cluster": "slurm", "workers": 16, "time": 480, "requeues": 20}


def execute(folder: RunFolder, left: Sequence[Node | None], board: Board, arguments: Mapping[str, Any]) -> None:
    """Runs the nodes that are left.

    Raises: ConfigError if there is no Slurm here, or it has no such option; RunError that names the nodes that failed.
    """
    walk(folder, left, board, Jobs(folder, arguments))


class Jobs:
    """A fleet of jobs (`seqdpo.runner.executors.fleet.Fleet`)."""

    def __init__(self, folder: RunFolder, arguments: Mapping[str, Any]) -> None:
        self._root = folder.root.resolve()
        given = DEFAULTS | dict(arguments)
        self.size = given["workers"]
        self._executor = _executor(self._root / "logs" / "jobs", given)
        self._jobs: dict[str, submitit.Job[str | None]] = {}

    def start(self, names: Sequence[str]) -> None:
        with self._executor.batch():  # one job array
            for name in names:
                self._jobs[name] = self._executor.submit(NodeJob(str(self._root)), name)

    def ended(self) -> Iterator[Ended]:
        for name, job in list(self._jobs.items()):
            if job.done():
                del self._jobs[name]
                yield _outcome(name, job)

    def stop(self) -> None:
        for job in self._jobs.values():
            job.cancel(check=False)


class NodeJob:
    """A node as submitit keeps it in a file."""

    def __init__(self, root: str) -> None:
        self.root = root

    def __call__(self, name: str) -> str | None:
        from seqdpo.runner.worker import Worker

        return work(Worker(Path(self.root), print).run, name)

    def checkpoint(self, name: str) -> submitit.helpers.DelayedSubmission:
        """Called when the job's time is over; the stage is kept by then."""
        return submitit.helpers.DelayedSubmission(self, name)


def _outcome(name: str, job: "submitit.Job[str | None]") -> Ended:
    try:
        return Ended(name, job.result())
    except FailedJobError as error:  # an error that nobody foresaw, with its traceback
        return Ended(name, str(error).strip().splitlines()[-1])
    except UncompletedJobError as error:
        return Ended(name, str(error).splitlines()[0], lost=True)


def _executor(logs: Path, given: Mapping[str, Any]) -> submitit.AutoExecutor:
    options = {name.replace("_", "-"): value for name, value in given.items() if name not in ARGUMENTS}
    try:
        executor = submitit.AutoExecutor(logs, cluster=given["cluster"], slurm_max_num_timeout=given["requeues"])
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--executor slurm: {str(error).splitlines()[0]} Expected a machine from which jobs are submitted."
        ) from None
    executor.update_parameters(
        name="seqdpo",
        timeout_min=given["time"],
        slurm_array_parallelism=given["workers"],
        slurm_additional_parameters=options,
    )
    return executor
