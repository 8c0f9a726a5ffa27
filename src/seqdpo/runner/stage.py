"""One node of the tree: a stage is trained, and its checkpoint measured. All that needs the model happens here."""

from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from seqdpo.files import file_hashes, folder_written_whole, read_table, write_sealed, write_table
from seqdpo.layout import NODE_FILE, TRAINED_FILE
from seqdpo.measure.movement import movement_table
from seqdpo.measure.scores import PairLogps
from seqdpo.policy.adapters import loaded_adapter, save_adapter, trainable_policy
from seqdpo.preferences.pairs import content_hash
from seqdpo.preferences.prepare import Preferences
from seqdpo.runner.bench import Bench
from seqdpo.runner.environment import peak_memory_meter
from seqdpo.runner.mechanism import gradient_trace, stage_forecast, stage_kl_and_path, trace_halves
from seqdpo.runner.records import adapter_hash, place_in_tree, read_record
from seqdpo.runner.work import stage_notes
from seqdpo.study.checkpoints import BASE, Node, reference_of
from seqdpo.tables import GRADIENTS_SCHEMA
from seqdpo.training.pairs import TrainingPairs, pairs_of, training_pairs
from seqdpo.training.placebo import with_own_labels
from seqdpo.training.stage import Step, train_stage


def run_node(bench: Bench, node: Node | None) -> pa.Table | None:
    """Does what is left of a node; its training steps, None of the base.

    A stage that was trained before, but not measured to its end, is not trained again.
    """
    if node is None:
        score_base(bench)
        return None
    bench.folder.log("stage_began", checkpoint=node.checkpoint, seed=node.seed)
    began = perf_counter()
    if read_record(bench.folder, node, bench.identity, TRAINED_FILE) is None:
        train(bench, node)
    measure(bench, node)
    bench.folder.log("stage_done", checkpoint=node.checkpoint, seed=node.seed, seconds=perf_counter() - began)
    return read_table(bench.folder.stage(node) / "train.parquet")


def score_base(bench: Bench) -> None:
    """Scores the base; training pairs too, so that every stage finds its reference in the cache."""
    for name in bench.trained:
        bench.train_logps(None, name)
    scores = {name: bench.scored_by_base(objective.eval) for name, objective in bench.preferences.objectives.items()}
    _write_node(bench, None, scores, of_trial(bench))


def train(bench: Bench, node: Node) -> None:
    """Trains a stage and leaves its folder with the adapter, the steps, the gradients and, in it, trained.json."""
    began, peak = perf_counter(), peak_memory_meter()
    parent, given = bench.folder.adapter(node.parent), (bench.preferences, bench.keys)
    with folder_written_whole(bench.folder.stage(node)) as path:
        pairs = stage_pairs(bench, node)
        halves = trace_halves(node, *given, bench.held_out_logps)
        with trainable_policy(bench.base, bench.keys, parent, stage_seed(node)) as policy:
            trace = gradient_trace(policy, node, halves, *given, bench.on_gradient)
            hooks = [] if trace is None else [trace]
            steps = train_stage(policy, pairs, bench.keys, stage_seed(node), lambda step: _on_step(bench, step), hooks)
            save_adapter(policy, bench.keys, parent, path / "adapter")
        write_table(path / "train.parquet", steps)
        write_table(path / "gradients.parquet", GRADIENTS_SCHEMA.empty_table() if trace is None else trace.table)
        details = {"train_seconds": _since(began), "train_peak_memory_bytes": peak()}
        write_sealed(path / TRAINED_FILE, _record(bench, node) | details | {"files": file_hashes(path)})


def measure(bench: Bench, node: Node) -> None:
    """Scores every objective under a stage's checkpoint, and measures what the stage did; node.json comes last."""
    began, peak = perf_counter(), peak_memory_meter()
    path, parent = bench.folder.stage(node), bench.folder.adapter(node.parent)
    with loaded_adapter(bench.base, path / "adapter") as policy:
        scores = {
            name: bench.scored(policy, objective.eval, node) for name, objective in bench.preferences.objectives.items()
        }
    write_table(path / "kl_and_path.parquet", _kl_and_path(bench, node, scores))
    write_table(path / "movement.parquet", movement_table(parent, path / "adapter", bench.weight_norms))
    details = {"measure_seconds": _since(began), "measure_peak_memory_bytes": peak()}
    _write_node(bench, node, scores, details)


def stage_pairs(bench: Bench, node: Node) -> TrainingPairs:
    """What a stage trains on: its pairs, the reference's say of them and, for a control stage, labels of its own."""
    reference = bench.train_logps(reference_of(node, bench.keys.reference), node.objective)
    pairs = training_pairs(pairs_of(node, bench.preferences), reference)
    if not node.placebo:
        return pairs
    labels = np.random.default_rng([stage_seed(node), 1])  # another stream than that of the order of the pairs
    return with_own_labels(pairs, bench.train_logps(node.parent, node.objective), bench.keys, labels)


def stage_seed(node: Node) -> int:
    """32 bits for LoRA initialisation, data order, dropout and a placebo's labels; its own for every node."""
    return int(content_hash(["stage", node.seed, node.path, node.placebo]), 16) % 2**32


def title(node: Node | None) -> str:
    """A node's name on the board."""
    return BASE if node is None else f"{node.checkpoint} (seed {node.seed})"


def notes(bench: Bench, node: Node | None) -> list[str]:
    """What a reader of a node's results has to know beforehand."""
    return [] if node is None else stage_notes(node, bench.preferences, bench.keys)


def of_trial(bench: Bench) -> dict[str, Any]:
    """What the trial of the adapter found: weights where no text reaches, and what is to be said of the model."""
    return {"without_gradient": bench.trial.idle, "model_notes": bench.trial.notes}


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


def _kl_and_path(bench: Bench, node: Node, scores: dict[str, PairLogps]) -> pa.Table:
    """Between a stage's two checkpoints; the forecast is made from its start, which its seed brings back."""
    parent, given = bench.folder.adapter(node.parent), (bench.preferences, bench.keys)
    heard = (bench.on_scored, bench.on_gradient)
    with trainable_policy(bench.base, bench.keys, parent, stage_seed(node)) as start:
        forecasts = stage_forecast(start, node, stage_pairs(bench, node), *given, *heard)
    adapter = bench.folder.stage(node) / "adapter"
    return stage_kl_and_path(bench.base, node, adapter, scores, *given, bench.folder, forecasts, bench.on_scored)


def _on_step(bench: Bench, step: Step) -> None:
    bench.on_gradient(step.n_pairs)


def _write_node(bench: Bench, node: Node | None, scores: dict[str, PairLogps], details: dict[str, Any]) -> None:
    """The scores and, last, node.json, which makes the stage done."""
    path = bench.folder.stage(node)
    write_table(path / "scores.parquet", scores_of(scores, bench.preferences))
    write_sealed(path / NODE_FILE, _record(bench, node) | details | {"files": file_hashes(path)})


def _record(bench: Bench, node: Node | None) -> dict[str, Any]:
    """What both records of a stage say of it."""
    of_stage = {} if node is None else _of_stage(bench, node)
    made = {"identity": bench.identity, "environment": bench.environment, "engine": bench.engine}
    return place_in_tree(node, bench.keys) | of_stage | made


def _of_stage(bench: Bench, node: Node) -> dict[str, Any]:
    return {
        "stage_seed": stage_seed(node),
        "parent_adapter": adapter_hash(bench.folder, node.parent),
        "n_train_pairs": len(pairs_of(node, bench.preferences)),
        "notes": stage_notes(node, bench.preferences, bench.keys),
    }


def _since(began: float) -> float:
    return round(perf_counter() - began, 3)
