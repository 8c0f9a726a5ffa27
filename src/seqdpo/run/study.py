"""A whole study: its inputs are read, the nodes of its tree that are left run, and the findings are written."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

import seqdpo
from seqdpo.errors import DataError, RunError
from seqdpo.policy.checks import check_weight_files
from seqdpo.policy.load import ParameterCount, count_parameters, model_hash
from seqdpo.preferences.prepare import Preferences
from seqdpo.preferences.table import pairs_table
from seqdpo.run.bench import Bench, make_bench
from seqdpo.run.board import Board, Task
from seqdpo.run.continuation import check_continuation
from seqdpo.run.environment import environment
from seqdpo.run.executors import here
from seqdpo.run.files import write_json, write_table, write_text
from seqdpo.run.findings import MANIFEST_VERSION, write_findings
from seqdpo.run.finished import read_mapping
from seqdpo.run.folder import RunFolder, check_output_dir
from seqdpo.run.inputs import read_preferences, with_model_path
from seqdpo.run.records import stage_identity
from seqdpo.run.schedule import unfinished
from seqdpo.run.stage import title
from seqdpo.run.work import base_work, stage_work
from seqdpo.study.checkpoints import Node
from seqdpo.study.config import Study
from seqdpo.study.file import study_yaml


class Inputs(NamedTuple):
    """All that a study is made from, read and found right; no weights."""

    study: Study  # its model's path resolved
    parameters: ParameterCount
    preferences: Preferences
    identity: dict[str, Any]


def run_study(study: Study, board: Board) -> RunFolder:
    """Runs a study, or what is left of it, and returns its folder. One that is finished loads no model.

    Nothing is written before the study's model and data have been read and found right.

    Raises: ConfigError and DataError for wrong input; RunError if the run could not go on (events.jsonl has it).
    """
    folder = RunFolder(Path(study.output_dir))
    check_output_dir(folder.root)
    check_continuation(folder, study, {})  # what can be told before the data and the model are read
    inputs = _read_inputs(study, board)
    check_continuation(folder, study, inputs.identity)
    bench = None if folder.root.is_dir() else _bench(inputs, folder, board)
    with folder.locked():
        check_continuation(folder, study, inputs.identity)
        left = _unfinished(folder, inputs, board.message)
        if left and bench is None:
            bench = _bench(inputs, folder, board)
        with logged(folder, board):
            _write_inputs(folder, study, inputs, bench)
            if bench is not None:
                _run_nodes(bench, inputs, left, board)
                _unfinished(folder, inputs, board.message)  # a parent that was made again is what its children had
            write_findings(folder)
            folder.log("run_done")
    return folder


def _read_inputs(study: Study, board: Board) -> Inputs:
    resolved = with_model_path(study, board.message)
    parameters = count_parameters(resolved)
    check_weight_files(resolved)
    preferences, _ = read_preferences(resolved, board.message)
    model = model_hash(resolved, board.message)
    identity = stage_identity(resolved, model, preferences.content_hash(), preferences.chat_template_hash)
    return Inputs(resolved, parameters, preferences, identity)


def _bench(inputs: Inputs, folder: RunFolder, board: Board) -> Bench:
    study = inputs.study
    trained = study.trained_objectives()
    return make_bench(study, folder, inputs.preferences, trained, inputs.identity, board.advance, board.message)


def _unfinished(folder: RunFolder, inputs: Inputs, say: Callable[[str], None]) -> list[Node | None]:
    return unfinished(folder, inputs.study, inputs.identity, say)


def _run_nodes(bench: Bench, inputs: Inputs, left: list[Node | None], board: Board) -> None:
    board.begin([Task(title(node), _units(inputs, node)) for node in left])
    here.execute(bench, left, board)


def _units(inputs: Inputs, node: Node | None) -> float:
    study, preferences = inputs.study, inputs.preferences
    if node is None:
        return base_work(preferences, study.trained_objectives()).units(study)
    return stage_work(node, preferences, study).units(study)


def _write_inputs(folder: RunFolder, study: Study, inputs: Inputs, bench: Bench | None) -> None:
    folder.log("run_began", identity=inputs.identity)
    write_text(folder.study, study_yaml(study))
    write_table(folder.pairs, pairs_table(inputs.preferences))
    write_json(folder.dropped, inputs.preferences.accounts())
    if bench is not None or not _has_manifest(folder):
        write_json(folder.manifest, _manifest(inputs, bench))


def _manifest(inputs: Inputs, bench: Bench | None) -> dict[str, Any]:
    return {
        "schema_version": MANIFEST_VERSION,
        "identity": inputs.identity,
        "environment": environment(),
        "engine": None if bench is None else bench.engine,
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
def logged(folder: RunFolder, board: Board) -> Iterator[None]:
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
        hint = (
            " One pair alone does not fit: lower max_length, or set gradient_checkpointing: true."
            if isinstance(error, torch.OutOfMemoryError)
            else ""
        )
        raise RunError(f"{error}{hint}\nLog: {folder.events}") from error
    except BaseException as error:
        folder.log("run_failed", error=repr(error))
        raise
    finally:
        logger.removeHandler(warnings)
