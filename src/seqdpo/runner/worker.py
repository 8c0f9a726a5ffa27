"""A worker: runs nodes of a prepared run folder in a process of its own, on this machine or another.

It writes the stages' folders and their logs. All that is of the whole run is the coordinator's (`seqdpo.runner.study`).
"""

from collections.abc import Callable
from pathlib import Path

import torch

from seqdpo.errors import ConfigError, RunError
from seqdpo.files import read_sealed
from seqdpo.layout import NODE_FILE, check_run_folder
from seqdpo.runner.bench import Bench, Progress
from seqdpo.runner.continuation import check_same_inputs
from seqdpo.runner.failures import run_error
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.records import read_record
from seqdpo.runner.stage import run_node
from seqdpo.runner.study import read_inputs, study_bench
from seqdpo.study.checkpoints import Node, checkpoint_of
from seqdpo.study.stored import read_study
from seqdpo.study.tree import find_node, needs


class Worker:
    """Its bench is made with the first node that it has to run, and serves all others."""

    def __init__(self, root: Path, say: Callable[[str], None], progress: Progress = lambda units, pairs: None) -> None:
        self._folder, self._say, self._progress = RunFolder(root), say, progress
        check_run_folder(self._folder)
        self._study = read_study(self._folder).model_copy(update={"output_dir": str(root)})
        self._bench: Bench | None = None

    def run(self, name: str) -> bool:
        """Does what is left of a node; False if it was done before.

        Raises: ConfigError if there is no such node, its parent is not done, or the folder is not prepared, or for
            other inputs than the worker finds; RunError if it could not go on, which names the node's log.
        """
        node = find_node(self._study, name)
        identity = read_sealed(self._folder.manifest).get("identity") or {}
        if read_record(self._folder, node, identity) is not None:
            return False
        self._check_parent(node)
        bench = self._bench = self._bench or self._make_bench()
        try:
            run_node(bench, node)
        except (RunError, torch.OutOfMemoryError, OSError) as error:
            raise run_error(error, self._folder.node_log(node)) from error
        return True

    def _check_parent(self, node: Node | None) -> None:
        for other in [] if node is None else needs(node, self._study.variants):
            if not (self._folder.stage(other) / NODE_FILE).is_file():
                raise ConfigError(
                    f"stage: {checkpoint_of(node)!r} starts from {checkpoint_of(other)!r}, which is not done; expected "
                    f"it in {self._folder.stage(other)}. Run that stage first."
                )

    def _make_bench(self) -> Bench:
        inputs = read_inputs(self._study, self._say)
        check_same_inputs(self._folder, inputs.identity)
        return study_bench(inputs, self._folder, self._progress, self._say)
