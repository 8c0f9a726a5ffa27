"""Walks the tree of stages: trains each once, scores every objective after each, and writes the run folder."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from transformers import PreTrainedModel

import seqdpo
from seqdpo.analyse.mechanism import MechanismTables
from seqdpo.analyse.results import results
from seqdpo.analyse.verdicts import Tolerances
from seqdpo.errors import RunError
from seqdpo.measure.movement import movement_table, weight_norms
from seqdpo.measure.scores import PairLogps, pair_logps
from seqdpo.policy.adapters import loaded_adapter, save_adapter, trainable_policy
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import ParameterCount, check_weights, count_parameters, load_model, model_hash
from seqdpo.policy.trial import foresee_adapter, try_adapter
from seqdpo.preferences.pairs import content_hash
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.preferences.table import pairs_table
from seqdpo.run.base_logps import BaseLogps
from seqdpo.run.board import Board, Task
from seqdpo.run.continuation import adapter_hash, check_continuation, unfinished_nodes
from seqdpo.run.environment import environment, peak_memory_bytes
from seqdpo.run.files import file_hash, file_hashes, folder_written_whole, write_json, write_table, write_text
from seqdpo.run.folder import NODE_FILE, RunFolder, check_output_dir
from seqdpo.run.inputs import read_preferences, with_model_path
from seqdpo.run.mechanism import STAGE_TABLES, gradient_trace, run_table, stage_forecast, stage_kl_and_path
from seqdpo.run.scores_table import scores_table, stage_scores
from seqdpo.run.work import Work, base_work, stage_work
from seqdpo.study.checkpoints import BASE, Node, reference_of
from seqdpo.study.config import Study
from seqdpo.study.file import study_yaml
from seqdpo.tables import GRADIENTS_SCHEMA
from seqdpo.training.loss import reference_offsets
from seqdpo.training.placebo import TrainingPairs, with_own_labels
from seqdpo.training.schedule import check_schedule
from seqdpo.training.stage import Step, train_stage

MANIFEST_VERSION = 1
#: The keys of the study that results.json repeats, for readers who have only that file.
STUDY_FACTS = ("model_name_or_path", "setting", "reference", "adapter_mode", "beta", "learning_rate", "lora_r", "seeds")


def run_study(study: Study, board: Board) -> RunFolder:
    """Runs a study, or what is left of it, and returns its folder.

    Nothing is written before the study's model and data have been read and found right.

    Raises: ConfigError and DataError for wrong input; RunError if the run could not go on (events.jsonl has it).
    """
    folder = RunFolder(Path(study.output_dir))
    check_output_dir(folder.root)
    check_continuation(folder, study, {})  # what can be told before the data and the model are read
    resolved = with_model_path(study, board.message)
    parameters = count_parameters(resolved)
    foresee_adapter(resolved, resolved)
    check_schedule(resolved)
    check_weights(resolved)
    preferences, _ = read_preferences(resolved, board.message)
    identity = {
        "data": preferences.content_hash(),
        "chat_template": preferences.chat_template_hash,
        "seqdpo": seqdpo.__version__,
    }
    check_continuation(folder, study, identity)
    board.message(f"loading {study.model_name_or_path}")
    base = load_model(resolved)
    engine = choose_engine(base, preferences.longest, resolved.lora_target_modules)
    board.message(f"engine: {engine}")
    for note in try_adapter(base, resolved, resolved).notes:
        board.message(note)
    identity = {"model": model_hash(resolved, board.message), **identity}
    with folder.locked():
        check_continuation(folder, study, identity)
        unfinished = unfinished_nodes(folder, study)
        runner = _Runner(resolved, folder, preferences, base, identity, engine, board, unfinished)
        with _logged(folder, board):
            _write_inputs(folder, study, preferences, identity, parameters, engine)
            runner.run()
            _write_findings(folder, study, preferences)
    return folder


class _Trained(NamedTuple):
    """What training a stage left, beside the adapter."""

    steps: pa.Table
    gradients: pa.Table
    forecasts: dict[str, PairLogps]


@dataclass(slots=True)
class _Runner:
    study: Study  # its model path resolved
    folder: RunFolder
    preferences: Preferences
    base: PreTrainedModel
    identity: dict[str, Any]
    engine: str
    board: Board
    unfinished: list[Node | None]  # parents first; None is the base
    _base_logps: BaseLogps = field(init=False)
    _weight_norms: dict[str, float] = field(init=False)
    _train_logps: dict[tuple[Node | None, str], PairLogps] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._base_logps = BaseLogps(self.base, self.identity["model"], self.engine, self.study.tokens_per_batch)
        self._weight_norms = weight_norms(self.base)

    def run(self) -> None:
        """Every node that is not done yet, parents first."""
        nodes = [node for node in self.unfinished if node is not None]
        tasks = [Task(_title(node), stage_work(node, self.preferences, self.study).units(self.study)) for node in nodes]
        base_units = base_work(self.preferences, self.study).units(self.study)
        self.board.begin([Task(BASE, base_units), *tasks])
        self._run_base()
        for node in nodes:
            self.board.start(_title(node))
            self._run_stage(node)

    def _run_base(self) -> None:
        """Scores the base; training pairs too, so that every stage finds its reference."""
        self.board.start(BASE)
        for name in self.study.trained_objectives():
            self._reference_logps(None, name)
        scores = {name: self._of_base(objective.eval) for name, objective in self.preferences.objectives.items()}
        if None in self.unfinished:
            with folder_written_whole(self.folder.stage(None)) as path:
                self._write_node(path, scores, {"checkpoint": BASE, "stage": 0})
        self.board.finish("scored")

    def _run_stage(self, node: Node) -> None:
        began = perf_counter()
        self.folder.log("stage_began", checkpoint=node.checkpoint, seed=node.seed)
        with folder_written_whole(self.folder.stage(node)) as path:
            trained = self._train(node, path)
            seconds = perf_counter() - began
            with loaded_adapter(self.base, path / "adapter") as policy:
                scores = {
                    name: self._scored(policy, objective.eval, node)
                    for name, objective in self.preferences.objectives.items()
                }
            write_table(path / "train.parquet", trained.steps)
            self._write_mechanism(node, path, trained)
            details = self._stage_details(node, train_seconds=seconds, score_seconds=perf_counter() - began - seconds)
            self._write_node(path, scores, details)
        self.folder.log("stage_done", checkpoint=node.checkpoint, seed=node.seed, seconds=perf_counter() - began)
        self.board.finish(f"loss {np.mean(trained.steps['loss'].to_numpy()[-10:]):.3f}")

    def _train(self, node: Node, path: Path) -> _Trained:
        parent = self.folder.adapter(node.parent)
        seed = _stage_seed(node)
        labels = np.random.default_rng([seed, 1])  # another stream than that of the order of the pairs
        pairs = self._training_pairs(node, labels)
        with trainable_policy(self.base, self.study, parent, seed) as policy:
            given = (self.preferences, self.study)
            forecasts = stage_forecast(policy, pairs, *given, self._on_scored, self._on_gradient)
            trace = gradient_trace(policy, node, *given, self.folder, self._on_gradient)
            steps = train_stage(policy, pairs, self.study, seed, self._on_step, trace)
            save_adapter(policy, self.study, parent, path / "adapter")
        return _Trained(steps, GRADIENTS_SCHEMA.empty_table() if trace is None else trace.table, forecasts)

    def _write_mechanism(self, node: Node, path: Path, trained: _Trained) -> None:
        adapter = path / "adapter"
        kl_and_path = stage_kl_and_path(
            self.base, node, adapter, self.preferences, self.study, self.folder, trained.forecasts, self._on_scored
        )
        movement = movement_table(self.folder.adapter(node.parent), adapter, self._weight_norms)
        for name, table in {"gradients": trained.gradients, "kl_and_path": kl_and_path, "movement": movement}.items():
            write_table(path / f"{name}.parquet", table)

    def _training_pairs(self, node: Node, generator: np.random.Generator) -> TrainingPairs:
        prepared = self.preferences.objectives[node.objective].train
        reference = self._reference_logps(reference_of(node, self.study.reference), node.objective)
        pairs = TrainingPairs(
            [pair.pair.pair_id for pair in prepared],
            [pair.tokens for pair in prepared],
            reference_offsets(reference.chosen, reference.rejected, self.study.beta),
        )
        if not node.placebo:
            return pairs
        start = self._reference_logps(node.parent, node.objective)
        return with_own_labels(pairs, start.difference, self.study.beta, generator)

    def _reference_logps(self, node: Node | None, objective: str) -> PairLogps:
        """A checkpoint's log-probabilities of an objective's training pairs; computed once a run."""
        if (node, objective) not in self._train_logps:
            pairs = self.preferences.objectives[objective].train
            if node is None:
                logps = self._of_base(pairs)
            else:
                with loaded_adapter(self.base, self.folder.adapter(node)) as policy:
                    logps = self._scored(policy, pairs, node)
            self._train_logps[node, objective] = logps
        return self._train_logps[node, objective]

    def _of_base(self, pairs: list[PreparedPair]) -> PairLogps:
        return _finite(self._base_logps.of(pairs, self._on_scored), pairs, BASE)

    def _scored(self, policy: nn.Module, pairs: list[PreparedPair], node: Node) -> PairLogps:
        tokens = [pair.tokens for pair in pairs]
        return _finite(pair_logps(policy, tokens, self.study.tokens_per_batch, self._on_scored), pairs, _title(node))

    def _on_scored(self, n_pairs: int) -> None:
        self.board.advance(n_pairs, n_pairs)

    def _on_gradient(self, n_pairs: int) -> None:
        self.board.advance(Work(n_pairs, 0).units(self.study), n_pairs)

    def _on_step(self, step: Step) -> None:
        self._on_gradient(step.n_pairs)

    def _write_node(self, path: Path, scores: dict[str, PairLogps], details: dict[str, Any]) -> None:
        """The scores and, last, node.json, which makes the stage done."""
        write_table(path / "scores.parquet", stage_scores(scores, self.preferences))
        write_json(path / NODE_FILE, details | {"identity": self.identity, "files": file_hashes(path)})

    def _stage_details(self, node: Node, **seconds: float) -> dict[str, Any]:
        reference = reference_of(node, self.study.reference)
        return {
            "checkpoint": node.checkpoint,
            "objective": node.objective,
            "path": list(node.path),
            "stage": node.stage,
            "seed": node.seed,
            "stage_seed": _stage_seed(node),
            "placebo": node.placebo,
            "parent": BASE if node.parent is None else node.parent.checkpoint,
            "parent_adapter": adapter_hash(self.folder, node.parent),
            "reference": BASE if reference is None else reference.checkpoint,
            "adapter_mode": self.study.adapter_mode,
            "n_train_pairs": len(self.preferences.objectives[node.objective].train),
            **{name: round(value, 3) for name, value in seconds.items()},
            "peak_memory_bytes": peak_memory_bytes(),
        }


def _title(node: Node) -> str:
    """A node's name on the board."""
    return f"{node.checkpoint} (seed {node.seed})"


def _stage_seed(node: Node) -> int:
    """32 bits for LoRA initialisation, data order, dropout and a placebo's labels; its own for every node."""
    return int(content_hash(["stage", node.seed, node.path, node.placebo]), 16) % 2**32


def _finite(logps: PairLogps, pairs: list[PreparedPair], checkpoint: str) -> PairLogps:
    broken = np.flatnonzero(~np.isfinite(logps.difference))
    if len(broken):
        ids = ", ".join(pairs[i].pair.pair_id for i in broken[:8])
        raise RunError(
            f"checkpoint {checkpoint}: {len(broken)} of {len(pairs)} pairs have a log-probability that is not finite "
            f"({ids}); expected finite numbers. Check the weights, or use dtype: float32."
        )
    return logps


def _write_inputs(
    folder: RunFolder,
    study: Study,
    preferences: Preferences,
    identity: dict[str, Any],
    parameters: ParameterCount,
    engine: str,
) -> None:
    folder.log("run_began", identity=identity)
    write_text(folder.study, study_yaml(study))
    write_table(folder.pairs, pairs_table(preferences))
    write_json(folder.dropped, preferences.accounts())
    manifest = {
        "schema_version": MANIFEST_VERSION,
        "identity": identity,
        "environment": environment(),
        "engine": engine,
        "parameters": {**parameters._asdict(), "percent": parameters.percent},
        "notes": preferences.notes,
        "files": {},  # filled in when the run is done
    }
    write_json(folder.manifest, manifest)


def _write_findings(folder: RunFolder, study: Study, preferences: Preferences) -> None:
    """scores.parquet and results.json from the stages' own scores, then all hashes into the manifest."""
    scores, pairs = scores_table(folder, study, preferences), pairs_table(preferences)
    mechanism = {name: run_table(folder, study, name) for name in STAGE_TABLES}
    for name, table in mechanism.items():
        write_table(folder.root / f"{name}.parquet", table)
    write_table(folder.scores, scores)
    facts = study.model_dump(mode="json", include=set(STUDY_FACTS))
    found = results(scores, pairs, study.beta, _tolerances(study), facts, MechanismTables(**mechanism))
    write_json(folder.results, found)
    manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
    tables = (folder.scores, folder.gradients, folder.movement, folder.kl_and_path)
    written = (folder.study, folder.pairs, folder.dropped, *tables, folder.results)
    manifest["files"] = {path.relative_to(folder.root).as_posix(): file_hash(path) for path in written}
    write_json(folder.manifest, manifest)
    folder.log("run_done")


def _tolerances(study: Study) -> Tolerances:
    return Tolerances(study.margin_tolerance, study.accuracy_tolerance, study.flip_tolerance, study.confidence)


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
