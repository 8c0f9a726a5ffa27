"""An audit: checkpoints that were trained elsewhere are scored against their base, into a run folder like a study's."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from torch import nn
from transformers import PreTrainedModel

from seqdpo.errors import Problems
from seqdpo.files import file_hash, file_hashes, read_table, write_json, write_sealed, write_table, write_text
from seqdpo.layout import NODE_FILE
from seqdpo.measure.movement import joined_factors, movement_between, weight_norms
from seqdpo.measure.scores import PairLogps, objective_logps
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.foreign import Standing, engine_for, foreign_policy, read_adapter
from seqdpo.policy.how_to_load import python_lines, vllm_command
from seqdpo.policy.library import attention_of
from seqdpo.policy.lineage import Member, lineage, tokenizer_notes, with_references
from seqdpo.policy.load import check_weights, load_model, model_hash
from seqdpo.preferences.pairs import content_hash
from seqdpo.preferences.prepare import Preferences
from seqdpo.preferences.table import pairs_table
from seqdpo.runner.base_logps import BaseLogps
from seqdpo.runner.bench import all_finite, tokens_of
from seqdpo.runner.board import Board, Task
from seqdpo.runner.continuation import check_continuation
from seqdpo.runner.environment import environment
from seqdpo.runner.findings import write_findings
from seqdpo.runner.folder import RunFolder, check_output_dir
from seqdpo.runner.inputs import read_held_out, with_model_path
from seqdpo.runner.records import MANIFEST_VERSION, STAGE_FORMAT, place_of
from seqdpo.runner.schedule import believed
from seqdpo.runner.stage import scores_of
from seqdpo.runner.study import logged
from seqdpo.study.audit import Audit
from seqdpo.study.checkpoints import BASE, Node, checkpoint_of
from seqdpo.study.file import study_yaml
from seqdpo.tables import GRADIENTS_SCHEMA, KL_AND_PATH_SCHEMA, MOVEMENT_SCHEMA

#: Log-probabilities that differ by less than this share of themselves are the same up to rounding.
NOTHING = 1e-6


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that an audit is made from, read and found right; no weights of the base."""

    audit: Audit  # its model's path resolved
    members: list[Member]
    preferences: Preferences
    identity: dict[str, Any]
    weights: dict[str, str]  # the hash of each checkpoint's

    def identity_of(self, member: Member | None) -> dict[str, Any]:
        """The same, and the weights of a checkpoint."""
        return self.identity if member is None else self.identity | {"weights": self.weights[member.name]}

    @property
    def n_pairs(self) -> int:
        return sum(len(objective.eval) for objective in self.preferences.objectives.values())


def run_audit(audit: Audit, board: Board) -> RunFolder:
    """Scores what is not scored yet, and returns the run folder. An audit that is finished loads no model.

    Raises: ConfigError and DataError for wrong input; RunError if it could not go on (events.jsonl has it).
    """
    folder = RunFolder(Path(audit.output_dir))
    check_output_dir(folder.root)
    check_continuation(folder, audit, {})
    inputs = _read_inputs(audit, board)
    with folder.locked():
        check_continuation(folder, audit, inputs.identity)
        waiting = _unfinished(folder, inputs, board.message)
        with logged(folder, board):
            folder.log("audit_began", identity=inputs.identity)
            write_text(folder.study, study_yaml(_written(audit, inputs)))
            write_table(folder.pairs, pairs_table(inputs.preferences))
            write_json(folder.dropped, inputs.preferences.accounts())
            if waiting:
                _Scoring(folder, inputs, board).score(waiting)
            write_sealed(folder.manifest, _manifest(folder, inputs))
            write_findings(folder)
            folder.log("audit_done")
    return folder


def _read_inputs(audit: Audit, board: Board) -> Inputs:
    resolved = with_model_path(audit)
    problems = Problems()
    with problems.collected():
        check_weights(resolved)
        resolved = with_references(resolved)
        members = lineage(resolved)
    with problems.collected():
        preferences, tokeniser = read_held_out(resolved, board.message)
    problems.raise_all()
    for member in members:
        member.notes += tokenizer_notes(member.folder, tokeniser.tokenizer)
    identity = {
        "model": model_hash(resolved, board.message),
        "data": preferences.content_hash(),
        "chat_template": preferences.chat_template_hash,
        "keys": content_hash({"dtype": audit.dtype, "tokens_per_batch": audit.tokens_per_batch}),
        "stage_format": STAGE_FORMAT,
    }
    weights = {member.name: _weights_hash(member.standing) for member in members}
    return Inputs(resolved, members, preferences, identity, weights)


def _written(audit: Audit, inputs: Inputs) -> Audit:
    """As it was given, with the parents that were found."""
    return audit.model_copy(update={"checkpoints": inputs.audit.checkpoints})


def _unfinished(folder: RunFolder, inputs: Inputs, say: Callable[[str], None]) -> list[Member | None]:
    members: list[Member | None] = [None, *inputs.members]
    return [member for member in members if believed(folder, _node(member), inputs.identity_of(member), say) is None]


def _weights_hash(standing: Standing) -> str:
    """Of everything that is loaded for a checkpoint."""
    folders = [*([standing.model] if standing.model else []), *standing.adapters]
    files = [path for each in folders for path in sorted(each.iterdir()) if _shapes_weights(path)]
    return content_hash([[path.name, file_hash(path)] for path in files])


def _shapes_weights(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.name in {"config.json", "adapter_config.json"}


@dataclass(slots=True)
class _Scoring:
    """One load of the base, and every checkpoint on it in turn."""

    folder: RunFolder
    inputs: Inputs
    board: Board
    base: PreTrainedModel = field(init=False)
    attention: str = field(init=False)  # that the base was loaded with
    engine: str = field(init=False)
    environment: dict[str, Any] = field(default_factory=environment)

    def __post_init__(self) -> None:
        audit = self.inputs.audit
        self.board.message(f"loading {audit.model_name_or_path}")
        self.base = load_model(audit)
        self.attention = attention_of(self.base)
        self.engine = choose_engine(self.base, self.inputs.preferences.longest)
        self.board.message(f"engine: {self.engine}")

    def score(self, waiting: list[Member | None]) -> None:
        self.board.begin([Task(_title(member), self.inputs.n_pairs) for member in waiting])
        for member in waiting:
            self.board.start(_title(member))
            began = perf_counter()
            if member is None:
                self._base()
            else:
                self._checkpoint(member)
            self.folder.log("scored", checkpoint=_title(member), seconds=round(perf_counter() - began, 3))
            self.board.finish("scored", _title(member))

    def _base(self) -> None:
        logps = BaseLogps(
            self.base,
            self.inputs.identity["model"],
            self.engine,
            self.inputs.audit.tokens_per_batch,
            self.board.message,
        )
        held_out = self.inputs.preferences.held_out
        scores = all_finite(logps.of(held_out, self._on_scored), held_out, BASE)
        self._write(None, scores, {"engine": self.engine})

    def _checkpoint(self, member: Member) -> None:
        audit, preferences = self.inputs.audit, self.inputs.preferences
        with foreign_policy(self.base, member.standing, audit) as policy:
            engine = engine_for(policy, preferences.longest, self.attention)
            scores = self._scored(policy, member)
        self._write(member, scores, {"engine": engine, "source": member.source.model_dump()}, self._movement(member))

    def _scored(self, policy: nn.Module, member: Member) -> dict[str, PairLogps]:
        pairs, budget = self.inputs.preferences.held_out, self.inputs.audit.tokens_per_batch
        return all_finite(objective_logps(policy, tokens_of(pairs), budget, self._on_scored), pairs, member.name)

    def _movement(self, member: Member) -> pa.Table | None:
        """None where a checkpoint, or the one before it, is not the base plus products of two matrices."""
        parents = {one.node: one for one in self.inputs.members}
        before = Standing() if member.node.parent is None else parents[member.node.parent].standing
        after = member.standing
        folders = (*before.adapters, *after.adapters)
        if before.model != after.model or not all(read_adapter(folder).is_plain_lora for folder in folders):
            return None
        return movement_between(
            joined_factors(before.adapters), joined_factors(after.adapters), weight_norms(self.base)
        )

    def _write(
        self,
        member: Member | None,
        scores: dict[str, PairLogps],
        found: dict[str, Any],
        movement: pa.Table | None = None,
    ) -> None:
        record = {**found, "identity": self.inputs.identity_of(member), "environment": self.environment}
        write_checkpoint(self.folder, _node(member), scores_of(scores, self.inputs.preferences), record, movement)

    def _on_scored(self, n_pairs: int) -> None:
        self.board.advance(n_pairs, n_pairs)


def write_checkpoint(
    folder: RunFolder, node: Node | None, scores: pa.Table, record: dict[str, Any], movement: pa.Table | None = None
) -> None:
    """A checkpoint that was only scored, as a stage's folder; its record last. None is the base."""
    path = folder.stage(node)
    if node is not None:
        write_table(path / "gradients.parquet", GRADIENTS_SCHEMA.empty_table())
        write_table(path / "kl_and_path.parquet", KL_AND_PATH_SCHEMA.empty_table())
        write_table(path / "movement.parquet", MOVEMENT_SCHEMA.empty_table() if movement is None else movement)
    write_table(path / "scores.parquet", scores)
    write_sealed(path / NODE_FILE, {"kind": "audit", **place_of(node), **record, "files": file_hashes(path)})


def _node(member: Member | None) -> Node | None:
    return None if member is None else member.node


def _title(member: Member | None) -> str:
    return BASE if member is None else member.name


def _manifest(folder: RunFolder, inputs: Inputs) -> dict[str, Any]:
    members = inputs.members
    return {
        "schema_version": MANIFEST_VERSION,
        "kind": "audit",
        "identity": inputs.identity,
        "environment": environment(),
        "engine": json.loads((folder.stage(None) / NODE_FILE).read_text(encoding="utf-8"))["engine"],
        "notes": inputs.preferences.notes,
        "checkpoints": [_found(folder, member, inputs.audit) for member in members],
        "vllm": vllm_command(members, inputs.audit),
        "files": {},  # filled in by write_findings
    }


def _found(folder: RunFolder, member: Member, audit: Audit) -> dict[str, Any]:
    """What is said of a checkpoint."""
    adapter = member.adapter
    return {
        "checkpoint": member.name,
        "path": str(member.folder),
        "kind": "model" if adapter is None else _kind(adapter.config),
        "rank": None if adapter is None else adapter.rank,
        "stands_on": member.on,
        "notes": [*member.notes, *_idle_notes(folder, member)],
        "python": python_lines(member, audit),
    }


def _kind(config: dict[str, Any]) -> str:
    name = "DoRA" if config.get("use_dora") else "rsLoRA" if config.get("use_rslora") else "LoRA"
    saved = ", ".join(config.get("modules_to_save") or ())
    return f"{name} and {saved}" if saved else name


def _idle_notes(folder: RunFolder, member: Member) -> list[str]:
    """Whether a checkpoint says the same as the base, or as the checkpoint before it."""
    own = _logps(folder, member.node)
    for node in dict.fromkeys((None, member.node.parent)):
        if np.allclose(own, _logps(folder, node), rtol=NOTHING, atol=0):
            return [f"changes nothing: every log-probability is that of {checkpoint_of(node)}"]
    return []


def _logps(folder: RunFolder, node: Node | None) -> np.ndarray:
    table = read_table(folder.stage(node) / "scores.parquet", columns=["chosen_logp", "rejected_logp"])
    return np.column_stack([column.to_numpy() for column in table.columns])
