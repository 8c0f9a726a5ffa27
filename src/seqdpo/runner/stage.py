"""One node of the tree: a stage is trained, and its checkpoint measured. All that needs the model happens here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from seqdpo.files import file_hashes, folder_written_whole, host_name, write_sealed, write_table
from seqdpo.layout import NODE_FILE, TRAINED_FILE
from seqdpo.measure.gradients import GradientTrace
from seqdpo.measure.movement import movement_table
from seqdpo.measure.scores import PairLogps
from seqdpo.policy.adapters import loaded_adapter, save_adapter, take_in, trainable_policy
from seqdpo.policy.ranks import from_first, this_process
from seqdpo.preferences.pairs import content_hash
from seqdpo.preferences.prepare import Preferences
from seqdpo.runner.bench import Bench
from seqdpo.runner.claims import claimed
from seqdpo.runner.environment import peak_memory_meter
from seqdpo.runner.mechanism import gradient_trace, scored_logps, stage_forecast, stage_kl_and_path, trace_halves
from seqdpo.runner.node_log import node_log
from seqdpo.runner.records import MADE_FROM, adapter_hash, check_adapter, identity_of, place_in_tree, read_record
from seqdpo.runner.remedies import make_checkpoint, own_pairs, remedy_hooks
from seqdpo.runner.saves import forget_saves, stage_saves
from seqdpo.runner.trackers import StageTrackers, stage_trackers
from seqdpo.runner.work import is_plain, learning_work, stage_notes
from seqdpo.study.checkpoints import BASE, Node
from seqdpo.study.tree import needs
from seqdpo.study.variants import variant_at
from seqdpo.tables import GRADIENTS_SCHEMA, KL_AND_PATH_SCHEMA
from seqdpo.training.pairs import TrainingPairs, pairs_of
from seqdpo.training.placebo import with_own_labels
from seqdpo.training.stage import STEPS_SCHEMA, Step, train_stage

#: What there is to do with the model for a node: the base is scored, a stage trained and measured.
Part: TypeAlias = Literal["score", "train", "measure"]


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
                _together("score", bench, node)
                return
            with _tracked(bench, node):
                if read_record(bench.folder, node, bench.identity, TRAINED_FILE) is None:
                    _together("train", bench, node)
                _together("measure", bench, node)


@contextmanager
def _tracked(bench: Bench, node: Node) -> Iterator[None]:
    """Trackers hear of the stage in this block."""
    with stage_trackers(bench.keys, bench.folder.root, node) as trackers:
        bench.trackers = trackers
        try:
            yield
        finally:
            bench.trackers = StageTrackers()


def run_part(part: Part, bench: Bench, node: Node | None) -> None:
    """One part of a node. All processes of a run do it on their pairs; the first writes what came of it."""
    if node is None:
        score_base(bench)
    elif part == "train":
        train(bench, node)
    else:
        measure(bench, node)


def _together(part: Part, bench: Bench, node: Node | None) -> None:
    """Here, and in the other processes, which wait for it in `seqdpo.runner.followers`."""
    from_first((part, node))
    run_part(part, bench, node)


def score_base(bench: Bench) -> None:
    """Scores the base; training pairs too, so that every stage finds its reference in the cache."""
    for name in bench.trained:
        bench.train_logps(None, name, bench.keys.ld_alpha)
    scores = bench.scored_by_base(bench.preferences.held_out)
    if this_process().is_first:
        _write_node(bench, None, scores, of_trial(bench))


def train(bench: Bench, node: Node) -> None:
    """Trains a stage and leaves its folder with the adapter, the steps, the gradients and, in it, trained.json."""
    if not this_process().is_first:
        _train(bench, node, None)
        return
    began, peak = perf_counter(), peak_memory_meter()
    with folder_written_whole(bench.folder.stage(node)) as path:
        steps, trace = _train(bench, node, path / "adapter")
        write_table(path / "train.parquet", steps)
        write_table(path / "gradients.parquet", GRADIENTS_SCHEMA.empty_table() if trace is None else trace.table)
        details = {"train_seconds": _since(began), "train_peak_memory_bytes": peak()}
        write_sealed(path / TRAINED_FILE, _record(bench, node) | details | {"files": file_hashes(path)})
    forget_saves(bench.folder, node)


def _train(bench: Bench, node: Node, adapter: Path | None) -> tuple[pa.Table, GradientTrace | None]:
    """The steps of a stage, and its trace; `adapter`: where to save what was trained."""
    if bench.start is not None and _is_given(bench, node):
        if adapter is not None:
            take_in(bench.base, bench.keys, bench.start, adapter)
        return STEPS_SCHEMA.empty_table(), None
    for other in needs(node, bench.variants):
        check_adapter(bench.folder, other)
    variant = variant_at(node, bench.variants)
    if not variant.is_trained:
        if adapter is not None:
            make_checkpoint(bench, node, variant, adapter)
        return STEPS_SCHEMA.empty_table(), None
    keys = bench.keys_of(node)
    parent, given = bench.folder.adapter(node.parent), (bench.preferences, keys)
    pairs, seed = stage_pairs(bench, node), stage_seed(node)
    halves = trace_halves(node, *given, bench.held_out_logps, np.random.default_rng([seed, 2]))
    with trainable_policy(bench.base, keys, parent, seed) as policy:
        trace = gradient_trace(policy, node, halves, *given, bench.on_gradient)
        hooks = [*remedy_hooks(bench, node, policy, variant, seed), *([] if trace is None else [trace])]
        with stage_saves(bench, node, seed) as saves:
            steps = train_stage(policy, pairs, keys, seed, lambda step: _on_step(bench, step), hooks, saves)
        if adapter is not None:
            save_adapter(policy, keys, parent, adapter)
    return steps, trace


def measure(bench: Bench, node: Node) -> None:
    """Scores every objective under a stage's checkpoint, and measures what the stage did; node.json comes last."""
    began, peak = perf_counter(), peak_memory_meter()
    path, parent = bench.folder.stage(node), bench.folder.adapter(node.parent)
    adapter = path / "adapter"
    with loaded_adapter(bench.base, adapter) as policy:
        scores = bench.scored(policy, bench.preferences.held_out, node)
    not_measured = _is_given(bench, node) or not is_plain(node)
    kl_and_path = KL_AND_PATH_SCHEMA.empty_table() if not_measured else _kl_and_path(bench, node, scores)
    if not this_process().is_first:
        return
    write_table(path / "kl_and_path.parquet", kl_and_path)
    write_table(path / "movement.parquet", movement_table(parent, adapter, bench.weight_norms))
    bench.trackers.scores(scores, {name: _base_logps(bench, name) for name in scores})
    details = {"measure_seconds": _since(began), "measure_peak_memory_bytes": peak()}
    _write_node(bench, node, scores, details)


def _base_logps(bench: Bench, objective: str) -> PairLogps:
    return scored_logps(bench.folder, None, objective, bench.preferences.objectives[objective].eval)


def _is_given(bench: Bench, node: Node) -> bool:
    """Whether the stage was trained before, elsewhere."""
    return bench.start is not None and node.stage == 1


def stage_pairs(bench: Bench, node: Node) -> TrainingPairs:
    """What a stage trains on: its pairs, the reference's say of them and, for a control stage, labels of its own."""
    pairs = own_pairs(bench, node)
    if not node.placebo:
        return pairs
    keys = bench.keys_of(node)
    labels = np.random.default_rng([stage_seed(node), 1])  # another stream than that of the order of the pairs
    return with_own_labels(pairs, bench.train_logps(node.parent, node.objective, keys.ld_alpha), keys, labels)


def stage_seed(node: Node) -> int:
    """32 bits for LoRA initialisation, data order, dropout and a placebo's labels; its own for every node.

    All variants of a stage share it, so that what differs between them is what they do.
    """
    return int(content_hash(["stage", node.seed, node.path, node.placebo]), 16) % 2**32


def title(node: Node | None) -> str:
    """A node's name on the board."""
    return BASE if node is None else f"{node.checkpoint} (seed {node.seed})"


def notes(bench: Bench, node: Node | None) -> list[str]:
    """What a reader of a node's results has to know beforehand."""
    return [] if node is None else stage_notes(node, bench.preferences, bench.keys_of(node))


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
    keys = bench.keys_of(node)
    parent, given = bench.folder.adapter(node.parent), (bench.preferences, keys)
    heard = (bench.on_scored, bench.on_gradient)
    with trainable_policy(bench.base, keys, parent, stage_seed(node)) as start:
        forecasts = stage_forecast(start, node, stage_pairs(bench, node), *given, *heard)
    adapter = bench.folder.stage(node) / "adapter"
    return stage_kl_and_path(bench.base, node, adapter, scores, *given, bench.folder, forecasts, bench.on_scored)


def _on_step(bench: Bench, step: Step) -> None:
    bench.on_gradient(step.n_pairs)
    bench.trackers.step(step)
    bench.on_step(step)


def _write_node(bench: Bench, node: Node | None, scores: dict[str, PairLogps], details: dict[str, Any]) -> None:
    """The scores and, last, node.json, which makes the stage done."""
    path = bench.folder.stage(node)
    write_table(path / "scores.parquet", scores_of(scores, bench.preferences))
    write_sealed(path / NODE_FILE, _record(bench, node) | details | {"files": file_hashes(path)})


def _record(bench: Bench, node: Node | None) -> dict[str, Any]:
    """What both records of a stage say of it."""
    of_stage = {} if node is None else _of_stage(bench, node)
    identity = identity_of(node, bench.identity)
    made = {"identity": identity, "environment": bench.environment, "engine": bench.engine, "host": host_name()}
    return place_in_tree(node, bench.keys_of(node)) | of_stage | made


def _of_stage(bench: Bench, node: Node) -> dict[str, Any]:
    made_from = zip(MADE_FROM, needs(node, bench.variants), strict=False)
    return {
        "stage_seed": stage_seed(node),
        **{name: adapter_hash(bench.folder, other) for name, other in made_from},
        "n_train_pairs": len(pairs_of(node, bench.preferences)),
        "passes": learning_work(node, bench.preferences, bench.keys, bench.variants)._asdict(),
        "notes": stage_notes(node, bench.preferences, bench.keys_of(node)),
    }


def _since(began: float) -> float:
    return round(perf_counter() - began, 3)
