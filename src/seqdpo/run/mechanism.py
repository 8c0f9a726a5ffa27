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
from seqdpo.study.checkpoints import BASE, Node, reference_of
from seqdpo.study.config import Study
from seqdpo.study.tree import stage_tree
from seqdpo.tables import GRADIENTS_SCHEMA, KL_AND_PATH_SCHEMA, MOVEMENT_SCHEMA, NODE_COLUMNS
from seqdpo.training.loss import reference_offsets
from seqdpo.training.placebo import TrainingPairs
from seqdpo.training.stage import n_steps

#: Each stage's own tables of the mechanism, by the name of the file.
STAGE_TABLES = {"movement": MOVEMENT_SCHEMA, "gradients": GRADIENTS_SCHEMA, "kl_and_path": KL_AND_PATH_SCHEMA}
Progress = Callable[[int], None]


def size_of_trace(node: Node, preferences: Preferences, study: Study) -> TraceSize:
    """The trace of a stage; none of a first stage, which has no earlier objective, and none of a control stage."""
    if node.parent is None or node.placebo:
        return TraceSize(0, 0)
    trained = len(preferences.objectives[node.objective].train)
    smallest = min(len(half) for name in node.path for half in _halves(name, node, preferences))
    return trace_size(study, trained * study.num_train_epochs, n_steps(trained, study), node.stage - 1, smallest)


def gradient_trace(
    policy: PeftModel, node: Node, preferences: Preferences, study: Study, folder: RunFolder, progress: Progress
) -> GradientTrace | None:
    """The observer of a stage, on the held-out pairs of its objective and of those before it; None: nothing to trace.

    Every objective's loss is that of the stage that trains it, its reference included.
    """
    size = size_of_trace(node, preferences, study)
    if not size.n_points:
        return None
    of = {
        name: Halves(
            _with_offsets(preferences.objectives[name].eval, Node(node.seed, node.path[: k + 1]), study, folder),
            *_halves(name, node, preferences),
        )
        for k, name in enumerate(node.path)
    }
    current = of.pop(node.objective)
    steps = n_steps(len(preferences.objectives[node.objective].train), study)
    return GradientTrace(policy, current, of, study, size, steps, progress)


def stage_forecast(
    policy: PeftModel,
    training: TrainingPairs,
    preferences: Preferences,
    study: Study,
    on_scored: Progress,
    on_gradient: Progress,
) -> dict[str, PairLogps]:
    """What the stage's gradient at its start promises to held-out pairs; empty where the study asks for none."""
    some = _some(len(training.tokens), study)
    if not len(some):
        return {}
    part = TrainingPairs(
        [training.pair_ids[i] for i in some], [training.tokens[i] for i in some], training.offsets[some]
    )
    return forecast(policy, part, held_out(preferences, study), study, on_scored, on_gradient)


def stage_kl_and_path(
    base: PreTrainedModel,
    node: Node,
    adapter: Path,
    preferences: Preferences,
    study: Study,
    folder: RunFolder,
    forecasts: Mapping[str, PairLogps],
    progress: Progress,
) -> pa.Table:
    """KL_AND_PATH_SCHEMA between a stage's two checkpoints; no rows where the study asks for none."""
    if not study.mechanism_pairs:
        return KL_AND_PATH_SCHEMA.empty_table()
    pairs = held_out(preferences, study)
    parent = folder.adapter(node.parent)
    real = not node.placebo
    return kl_and_path_table(base, parent, adapter, pairs, study.tokens_per_batch, forecasts, real, progress)


def held_out(preferences: Preferences, study: Study) -> dict[str, HeldOut]:
    """The same pairs of every objective for all stages, drawn once."""
    found = {}
    for name, objective in preferences.objectives.items():
        pairs = [objective.eval[i] for i in _some(len(objective.eval), study)]
        found[name] = HeldOut([prepared.pair.pair_id for prepared in pairs], [prepared.tokens for prepared in pairs])
    return found


def run_table(folder: RunFolder, study: Study, name: str) -> pa.Table:
    """NODE_COLUMNS, then the columns of a table of STAGE_TABLES: every stage once, control stages among them."""
    return pa.concat_tables([_of_node(folder, node, name) for node in stage_tree(study)])


def _of_node(folder: RunFolder, node: Node, name: str) -> pa.Table:
    own = pq.read_table(folder.stage(node) / f"{name}.parquet")
    parent = BASE if node.parent is None else node.parent.checkpoint
    named = zip(NODE_COLUMNS, (node.seed, node.checkpoint, node.placebo, parent), strict=True)
    columns = {key: pa.repeat(pa.scalar(value, kind), own.num_rows) for (key, kind), value in named}
    return pa.table(columns | {key: own[key] for key in STAGE_TABLES[name].names})


def _some(n: int, study: Study) -> NDArray[np.int64]:
    """At most `mechanism_pairs` of n places, ascending; the same for every stage."""
    return np.sort(np.random.default_rng(0).permutation(n)[: study.mechanism_pairs])


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


def _with_offsets(pairs: list[PreparedPair], teacher: Node, study: Study, folder: RunFolder) -> TrainingPairs:
    """Held-out pairs with the offsets of the loss that `teacher` minimises."""
    scores = pq.read_table(folder.stage(reference_of(teacher, study.reference)) / "scores.parquet")
    own = scores.filter(pc.field("objective") == teacher.objective)
    assert own["pair_id"].to_pylist() == [prepared.pair.pair_id for prepared in pairs]
    return TrainingPairs(
        own["pair_id"].to_pylist(),
        [prepared.tokens for prepared in pairs],
        reference_offsets(own["chosen_logp"].to_numpy(), own["rejected_logp"].to_numpy(), study.beta),
    )
