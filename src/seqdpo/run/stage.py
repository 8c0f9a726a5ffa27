"""One node of the tree: a stage is trained, and its checkpoint measured. All that needs the model happens here."""

from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from seqdpo.measure.movement import movement_table
from seqdpo.measure.scores import PairLogps
from seqdpo.policy.adapters import loaded_adapter, save_adapter, trainable_policy
from seqdpo.preferences.pairs import content_hash
from seqdpo.preferences.prepare import Preferences
from seqdpo.run.bench import Bench
from seqdpo.run.claims import claimed
from seqdpo.run.environment import peak_memory_bytes
from seqdpo.run.files import file_hashes, folder_written_whole, host_name, write_json, write_table
from seqdpo.run.folder import NODE_FILE, TRAINED_FILE
from seqdpo.run.mechanism import gradient_trace, stage_forecast, stage_kl_and_path
from seqdpo.run.node_log import node_log
from seqdpo.run.records import adapter_hash, place_in_tree, read_record
from seqdpo.run.saves import forget_saves, stage_saves
from seqdpo.study.checkpoints import BASE, Node, reference_of
from seqdpo.tables import GRADIENTS_SCHEMA
from seqdpo.training.loss import reference_offsets
from seqdpo.training.placebo import TrainingPairs, with_own_labels
from seqdpo.training.stage import Step, train_stage


def run_node(bench: Bench, node: Node | None) -> None:
    """Does what is left of a node.

    A stage that was trained before, but not measured to its end, is not trained again. What another process has done
    while this one waited for it is taken as it is.
    """
    with claimed(bench.folder, node, bench.say):
        if read_record(bench.folder, node, bench.identity) is not None:
            return
        with node_log(bench, node):
            if node is None:
                score_base(bench)
                return
            if read_record(bench.folder, node, bench.identity, TRAINED_FILE) is None:
                train(bench, node)
            measure(bench, node)


def score_base(bench: Bench) -> None:
    """Scores the base; training pairs too, so that every stage finds its reference in the cache."""
    for name in bench.trained:
        bench.train_logps(None, name)
    scores = {name: bench.scored_by_base(objective.eval) for name, objective in bench.preferences.objectives.items()}
    _write_node(bench, None, scores, {})


def train(bench: Bench, node: Node) -> None:
    """Trains a stage and leaves its folder with the adapter, the steps, the gradients and, in it, trained.json."""
    began = perf_counter()
    parent = bench.folder.adapter(node.parent)
    seed = stage_seed(node)
    with folder_written_whole(bench.folder.stage(node)) as path:
        pairs = training_pairs(bench, node)
        with trainable_policy(bench.base, bench.keys, parent, seed) as policy:
            trace = gradient_trace(policy, node, bench.preferences, bench.keys, bench.folder, bench.on_gradient)
            with stage_saves(bench, node, seed) as saves:
                steps = train_stage(policy, pairs, bench.keys, seed, lambda step: _on_step(bench, step), trace, saves)
            save_adapter(policy, bench.keys, parent, path / "adapter")
        write_table(path / "train.parquet", steps)
        write_table(path / "gradients.parquet", GRADIENTS_SCHEMA.empty_table() if trace is None else trace.table)
        record = _record(bench, node) | {"seconds": round(perf_counter() - began, 3)}
        write_json(path / TRAINED_FILE, record | {"files": file_hashes(path)})
    forget_saves(bench.folder, node)


def measure(bench: Bench, node: Node) -> None:
    """Scores every objective under a stage's checkpoint, and measures what the stage did; node.json comes last."""
    began = perf_counter()
    path, parent = bench.folder.stage(node), bench.folder.adapter(node.parent)
    with loaded_adapter(bench.base, path / "adapter") as policy:
        scores = {
            name: bench.scored(policy, objective.eval, node) for name, objective in bench.preferences.objectives.items()
        }
    write_table(path / "kl_and_path.parquet", _kl_and_path(bench, node))
    write_table(path / "movement.parquet", movement_table(parent, path / "adapter", bench.weight_norms))
    _write_node(bench, node, scores, {"score_seconds": round(perf_counter() - began, 3)})


def training_pairs(bench: Bench, node: Node) -> TrainingPairs:
    """What a stage trains on: its pairs, the reference's say of them and, for a control stage, labels of its own."""
    prepared = bench.preferences.objectives[node.objective].train
    reference = bench.train_logps(reference_of(node, bench.keys.reference), node.objective)
    pairs = TrainingPairs(
        [pair.pair.pair_id for pair in prepared],
        [pair.tokens for pair in prepared],
        reference_offsets(reference.chosen, reference.rejected, bench.keys.beta),
    )
    if not node.placebo:
        return pairs
    start = bench.train_logps(node.parent, node.objective)
    labels = np.random.default_rng([stage_seed(node), 1])  # another stream than that of the order of the pairs
    return with_own_labels(pairs, start.difference, bench.keys.beta, labels)


def stage_seed(node: Node) -> int:
    """32 bits for LoRA initialisation, data order, dropout and a placebo's labels; its own for every node."""
    return int(content_hash(["stage", node.seed, node.path, node.placebo]), 16) % 2**32


def title(node: Node | None) -> str:
    """A node's name on the board."""
    return BASE if node is None else f"{node.checkpoint} (seed {node.seed})"


def scores_of(scores: dict[str, PairLogps], preferences: Preferences) -> pa.Table:
    """A checkpoint's log-probabilities of all evaluation pairs, objective after objective, each by pair_id."""
    tables = []
    for name, logps in scores.items():
        pairs = preferences.objectives[name].eval
        tables.append(
            pa.table(
                {
                    "objective": [name] * len(pairs),
                    "split": ["eval"] * len(pairs),
                    "pair_id": [prepared.pair.pair_id for prepared in pairs],
                    "chosen_logp": logps.chosen,
                    "rejected_logp": logps.rejected,
                }
            )
        )
    return pa.concat_tables(tables)


def _kl_and_path(bench: Bench, node: Node) -> pa.Table:
    parent, given = bench.folder.adapter(node.parent), (bench.preferences, bench.keys)
    with trainable_policy(bench.base, bench.keys, parent, stage_seed(node)) as start:
        forecasts = stage_forecast(start, training_pairs(bench, node), *given, bench.on_scored, bench.on_gradient)
    adapter = bench.folder.stage(node) / "adapter"
    return stage_kl_and_path(bench.base, node, adapter, *given, bench.folder, forecasts, bench.on_scored)


def _on_step(bench: Bench, step: Step) -> None:
    bench.on_gradient(step.n_pairs)


def _write_node(bench: Bench, node: Node | None, scores: dict[str, PairLogps], details: dict[str, Any]) -> None:
    """The scores and, last, node.json, which makes the stage done."""
    path = bench.folder.stage(node)
    write_table(path / "scores.parquet", scores_of(scores, bench.preferences))
    write_json(path / NODE_FILE, _record(bench, node) | details | {"files": file_hashes(path)})


def _record(bench: Bench, node: Node | None) -> dict[str, Any]:
    """What both records of a stage say of it."""
    of_stage = {} if node is None else _of_stage(bench, node)
    made_with = {"identity": bench.identity, "engine": bench.engine, "environment": bench.environment}
    return place_in_tree(node, bench.keys) | of_stage | {"host": host_name()} | made_with


def _of_stage(bench: Bench, node: Node) -> dict[str, Any]:
    return {
        "stage_seed": stage_seed(node),
        "parent_adapter": adapter_hash(bench.folder, node.parent),
        "n_train_pairs": len(bench.preferences.objectives[node.objective].train),
        "peak_memory_bytes": peak_memory_bytes(),
    }
