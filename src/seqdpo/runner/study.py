"""A whole study: its inputs are read, the nodes of its tree that are left run, and the findings are written."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

import seqdpo
from seqdpo.errors import ConfigError, DataError, Problems, RunError
from seqdpo.files import file_hash, read_sealed, write_json, write_sealed, write_table, write_text
from seqdpo.launched import check_alone
from seqdpo.layout import WEIGHTS_FILE
from seqdpo.policy.load import ParameterCount, check_weights, count_parameters, model_hash
from seqdpo.policy.ranks import from_first, this_process
from seqdpo.policy.start import Start, read_start
from seqdpo.policy.trial import foresee_adapter
from seqdpo.preferences.advice import advice
from seqdpo.preferences.prepare import Preferences
from seqdpo.preferences.table import pairs_table
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.report.finished import Run, read_run
from seqdpo.report.write import write_report
from seqdpo.runner.bench import Bench, Progress, make_bench
from seqdpo.runner.board import Board, Task, board_for
from seqdpo.runner.continuation import check_continuation, check_machine, stored_study
from seqdpo.runner.design import design_notes
from seqdpo.runner.environment import environment
from seqdpo.runner.events import LOG
from seqdpo.runner.executors import here
from seqdpo.runner.extension import extend, extension
from seqdpo.runner.failures import run_error
from seqdpo.runner.findings import write_findings
from seqdpo.runner.folder import RunFolder, check_output_dir
from seqdpo.runner.generations import generate_as_asked
from seqdpo.runner.inputs import read_preferences, with_model_path
from seqdpo.runner.records import MANIFEST_VERSION, stage_identity, stored_manifest, variant_hashes
from seqdpo.runner.schedule import unfinished
from seqdpo.runner.stage import of_trial, title
from seqdpo.runner.trackers import check_trackers
from seqdpo.runner.work import base_work, stage_work
from seqdpo.screen import Screen
from seqdpo.study.checkpoints import Node
from seqdpo.study.config import Study
from seqdpo.study.file import study_yaml
from seqdpo.study.growth import grown
from seqdpo.study.tree import stage_tree

#: Runs nodes of a prepared folder in other processes: `seqdpo.runner.executors` has them.
Elsewhere: TypeAlias = Callable[[RunFolder, list[Node | None], Board], None]


class Inputs(NamedTuple):
    """All that a study is made from, read and found right; no weights."""

    study: Study  # its model's path resolved
    parameters: ParameterCount
    preferences: Preferences
    identity: dict[str, Any]
    start: Start | None


def run(study: Study) -> Run:
    """Runs a study, or what is left of it, with a line for each thing that it does; what was found, and the report.

    Raises: as `run_study`.
    """
    check_alone("seqdpo.run(study)")
    with board_for(Screen()) as board:
        folder = run_study(study, board)
        generate_as_asked(study.output_dir, study.generate, board.message)
    found = read_run(folder.root)
    write_report(found)
    return found


def run_study(study: Study, board: Board, elsewhere: Elsewhere | None = None) -> RunFolder:
    """Runs a study, or what is left of it, and returns its folder. One that is finished loads no model.

    Stages run in this process, or `elsewhere`. Nothing is written before the study's model and data have been read
    and found right.

    Raises: ConfigError and DataError for wrong input; RunError if the run could not go on (events.jsonl has it).
    """
    folder, study, inputs = _read(study, board)
    bench = None if elsewhere or folder.root.is_dir() else _bench(inputs, folder, board)
    with folder.locked():
        check_continuation(folder, study, inputs.identity)
        bench = _extended(folder, inputs, bench, board)
        left = _unfinished(folder, inputs, board.message)
        if left and elsewhere is None and bench is None:
            bench = _bench(inputs, folder, board)
        with logged(folder, board):
            _write_inputs(folder, study, inputs, _ran(folder, left, bench))
            if left:
                board.begin(_tasks(inputs, left))
                if elsewhere is not None:
                    elsewhere(folder, left, board)
                elif bench is not None:
                    here.execute(bench, left, board)
                _unfinished(folder, inputs, board.message)  # a parent that was made again is what its children had
            write_findings(folder)
            folder.log("run_done")
    return folder


def prepare_run(study: Study, board: Board) -> RunFolder:
    """Makes a run folder ready for workers (`seqdpo.runner.worker`); what is spoilt in it is set aside.

    Raises: ConfigError and DataError for wrong input.
    """
    return prepared(study, board)[0]


def prepared(study: Study, board: Board) -> tuple[RunFolder, Inputs]:
    """The same, and what was read of it."""
    folder, study, inputs = _read(study, board)
    with folder.locked():
        check_continuation(folder, study, inputs.identity)
        _extended(folder, inputs, None, board)
        left = _unfinished(folder, inputs, board.message)
        _write_inputs(folder, study, inputs, _ran(folder, left, None))
    return folder, inputs


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
        check_trackers(study)
    with problems.collected():
        check_output_dir(Path(study.output_dir))
        study = _never_less(RunFolder(Path(study.output_dir)), study)
        check_continuation(RunFolder(Path(study.output_dir)), study, {})
    with problems.collected():
        study = with_model_path(study)
        with problems.collected():
            _check_model(study, say)
            read_start(study)
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


def read_inputs(study: Study, say: Callable[[str], None]) -> Inputs:
    """Raises: ConfigError and DataError for whatever is wrong with the model's files, the data or the template."""
    resolved = with_model_path(study)
    parameters = _check_model(resolved, lambda note: None)  # said once more, and with the weights, by the trial
    start = read_start(resolved)
    for note in [] if start is None else start.notes:
        say(note)
    preferences, _ = read_preferences(resolved, say)
    model = model_hash(resolved, say)
    identity = stage_identity(resolved, model, preferences.content_hash(), preferences.chat_template_hash)
    identity |= variant_hashes(study.variants)
    if start is not None:
        identity["start"] = file_hash(start.folder / WEIGHTS_FILE)
    return Inputs(resolved, parameters, preferences, identity, start)


def study_bench(inputs: Inputs, folder: RunFolder, progress: Progress, say: Callable[[str], None]) -> Bench:
    """Raises: as `make_bench`."""
    from_first(("bench", inputs.study, folder.root, inputs.identity))  # the other processes of a run make theirs
    return _made(inputs, folder, progress, say)


def bench_beside(study: Study, root: Path, identity: dict[str, Any]) -> Bench:
    """The bench of another process than the first, which has told it of these.

    Raises: ConfigError if this process finds other inputs; as `make_bench`.
    """
    inputs = read_inputs(study, lambda text: None)
    if inputs.identity != identity:
        different = [name for name, value in identity.items() if inputs.identity.get(name) != value]
        raise ConfigError(
            f"process {this_process().rank} of {this_process().size}: finds another {' and '.join(different)} than the "
            "first one; expected the same model, data and release on every machine. Give it the same."
        )
    return _made(inputs, RunFolder(root), lambda units, pairs: None, lambda text: None)


def _made(inputs: Inputs, folder: RunFolder, progress: Progress, say: Callable[[str], None]) -> Bench:
    note = check_machine(folder, environment(), inputs.study)
    if note is not None:
        say(note)
    study, start = inputs.study, None if inputs.start is None else inputs.start.folder
    trained = study.trained_objectives()
    return make_bench(study, folder, inputs.preferences, trained, inputs.identity, progress, say, study.variants, start)


def _read(study: Study, board: Board) -> tuple[RunFolder, Study, Inputs]:
    """The folder, the study with all that the folder's run has, and what it is made from."""
    folder = RunFolder(Path(study.output_dir))
    check_output_dir(folder.root)
    check_trackers(study)
    study = _never_less(folder, study)
    check_continuation(folder, study, {})  # what can be told before the data and the model are read
    inputs = read_inputs(study, board.message)
    check_continuation(folder, study, inputs.identity)
    return folder, study, inputs


def _bench(inputs: Inputs, folder: RunFolder, board: Board) -> Bench:
    return study_bench(inputs, folder, board.advance, board.message)


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
    check_alone("seqdpo run, which scores more held-out pairs under the checkpoints that are there,")
    bench = bench or _bench(inputs, folder, board)
    n_pairs = sum(more.n_pairs.values())
    what = f"{n_pairs:,} more held-out pairs under {len(more.nodes)} checkpoints"
    board.begin([Task(what, n_pairs * len(more.nodes))])
    board.start(what)
    with logged(folder, board):
        extend(bench, more)
    board.finish("scored; nothing was trained again", what)
    board.end()  # another table of tasks may follow
    return bench


def _unfinished(folder: RunFolder, inputs: Inputs, say: Callable[[str], None]) -> list[Node | None]:
    return unfinished(folder, inputs.study, inputs.identity, say)


def _tasks(inputs: Inputs, left: Sequence[Node | None]) -> list[Task]:
    """All nodes of the tree; those that are not left were finished before."""
    nodes: list[Node | None] = [None, *stage_tree(inputs.study)]
    return [Task(title(node), _units(inputs, node), earlier=node not in left) for node in nodes]


def _units(inputs: Inputs, node: Node | None) -> float:
    study, preferences = inputs.study, inputs.preferences
    if node is None:
        return base_work(preferences, study).units(study)
    return stage_work(node, preferences, study).units(study)


def _write_inputs(folder: RunFolder, study: Study, inputs: Inputs, ran: dict[str, Any]) -> None:
    folder.log("run_began", identity=inputs.identity)
    write_text(folder.study, study_yaml(study))
    write_table(folder.pairs, pairs_table(inputs.preferences))
    write_json(folder.dropped, inputs.preferences.accounts())
    given = folder.hashes(folder.study, folder.pairs, folder.dropped)  # the others follow when the run is done
    files = given | _hash_of_answers(folder)
    write_sealed(folder.manifest, _manifest(inputs, ran) | {"files": files})


def _hash_of_answers(folder: RunFolder) -> dict[str, str]:
    """The one file that is neither given nor derived: what was known of it stays known."""
    try:
        known = read_sealed(folder.manifest).get("files") or {}
    except DataError:
        return {}
    name = folder.generations.name
    return {name: known[name]} if name in known else {}


def _manifest(inputs: Inputs, ran: dict[str, Any]) -> dict[str, Any]:
    return {
        **ran,
        "schema_version": MANIFEST_VERSION,
        "identity": inputs.identity,
        "parameters": {**inputs.parameters._asdict(), "percent": inputs.parameters.percent},
        "notes": inputs.preferences.notes,
    }


def _ran(folder: RunFolder, left: list[Node | None], bench: Bench | None) -> dict[str, Any]:
    """What a manifest says of the machine that runs the study; a finished run keeps what is known of the one that did.

    Of workers nothing yet: with the findings, the base's record tells.
    """
    if bench is None:
        return {} if left else stored_manifest(folder)
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
        raise run_error(error, folder.events) from error
    except BaseException as error:
        folder.log("run_failed", error=repr(error))
        raise
    finally:
        logger.removeHandler(warnings)
