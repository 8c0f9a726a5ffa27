"""What a run measures of a stage beside its scores: on which pairs, against which reference, and all stages' tables."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel

from seqdpo.measure.forecast import forecast
from seqdpo.measure.gradients import GradientTrace, Halves, TraceSize, trace_size
from seqdpo.measure.kl_and_path import HeldOut, kl_and_path_table
from seqdpo.measure.scores import PairLogps
from seqdpo.preferences.pairs import content_hash
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.run.folder import RunFolder
from seqdpo.study.checkpoints import Node, reference_of
from seqdpo.study.keys import NodeKeys
from seqdpo.tables import KL_AND_PATH_SCHEMA
from seqdpo.training.loss import reference_offsets
from seqdpo.training.placebo import TrainingPairs
from seqdpo.training.stage import n_steps

Progress = Callable[[int], None]


def size_of_trace(node: Node, preferences: Preferences, keys: NodeKeys) -> TraceSize:
    """The trace of a stage; none of a first stage, which has no earlier objective, and none of a control stage."""
    if node.parent is None or node.placebo:
        return TraceSize(0, 0)
    trained = len(preferences.objectives[node.objective].train)
    smallest = min(len(half) for name in node.path for half in _halves(name, node, preferences))
    return trace_size(keys, trained * keys.num_train_epochs, n_steps(trained, keys), node.stage - 1, smallest)


def gradient_trace(
    policy: PeftModel, node: Node, preferences: Preferences, keys: NodeKeys, folder: RunFolder, progress: Progress
) -> GradientTrace | None:
    """The observer of a stage, on the held-out pairs of its objective and of those before it; None: nothing to trace.

    Every objective's loss is that of the stage that trains it, its reference included.
    """
    size = size_of_trace(node, preferences, keys)
    if not size.n_points:
        return None
    of = {
        name: Halves(
            _with_offsets(preferences.objectives[name].eval, Node(node.seed, node.path[: k + 1]), keys, folder),
            *_halves(name, node, preferences),
        )
        for k, name in enumerate(node.path)
    }
    current = of.pop(node.objective)
    steps = n_steps(len(preferences.objectives[node.objective].train), keys)
    return GradientTrace(policy, current, of, keys, size, steps, progress)


def stage_forecast(
    policy: PeftModel,
    training: TrainingPairs,
    preferences: Preferences,
    keys: NodeKeys,
    on_scored: Progress,
    on_gradient: Progress,
) -> dict[str, PairLogps]:
    """What the stage's gradient at its start promises to held-out pairs; empty where the study asks for none."""
    some = _some(len(training.tokens), keys)
    if not len(some):
        return {}
    part = TrainingPairs(
        [training.pair_ids[i] for i in some], [training.tokens[i] for i in some], training.offsets[some]
    )
    return forecast(policy, part, held_out(preferences, keys), keys, on_scored, on_gradient)


def stage_kl_and_path(
    base: PreTrainedModel,
    node: Node,
    adapter: Path,
    preferences: Preferences,
    keys: NodeKeys,
    folder: RunFolder,
    forecasts: Mapping[str, PairLogps],
    progress: Progress,
) -> pa.Table:
    """KL_AND_PATH_SCHEMA between a stage's two checkpoints; no rows where the study asks for none."""
    if not keys.mechanism_pairs:
        return KL_AND_PATH_SCHEMA.empty_table()
    pairs = held_out(preferences, keys)
    parent = folder.adapter(node.parent)
    real = not node.placebo
    return kl_and_path_table(base, parent, adapter, pairs, keys.tokens_per_batch, forecasts, real, progress)


def held_out(preferences: Preferences, keys: NodeKeys) -> dict[str, HeldOut]:
    """The same pairs of every objective for all stages, drawn once."""
    found = {}
    for name, objective in preferences.objectives.items():
        pairs = [objective.eval[i] for i in _some(len(objective.eval), keys)]
        found[name] = HeldOut([prepared.pair.pair_id for prepared in pairs], [prepared.tokens for prepared in pairs])
    return found


def _some(n: int, keys: NodeKeys) -> NDArray[np.int64]:
    """At most `mechanism_pairs` of n places, ascending; the same for every stage."""
    return np.sort(np.random.default_rng(0).permutation(n)[: keys.mechanism_pairs])


def _halves(name: str, node: Node, preferences: Preferences) -> tuple[list[int], list[int]]:
    """Two halves of an objective's held-out pairs that share no prompt with each other or another objective's halves.

    The prompts are parted by their hash: objectives may label the same pairs, and noise that two gradients share would
    pass for an angle between them.
    """
    place = 2 * node.path.index(name)
    halves: tuple[list[int], list[int]] = [], []
    for i, prepared in enumerate(preferences.objectives[name].eval):
        part = int(content_hash(["half", prepared.pair.prompt_id]), 16) % (2 * node.stage)
        if part in (place, place + 1):
            halves[part - place].append(i)
    return halves


def _with_offsets(pairs: list[PreparedPair], teacher: Node, keys: NodeKeys, folder: RunFolder) -> TrainingPairs:
    """Held-out pairs with the offsets of the loss that `teacher` minimises."""
    scores = pq.read_table(folder.stage(reference_of(teacher, keys.reference)) / "scores.parquet")
    own = scores.filter(pc.field("objective") == teacher.objective)
    assert own["pair_id"].to_pylist() == [prepared.pair.pair_id for prepared in pairs]
    return TrainingPairs(
        own["pair_id"].to_pylist(),
        [prepared.tokens for prepared in pairs],
        reference_offsets(own["chosen_logp"].to_numpy(), own["rejected_logp"].to_numpy(), keys.beta),
    )
