"""On a Ray cluster, or a Ray of this machine's own: actors that each keep one bench for all nodes that they run.

All machines of the cluster have to see the run folder, the model and the data under the same paths.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from seqdpo.errors import ConfigError
from seqdpo.runner.board import Board
from seqdpo.runner.executors.fleet import Ended, walk, work
from seqdpo.runner.folder import RunFolder
from seqdpo.study.checkpoints import Node

#: What `--executor-args` may hold: the number of workers, and what each of them gets.
ARGUMENTS = {"workers": int, "num_gpus": float, "num_cpus": float, "memory": int}


def execute(
    folder: RunFolder, left: Sequence[Node | None], board: Board, address: str | None, arguments: Mapping[str, Any]
) -> None:
    """Runs the nodes that are left; `address` None starts a Ray on this machine.

    Raises: ConfigError if there is no such cluster; RunError that names the nodes that failed.
    """
    try:
        ray.init(address=address or "local", log_to_driver=False, include_dashboard=False if not address else None)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--address = {address!r}: no Ray cluster answers ({error}); expected one that runs. Start it with "
            "`ray start`, or leave --address out."
        ) from None
    try:
        walk(folder, left, board, Actors(folder, arguments))
    finally:
        ray.shutdown()


class Actors:
    """A fleet of actors (`seqdpo.runner.executors.fleet.Fleet`)."""

    def __init__(self, folder: RunFolder, arguments: Mapping[str, Any]) -> None:
        self._root = str(folder.root.resolve())
        there = ray.cluster_resources()
        gpus = arguments.get("num_gpus", 1.0 if there.get("GPU") else 0.0)
        cpus = arguments.get("num_cpus", 1.0)
        room = int(min(there.get(name, 0.0) // each for name, each in (("GPU", gpus), ("CPU", cpus)) if each))
        if not room:
            raise ConfigError(
                f"--executor-args: num_gpus={gpus:g}, num_cpus={cpus:g} for a worker; found {there.get('GPU', 0):g} "
                f"GPUs and {there.get('CPU', 0):g} CPUs in the cluster. Ask for less."
            )
        self.size = min(arguments.get("workers", room), room)  # one more would wait for ever
        self._options = {"num_gpus": gpus, "num_cpus": cpus, "memory": arguments.get("memory"), "max_restarts": 0}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[str, Any]] = {}  # by the reference to its answer: a node, and the actor that has it

    def start(self, names: Sequence[str]) -> None:
        for name in names:
            actor = self._idle.pop() if self._idle else self._new()
            self._busy[actor.run.remote(name)] = name, actor

    def ended(self) -> Iterator[Ended]:
        answered, _ = ray.wait(list(self._busy), num_returns=len(self._busy), timeout=0)
        for answer in answered:
            name, actor = self._busy.pop(answer)
            try:
                error = ray.get(answer)
            except RayActorError as lost:
                yield Ended(name, str(lost).splitlines()[0], lost=True)
                continue
            except RayError as failure:
                error = str(failure).strip().splitlines()[-1]
            self._idle.append(actor)
            yield Ended(name, error)

    def stop(self) -> None:
        for actor in [*self._idle, *(actor for _, actor in self._busy.values())]:
            ray.kill(actor)

    def _new(self) -> Any:
        return ray.remote(_Worker).options(**self._options).remote(self._root)


class _Worker:
    """Lives in a process of Ray's."""

    def __init__(self, root: str) -> None:
        from seqdpo.runner.worker import Worker

        self._worker = Worker(Path(root), print)

    def run(self, name: str) -> str | None:
        return work(self._worker.run, name)
