"""A whole study: its inputs are read, the nodes of its tree that are left run, and the findings are written."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

import seqdpo
from seqdpo.errors import Problems, RunError
from seqdpo.files import write_json, write_sealed, write_table, write_text
from seqdpo.policy.load import ParameterCount, check_weights, count_parameters, model_hash
from seqdpo.policy.trial import foresee_adapter
from seqdpo.preferences.advice import advice
from seqdpo.preferences.prepare import Preferences
from seqdpo.preferences.table import pairs_table
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.report.finished import Run, read_run
from seqdpo.report.write import write_report
from seqdpo.runner.bench import Bench, make_bench
from seqdpo.runner.board import Board, Task, board_for
from seqdpo.runner.continuation import check_continuation, stored_study
from seqdpo.runner.design import design_notes
from seqdpo.runner.environment import environment
from seqdpo.runner.executors import here
from seqdpo.runner.extension import extend, extension
from seqdpo.runner.findings import write_findings
from seqdpo.runner.folder import LOG, RunFolder, check_output_dir
from seqdpo.runner.inputs import read_preferences, with_model_path
from seqdpo.runner.records import MANIFEST_VERSION, stage_identity, stored_manifest
from seqdpo.runner.schedule import unfinished
from seqdpo.runner.stage import of_trial, title
from seqdpo.runner.work import base_work, stage_work
from seqdpo.screen import Screen
from seqdpo.study.checkpoints import Node
from seqdpo.study.config import Study
from seqdpo.study.file import study_yaml
from seqdpo.study.growth import grown


class Inputs(NamedTuple):
    """All that a study is made from, read and found right; no weights."""

    study: Study  # its model's path resolved
    parameters: ParameterCount
    preferences: Preferences
    identity: dict[str, Any]


def run(study: Study) -> Run:
    """Runs a study, or what is left of it, with a line for each thing that it does; what was found, and the report.

    Raises: as `run_study`.
    """
    with board_for(Screen()) as board:
        folder = run_study(study, board)
    found = read_run(folder.root)
    write_report(found)
    return found


def run_study(study: Study, board: Board) -> RunFolder:
    """Runs a study, or what is left of it, and returns its folder. One that is finished loads no model.

    Nothing is written before the study's model and data have been read and found right.

    Raises: ConfigError and DataError for wrong input; RunError if the run could not go on (events.jsonl has it).
    """
    folder = RunFolder(Path(study.output_dir))
    check_output_dir(folder.root)
    study = _never_less(folder, study)
    check_continuation(folder, study, {})  # what can be told before the data and the model are read
    inputs = _read_inputs(study, board)
    check_continuation(folder, study, inputs.identity)
    bench = None if folder.root.is_dir() else _bench(inputs, folder, board)
    with folder.locked():
        check_continuation(folder, study, inputs.identity)
        bench = _extended(folder, inputs, bench, board)
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


class Checked(NamedTuple):
    """A study that can be run."""

    preferences: Preferences
    tokeniser: Tokeniser
    notes: list[str]  # what its user should think about before


def check_study(study: Study, say: Callable[[str], None]) -> Checked:
    """Everything that `run_study` would look at before it loads weights.

    Raises: one error that names every problem of the output folder, the model, the data and the template.
    """
    problems = Problems()
    with problems.collected():
        check_output_dir(Path(study.output_dir))
        study = _never_less(RunFolder(Path(study.output_dir)), study)
        check_continuation(RunFolder(Path(study.output_dir)), study, {})
    with problems.collected():
        study = with_model_path(study, say)
        with problems.collected():
            _check_model(study, say)
        with problems.collected():
            preferences, tokeniser = read_preferences(study, say)
    problems.raise_all()
    notes = [*advice(preferences, tokeniser, study), *design_notes(study, preferences)]
    return Checked(preferences, tokeniser, notes)


def _check_model(study: Study, say: Callable[[str], None]) -> ParameterCount:
    """What can be told of the model and its adapter without a weight."""
    parameters = count_parameters(study)
    for note in foresee_adapter(study, study):
        say(note)
    check_weights(study)
    return parameters


def _read_inputs(study: Study, board: Board) -> Inputs:
    resolved = with_model_path(study, board.message)
    parameters = _check_model(resolved, lambda note: None)  # said once more, and with the weights, by the trial
    preferences, _ = read_preferences(resolved, board.message)
    model = model_hash(resolved, board.message)
    identity = stage_identity(resolved, model, preferences.content_hash(), preferences.chat_template_hash)
    return Inputs(resolved, parameters, preferences, identity)


def _bench(inputs: Inputs, folder: RunFolder, board: Board) -> Bench:
    study = inputs.study
    trained = study.trained_objectives()
    return make_bench(study, folder, inputs.preferences, trained, inputs.identity, board.advance, board.message)


def _never_less(folder: RunFolder, study: Study) -> Study:
    """The study with all that the run in its folder has: asking for fewer orders takes none away."""
    earlier = stored_study(folder)
    return grown(study, earlier) if isinstance(earlier, Study) else study


def _extended(folder: RunFolder, inputs: Inputs, bench: Bench | None, board: Board) -> Bench | None:
    """The bench, where it took one to score more pairs under the checkpoints of an earlier run."""
    earlier = stored_study(folder)
    more = None
    if isinstance(earlier, Study):
        more = extension(folder, earlier, inputs.preferences, inputs.identity)
    if more is None:
        return bench
    bench = bench or _bench(inputs, folder, board)
    n_pairs = sum(more.n_pairs.values())
    what = f"{n_pairs:,} more held-out pairs under {len(more.nodes)} checkpoints"
    board.begin([Task(what, n_pairs * len(more.nodes))])
    board.start(what)
    with logged(folder, board):
        extend(bench, more)
    board.finish("scored; nothing was trained again")
    board.end()  # another table of tasks may follow
    return bench


def _unfinished(folder: RunFolder, inputs: Inputs, say: Callable[[str], None]) -> list[Node | None]:
    return unfinished(folder, inputs.study, inputs.identity, say)


def _run_nodes(bench: Bench, inputs: Inputs, left: list[Node | None], board: Board) -> None:
    board.begin([Task(title(node), _units(inputs, node)) for node in left])
    here.execute(bench, left, board)


def _units(inputs: Inputs, node: Node | None) -> float:
    study, preferences = inputs.study, inputs.preferences
    if node is None:
        return base_work(preferences, study).units(study)
    return stage_work(node, preferences, study).units(study)


def _write_inputs(folder: RunFolder, study: Study, inputs: Inputs, bench: Bench | None) -> None:
    folder.log("run_began", identity=inputs.identity)
    write_text(folder.study, study_yaml(study))
    write_table(folder.pairs, pairs_table(inputs.preferences))
    write_json(folder.dropped, inputs.preferences.accounts())
    given = folder.hashes(folder.study, folder.pairs, folder.dropped)  # the others follow when the run is done
    write_sealed(folder.manifest, _manifest(folder, inputs, bench) | {"files": given})


def _manifest(folder: RunFolder, inputs: Inputs, bench: Bench | None) -> dict[str, Any]:
    """A finished run keeps what is known of the machine that ran it."""
    ran = stored_manifest(folder) if bench is None else _ran_by(bench)
    return {
        **ran,
        "schema_version": MANIFEST_VERSION,
        "identity": inputs.identity,
        "parameters": {**inputs.parameters._asdict(), "percent": inputs.parameters.percent},
        "notes": inputs.preferences.notes,
    }


def _ran_by(bench: Bench) -> dict[str, Any]:
    return {"environment": environment(), "engine": bench.engine, **of_trial(bench)}


class _Warnings(logging.Handler):
    """What the engine has to say while it works goes into events.jsonl and onto the board: batches halved, for one."""

    def __init__(self, folder: RunFolder, board: Board) -> None:
        super().__init__(logging.WARNING)
        self._folder, self._board = folder, board

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != LOG:
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
        raise RunError(f"{error}{_hint(error)}\nLog: {folder.events}") from error
    except BaseException as error:
        folder.log("run_failed", error=repr(error))
        raise
    finally:
        logger.removeHandler(warnings)


def _hint(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return " One pair alone does not fit: lower max_length, or set gradient_checkpointing: true."
    if isinstance(error, OSError):
        return " Finished stages are safe: mend that, and run the same command again to go on after them."
    return ""
