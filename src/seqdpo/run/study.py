"""A whole study: its inputs are read, the nodes of its tree that are left run, and the findings are written."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch

import seqdpo
from seqdpo.errors import DataError, RunError
from seqdpo.preferences.table import pairs_table
from seqdpo.run.bench import Bench, make_bench
from seqdpo.run.board import Board, Task
from seqdpo.run.continuation import check_continuation
from seqdpo.run.environment import environment
from seqdpo.run.executors import here
from seqdpo.run.failures import run_error
from seqdpo.run.files import write_json, write_table, write_text
from seqdpo.run.findings import MANIFEST_VERSION, write_findings
from seqdpo.run.finished import read_mapping
from seqdpo.run.folder import RunFolder, check_output_dir
from seqdpo.run.inputs import Inputs, read_inputs
from seqdpo.run.schedule import unfinished
from seqdpo.run.stage import title
from seqdpo.run.work import base_work, stage_work
from seqdpo.study.checkpoints import Node
from seqdpo.study.config import Study
from seqdpo.study.file import study_yaml

#: Runs nodes of a prepared folder in other processes: `seqdpo.run.executors` has them.
Elsewhere: TypeAlias = Callable[[RunFolder, list[Node | None], Board], None]


def run_study(study: Study, board: Board, elsewhere: Elsewhere | None = None) -> RunFolder:
    """Runs a study, or what is left of it, and returns its folder. One that is finished loads no model.

    Stages run in this process, or `elsewhere`. Nothing is written before the study's model and data have been read
    and found right.

    Raises: ConfigError and DataError for wrong input; RunError if the run could not go on (events.jsonl has it).
    """
    folder, inputs = _read(study, board)
    bench = None if elsewhere or folder.root.is_dir() else _bench(inputs, folder, board)
    with folder.locked():
        left = _left(folder, study, inputs, board)
        if left and elsewhere is None and bench is None:
            bench = _bench(inputs, folder, board)
        with _logged(folder, board):
            _write_inputs(folder, study, inputs, left, None if bench is None else bench.engine)
            if left:
                board.begin([Task(title(node), _units(inputs, node)) for node in left])
                if bench is None:
                    assert elsewhere is not None
                    elsewhere(folder, left, board)
                else:
                    here.execute(bench, left, board)
                _unfinished(folder, inputs, board.message)  # a parent that was made again is what its children had
            write_findings(folder)
            folder.log("run_done")
    return folder


def prepare_run(study: Study, board: Board) -> RunFolder:
    """Makes a run folder ready for workers (`seqdpo.run.worker`); what is spoilt in it is set aside.

    Raises: ConfigError and DataError for wrong input.
    """
    folder, inputs = _read(study, board)
    with folder.locked():
        left = _left(folder, study, inputs, board)
        _write_inputs(folder, study, inputs, left, None)
    return folder


def _read(study: Study, board: Board) -> tuple[RunFolder, Inputs]:
    folder = RunFolder(Path(study.output_dir))
    check_output_dir(folder.root)
    check_continuation(folder, study, {})  # what can be told before the data and the model are read
    inputs = read_inputs(study, board.message)
    check_continuation(folder, study, inputs.identity)
    return folder, inputs


def _left(folder: RunFolder, study: Study, inputs: Inputs, board: Board) -> list[Node | None]:
    check_continuation(folder, study, inputs.identity)
    return _unfinished(folder, inputs, board.message)


def _bench(inputs: Inputs, folder: RunFolder, board: Board) -> Bench:
    study = inputs.study
    trained = study.trained_objectives()
    return make_bench(study, folder, inputs.preferences, trained, inputs.identity, board.advance, board.message)


def _unfinished(folder: RunFolder, inputs: Inputs, say: Callable[[str], None]) -> list[Node | None]:
    return unfinished(folder, inputs.study, inputs.identity, say)


def _units(inputs: Inputs, node: Node | None) -> float:
    study, preferences = inputs.study, inputs.preferences
    if node is None:
        return base_work(preferences, study.trained_objectives()).units(study)
    return stage_work(node, preferences, study).units(study)


def _write_inputs(
    folder: RunFolder, study: Study, inputs: Inputs, left: Sequence[Node | None], engine: str | None
) -> None:
    folder.log("run_began", identity=inputs.identity)
    write_text(folder.study, study_yaml(study))
    write_table(folder.pairs, pairs_table(inputs.preferences))
    write_json(folder.dropped, inputs.preferences.accounts())
    if left or not _has_manifest(folder):
        write_json(folder.manifest, _manifest(inputs, engine))


def _manifest(inputs: Inputs, engine: str | None) -> dict[str, Any]:
    return {
        "schema_version": MANIFEST_VERSION,
        "identity": inputs.identity,
        "environment": environment(),
        "engine": engine,  # null: the workers choose it, and the base's record has it
        "parameters": {**inputs.parameters._asdict(), "percent": inputs.parameters.percent},
        "notes": inputs.preferences.notes,
        "files": {},  # filled in when the run is done
    }


def _has_manifest(folder: RunFolder) -> bool:
    """Where all stages are done, the manifest of the run that did them stays."""
    try:
        return "identity" in read_mapping(folder.manifest, json.loads)
    except DataError:
        return False


class _Warnings(logging.Handler):
    """What the engine has to say while it works goes into events.jsonl and onto the board: batches halved, for one."""

    def __init__(self, folder: RunFolder, board: Board) -> None:
        super().__init__(logging.WARNING)
        self._folder, self._board = folder, board

    def emit(self, record: logging.LogRecord) -> None:
        self._folder.log("warning", message=record.getMessage())
        self._board.message(record.getMessage())


@contextmanager
def _logged(folder: RunFolder, board: Board) -> Iterator[None]:
    """Writes into events.jsonl how a run ended; what a user can mend becomes a RunError that names the log."""
    warnings = _Warnings(folder, board)
    logger = logging.getLogger(seqdpo.__name__)
    logger.addHandler(warnings)
    try:
        yield
    except KeyboardInterrupt:
        folder.log("interrupted")
        raise
    except (RunError, torch.OutOfMemoryError, OSError) as error:
        folder.log("run_failed", error=str(error))
        raise run_error(error, folder.events) from error
    except BaseException as error:
        folder.log("run_failed", error=repr(error))
        raise
    finally:
        logger.removeHandler(warnings)
