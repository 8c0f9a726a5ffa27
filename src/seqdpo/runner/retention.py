"""Earlier objectives watched while another trainer trains: scored now and then, and left as a run folder."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import nn
from transformers import PreTrainedTokenizerBase

from seqdpo.analysis.estimates import Clusters, Estimate, defined, mean
from seqdpo.analysis.margins import Column, share_above_zero
from seqdpo.errors import ConfigError
from seqdpo.files import read_sealed, read_table, write_json, write_sealed, write_table, write_text
from seqdpo.layout import NODE_FILE
from seqdpo.measure.scores import PairLogps, objective_logps
from seqdpo.policy.guest import Guest
from seqdpo.preferences.held_out import held_out_candidates
from seqdpo.preferences.pairs import content_hash
from seqdpo.preferences.prepare import Preferences, prepare
from seqdpo.preferences.table import pairs_table
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.runner.audit import write_checkpoint
from seqdpo.runner.bench import all_finite, tokens_of
from seqdpo.runner.environment import environment
from seqdpo.runner.findings import write_findings
from seqdpo.runner.folder import RunFolder, check_output_dir
from seqdpo.runner.records import MANIFEST_VERSION, STAGE_FORMAT
from seqdpo.runner.stage import scores_of
from seqdpo.study.audit import Audit
from seqdpo.study.checkpoints import BASE, Node
from seqdpo.study.file import audit_from, study_yaml

#: What is known of an objective after a step, one row each, in retention.parquet.
RETENTION_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("objective", pa.string()),
        ("n", pa.int64()),
        ("n_prompts", pa.int64()),
        ("margin", pa.float64()),  # mean over pairs, against the reference, nats
        ("margin_low", pa.float64()),
        ("margin_high", pa.float64()),
        ("accuracy", pa.float64()),  # share of pairs with a margin above 0, a tie one half
        ("kept", pa.float64()),  # of the mean margin at the start; null where nothing was learned then
    ]
)
TABLE = "retention.parquet"
#: The reference's and the start's log-probabilities, for a training that is resumed: `of`, then as scores_of has them.
START = "start.parquet"
Scores = dict[str, PairLogps]


class Watched(NamedTuple):
    """What is watched, and where it goes."""

    objectives: Mapping[str, Any]  # a path, a hub id, the keys of a study's objective, or a datasets.Dataset, by name
    learned: str | None  # the objective that the model had learned when the training began
    trains: str  # a name for what this training trains
    keys: Mapping[str, Any]  # of the texts, the limits and the verdicts, as in an audit


@dataclass(slots=True)
class Retention:
    """The held-out pairs of earlier objectives, and what the model made of them at the start and since."""

    folder: RunFolder
    audit: Audit
    preferences: Preferences
    guest: Guest
    reference: Scores
    start: Scores
    identity: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def scored(self, model: nn.Module, adapter: bool = True) -> Scores:
        """Of every held-out pair, under the model as it is."""
        return _scored(self.guest, model, self.preferences, self.audit.tokens_per_batch, adapter)

    def measure(self, step: int, scores: Scores) -> dict[str, dict[str, float]]:
        """margin, accuracy and, where something had been learned at the start, kept; by objective."""
        found = {}
        for name, logps in scores.items():
            now, before = self._margins(logps, name), self._margins(self.start[name], name)
            row = _row(step, name, now, before, self._clusters(name), self.audit.confidence)
            self.rows.append(row)
            found[name] = {key: row[key] for key in ("margin", "accuracy", "kept") if row[key] is not None}
        write_table(self.folder.root / TABLE, pa.Table.from_pylist(self.rows, RETENTION_SCHEMA))
        return found

    def lost(self, scores: Scores, share: float, level: float) -> list[str]:
        """The objectives that had been learned at the start and of which more than `share` is lost now.

        By a one-sided t test, pair by pair, of mean margin now >= (1 - share) x mean margin at the start.
        """
        return [name for name, logps in scores.items() if self._is_lost(name, logps, share, level)]

    def _is_lost(self, name: str, logps: PairLogps, share: float, level: float) -> bool:
        now, before, clusters = self._margins(logps, name), self._margins(self.start[name], name), self._clusters(name)
        if not _was_learned(mean(before, clusters), self.audit.confidence):
            return False
        return mean(now - (1 - share) * before, clusters).p_below(0) <= level

    def write_start(self) -> None:
        """The folder with all that is known before the first step."""
        folder = self.folder
        write_text(folder.study, study_yaml(self.audit))
        write_table(folder.pairs, pairs_table(self.preferences))
        write_json(folder.dropped, self.preferences.accounts())
        self._write(None, self.reference)
        *before, _ = self.audit.nodes()
        for node in before:
            self._write(node, self.start)
        known = {"reference": self.reference, "start": self.start}
        tables = [scores_of(of, self.preferences) for of in known.values()]
        whose = [name for name, table in zip(known, tables, strict=True) for _ in range(table.num_rows)]
        write_table(folder.root / START, pa.concat_tables(tables).append_column("of", pa.array(whose)))

    def write_end(self, step: int, scores: Scores, facts: Mapping[str, Any]) -> None:
        """The last checkpoint and the findings; `facts` are of the manifest."""
        self._write(self.audit.nodes()[-1], scores, step=step)
        manifest = {
            "schema_version": MANIFEST_VERSION,
            "kind": "audit",
            "identity": self.identity,
            "environment": environment(),
            "engine": self.guest.engine,
            "notes": self.preferences.notes,
            "vllm": None,
            "files": {},  # filled in by write_findings
        }
        write_sealed(self.folder.manifest, manifest | dict(facts))
        write_findings(self.folder)

    def _write(self, node: Node | None, scores: Scores, **facts: Any) -> None:
        record = {"engine": self.guest.engine, "identity": self.identity, "environment": environment(), **facts}
        write_checkpoint(self.folder, node, scores_of(scores, self.preferences), record)

    def _margins(self, logps: PairLogps, objective: str) -> Column:
        return logps.difference - self.reference[objective].difference

    def _clusters(self, objective: str) -> Clusters:
        prompts = [prepared.pair.prompt_hash for prepared in self.preferences.objectives[objective].eval]
        return np.unique(prompts, return_inverse=True)[1].astype(np.int64)


def begin_retention(
    model: nn.Module,
    reference: nn.Module | None,
    tokenizer: PreTrainedTokenizerBase,
    root: Path,
    base_name: str,
    watched: Watched,
    step: int = 0,
) -> Retention:
    """Reads the pairs, scores them under the reference and the model as it is, and writes both down.

    `reference` None is the model without its adapter. A training that goes on at a `step` takes both, and its rows, as
    its beginning left them in the folder.
    Raises: ConfigError and DataError for wrong input, or where the folder holds a finished run of another training.
    """
    folder = RunFolder(root)
    if not (root / START).is_file():  # else of a training that broke off, which is resumed or begun again
        check_output_dir(root)
    if not step:
        _check_free(folder)
    with TemporaryDirectory(prefix="seqdpo-pairs-") as temporary:
        audit, given = _audit(watched, base_name, root, Path(temporary))
        tokeniser = Tokeniser(
            deepcopy(tokenizer),
            audit.max_length,
            audit.excess_length_strategy,
            chat_template_kwargs=audit.chat_template_kwargs,
        )
        preferences = prepare(given.tree(), held_out_candidates(given.objectives, {}), tokeniser)
    identity = {
        "model": base_name,
        "data": preferences.content_hash(),
        "chat_template": preferences.chat_template_hash,
        "keys": content_hash({"tokens_per_batch": audit.tokens_per_batch}),
        "stage_format": STAGE_FORMAT,
    }
    guest = Guest(model, preferences.longest)
    if step and _is_begun(folder, audit, identity):
        return Retention(folder, audit, preferences, guest, *_start(folder), identity, _rows(folder, step))
    _check_free(folder)
    start = _scored(guest, model, preferences, audit.tokens_per_batch)
    compared = start if reference is model else _compared(guest, model, reference, preferences, audit.tokens_per_batch)
    retention = Retention(folder, audit, preferences, guest, compared, start, identity)
    with folder.locked():
        retention.write_start()
    return retention


def _check_free(folder: RunFolder) -> None:
    if folder.results.is_file():
        raise ConfigError(
            f"{folder.root}: holds what another training left; expected no run there. Move it away, or give the "
            "callback another output_dir."
        )


def _is_begun(folder: RunFolder, audit: Audit, identity: Mapping[str, Any]) -> bool:
    """Whether the folder holds the beginning of the same training: same pairs, same keys, same model."""
    if not (folder.root / START).is_file():
        return False
    known = read_sealed(folder.stage(None) / NODE_FILE).get("identity")
    return known == identity and folder.study.read_text(encoding="utf-8") == study_yaml(audit)


def _start(folder: RunFolder) -> tuple[Scores, Scores]:
    """(reference, start)"""
    table = read_table(folder.root / START)
    found: dict[str, Scores] = {"reference": {}, "start": {}}
    for of, scores in found.items():
        own = table.filter(pc.field("of") == of)
        for name in pc.unique(own["objective"]).to_pylist():
            rows = own.filter(pc.field("objective") == name)
            scores[name] = PairLogps(rows["chosen_logp"].to_numpy(), rows["rejected_logp"].to_numpy())
    return found["reference"], found["start"]


def _rows(folder: RunFolder, step: int) -> list[dict[str, Any]]:
    """Of the table, up to a step: what came after it comes again."""
    return read_table(folder.root / TABLE).filter(pc.field("step") <= step).to_pylist()


def _compared(
    guest: Guest, model: nn.Module, reference: nn.Module | None, preferences: Preferences, budget: int | None
) -> Scores:
    if reference is None:
        return _scored(guest, model, preferences, budget, adapter=False)
    return _scored(Guest(reference, preferences.longest), reference, preferences, budget)


def _audit(watched: Watched, base_name: str, root: Path, temporary: Path) -> tuple[Audit, Audit]:
    """(as it is written down, as it is read): pairs that are in memory lie in a folder for a moment."""
    named, read = {}, {}
    for name, objective in watched.objectives.items():
        named[name] = read[name] = _keys_of(objective)
        if hasattr(objective, "save_to_disk"):
            objective.save_to_disk(str(temporary / name))
            named[name] = {"format": "preference", "dataset_name": "a Dataset in memory"}
            read[name] = {"format": "preference", "dataset_name": str(temporary / name)}
    path = [watched.learned, watched.trains] if watched.learned is not None else [watched.trains]
    checkpoints = {">".join(path[: i + 1]): "(in training)" for i in range(len(path))}
    values = {
        **watched.keys,
        "model_name_or_path": base_name,
        "checkpoints": checkpoints,
        "without_pairs": [name for name in path if name not in watched.objectives],
        "output_dir": str(root),
    }
    where = "PreferenceRetentionCallback"
    return audit_from(values | {"objectives": named}, where), audit_from(values | {"objectives": read}, where)


def _keys_of(objective: Any) -> Any:
    if isinstance(objective, str | Path):
        return {"format": "preference", "dataset_name": str(objective)}
    return objective


def _scored(
    guest: Guest, model: nn.Module, preferences: Preferences, tokens_per_batch: int | None, adapter: bool = True
) -> Scores:
    pairs = preferences.held_out
    with guest.reading(model, adapter) as reader:
        scores = objective_logps(reader, tokens_of(pairs), tokens_per_batch)
    return all_finite(scores, pairs, BASE if not adapter else "in training")


def _row(step: int, name: str, now: Column, before: Column, clusters: Clusters, confidence: float) -> dict[str, Any]:
    margin, learned = mean(now, clusters), mean(before, clusters)
    low, high = margin.interval(confidence)
    return {
        "step": step,
        "objective": name,
        "n": margin.n,
        "n_prompts": margin.n_prompts,
        "margin": margin.value,
        "margin_low": defined(low),
        "margin_high": defined(high),
        "accuracy": float(share_above_zero(now).mean()),
        "kept": margin.value / learned.value if _was_learned(learned, confidence) else None,
    }


def _was_learned(margin: Estimate, confidence: float) -> bool:
    return margin.interval(confidence)[0] > 0
