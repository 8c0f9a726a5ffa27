"""From the files of a run folder to its findings: the run's tables and results.json. No torch, no model."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analysis.results import MechanismTables, results
from seqdpo.analysis.schema import PathCost, Tolerances, to_json
from seqdpo.errors import ConfigError, DataError
from seqdpo.files import (
    REMEDY,
    check_hash,
    read_sealed,
    read_table,
    write_json,
    write_sealed,
    write_table,
)
from seqdpo.layout import NODE_FILE, check_manifest_hash, check_run_folder
from seqdpo.report.finished import Run, read_run
from seqdpo.report.write import write_report
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.records import check_belongs, stored_manifest
from seqdpo.study.audit import Audit
from seqdpo.study.checkpoints import Node, checkpoint_of, order_name
from seqdpo.study.keys import LossKeys, TreeKeys, VerdictKeys
from seqdpo.study.stored import read_stored, stored_values
from seqdpo.study.tree import along, needs, stage_tree, tracks
from seqdpo.tables import NODE_COLUMNS, SCORES_SCHEMA, STAGE_TABLES

COSTS = [one.name for one in fields(PathCost)]
#: The keys of the study that results.json repeats, for readers who have only that file.
STUDY_FACTS = (
    *("model_name_or_path", "setting", "adapter_mode", "learning_rate", "lora_r", "seeds"),
    *LossKeys.model_fields,
)


def analyse(root: str | Path) -> Run:
    """Derives the tables, results.json and the report of a run again from its own files, and reads them.

    Also of a run that an older release wrote.
    Raises: as `write_findings`; ConfigError if another process is at work in the folder.
    """
    folder = RunFolder(Path(root))
    check_run_folder(folder)
    with folder.locked():
        write_findings(folder)
    run = read_run(folder.root)
    write_report(run)
    return run


def write_findings(folder: RunFolder) -> None:
    """scores.parquet, the mechanism's tables and results.json from the stages' own, then all hashes into the manifest.

    Raises: ConfigError if the folder is no run's, or a stage of it is not done; DataError if a file cannot be read.
    """
    check_run_folder(folder)
    stored_values(folder)  # of scores from elsewhere there are no stages, and no base's record to read below
    manifest = stored_manifest(folder)
    kept = [folder.generations] if folder.generations.is_file() else []
    for path in (folder.study, folder.pairs, folder.dropped, *kept):
        check_manifest_hash(path, folder, manifest)
    study = read_stored(folder)
    tree = study.tree() if isinstance(study, Audit) else study
    _check_all_done(folder, tree, manifest.get("identity") or {})
    pairs = read_table(folder.pairs)
    scores = scores_table(folder, tree, pairs)
    mechanism = {name: stages_table(folder, tree, name) for name in STAGE_TABLES}
    for name, table in mechanism.items():
        write_table(folder.root / f"{name}.parquet", table)
    write_table(folder.scores, scores)
    facts = study.model_dump(mode="json", include=set(STUDY_FACTS))
    if tree.variants:
        facts |= study.model_dump(mode="json", include={"variants"})
    if isinstance(study, Audit):
        facts |= {"kind": "audit", "seeds": tree.seeds}
    costs = path_costs(folder, tree) if tree.variants else {}
    found = results(scores, pairs, study.beta, tolerances(study), facts, MechanismTables(**mechanism), costs)
    write_json(folder.results, to_json(found))
    tables = (folder.scores, *(folder.root / f"{name}.parquet" for name in STAGE_TABLES))
    written = (folder.study, folder.pairs, folder.dropped, *kept, *tables, folder.results)
    write_sealed(folder.manifest, manifest | {"files": folder.hashes(*written)})


def scores_table(folder: RunFolder, keys: TreeKeys, pairs: pa.Table) -> pa.Table:
    """SCORES_SCHEMA; a checkpoint that several orders share has its rows under each of them."""
    base = _scores_of(folder, None)
    tokens = _token_counts(folder, base, pairs)
    tables = [
        _rows(_scores_of(folder, node), base, tokens, seed, order_name(*track), node)
        for seed in keys.seeds
        for track in tracks(keys)
        for node in (None, *along(seed, *track, keys))
    ]
    return pa.concat_tables(tables)


def stages_table(folder: RunFolder, keys: TreeKeys, name: str) -> pa.Table:
    """NODE_COLUMNS, then the columns of a table of STAGE_TABLES: every stage once, control stages among them."""
    return pa.concat_tables([_of_stage(folder, node, name) for node in stage_tree(keys)])


def path_costs(folder: RunFolder, keys: TreeKeys) -> dict[tuple[int, str], PathCost]:
    """What each real checkpoint took from the base on, as its record and those of all that it needs have it."""
    nodes = stage_tree(keys)
    of_node = {node: _cost_of(folder, node) for node in nodes}
    needed: dict[Node | None, set[Node]] = {None: set()}
    for node in nodes:  # after all that it needs
        needed[node] = {node}.union(*(needed[other] for other in needs(node, keys.variants)))
    return {
        (node.seed, node.checkpoint): PathCost(
            **{name: _total([getattr(of_node[one], name) for one in needed[node]]) for name in COSTS}
        )
        for node in nodes
        if not node.placebo
    }


def _cost_of(folder: RunFolder, node: Node) -> PathCost:
    """Releases before there were variants did not count passes."""
    record = read_sealed(folder.stage(node) / NODE_FILE)
    passes = record.get("passes") or {}
    return PathCost(
        trained_pairs=passes.get("trained"), scored_pairs=passes.get("scored"), seconds=record.get("train_seconds")
    )


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(math.fsum(known), 3) if len(known) == len(values) else None


def tolerances(keys: VerdictKeys) -> Tolerances:
    return Tolerances(keys.margin_tolerance, keys.accuracy_tolerance, keys.flip_tolerance, keys.confidence, keys.looks)


def _check_all_done(folder: RunFolder, keys: TreeKeys, identity: Mapping[str, Any]) -> None:
    """Of this run, too: tables that agree with a record of another run or stage are no tables of this one."""
    nodes = [None, *stage_tree(keys)]
    missing = [node for node in nodes if not (folder.stage(node) / NODE_FILE).is_file()]
    if missing:
        raise ConfigError(
            f"{folder.root}: {len(missing)} of {len(nodes)} stages are not done, {folder.stage(missing[0])} first; "
            "expected a finished run. Run the study again (`seqdpo run`, of an audit `seqdpo audit`) to finish it."
        )
    for node in nodes:
        record = folder.stage(node) / NODE_FILE
        check_belongs(record, read_sealed(record), node, identity)


def _scores_of(folder: RunFolder, node: Node | None) -> pa.Table:
    return _stage_table(folder, node, "scores.parquet")


def _stage_table(folder: RunFolder, node: Node | None, *names: str) -> pa.Table:
    """A table of a stage, under the first of its names that the stage's record has."""
    record = folder.stage(node) / NODE_FILE
    hashes = read_sealed(record).get("files") or {}
    name = next((one for one in names if one in hashes), names[0])
    path = folder.stage(node) / name
    check_hash(path, str(hashes.get(name)), str(record), REMEDY)
    return read_table(path)


def _rows(own: pa.Table, base: pa.Table, tokens: pa.Table, seed: int, order: str, node: Node | None) -> pa.Table:
    # every checkpoint scores the same pairs; a margin of a pair with another pair's base must be impossible
    if not own["pair_id"].equals(base["pair_id"]):
        raise DataError(f"{checkpoint_of(node)}: its pairs are not those of the base; expected the same. Run it again.")
    n = own.num_rows
    columns = {
        "seed": pa.repeat(seed, n),
        "order": pa.repeat(order, n),
        "stage": pa.repeat(0 if node is None else node.stage, n),
        "checkpoint": pa.repeat(checkpoint_of(node), n),
        "placebo": pa.repeat(0 if node is None else node.placebo, n),
        **{name: own[name] for name in ("objective", "split", "pair_id", "chosen_logp", "rejected_logp")},
        "base_chosen_logp": base["chosen_logp"],
        "base_rejected_logp": base["rejected_logp"],
        "chosen_tokens": tokens["chosen_tokens"],
        "rejected_tokens": tokens["rejected_tokens"],
    }
    return pa.table(columns).select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA)


def _token_counts(folder: RunFolder, base: pa.Table, pairs: pa.Table) -> pa.Table:
    """The tokens of the evaluated pairs, in the order of the base's scores."""
    names = ["objective", "pair_id"]
    held_out = pairs.filter(pc.field("split") == "eval").select([*names, "chosen_tokens", "rejected_tokens"])
    if not held_out.select(names).cast(base.select(names).schema).equals(base.select(names)):
        raise DataError(f"{folder.pairs}: its held-out pairs are not those that were scored; expected the same pairs.")
    return held_out


def _of_stage(folder: RunFolder, node: Node, name: str) -> pa.Table:
    schema, older = STAGE_TABLES[name]
    own = _stage_table(folder, node, *(f"{one}.parquet" for one in (name, *older)))
    named = zip(NODE_COLUMNS, (node.seed, node.checkpoint, node.placebo, checkpoint_of(node.parent)), strict=True)
    columns = {key: pa.repeat(pa.scalar(value, kind), own.num_rows) for (key, kind), value in named}
    later = {field.name: pa.nulls(own.num_rows, field.type) for field in schema if field.name not in own.column_names}
    return pa.table(columns | {key: own[key] if key not in later else later[key] for key in schema.names})
