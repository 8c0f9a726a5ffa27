"""What a run measures of a stage beside its scores: on which pairs, and against which reference."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel

from seqdpo.files import read_table
from seqdpo.measure.forecast import forecast
from seqdpo.measure.gradients import GradientTrace, Halves, blocks_of, prompt_halves
from seqdpo.measure.kl_and_path import Ends, HeldOut, kl_and_path_table
from seqdpo.measure.scores import PairLogps
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.work import mechanism_size
from seqdpo.study.checkpoints import Node, reference_of
from seqdpo.study.keys import MechanismKeys
from seqdpo.tables import KL_AND_PATH_SCHEMA
from seqdpo.training.pairs import TrainingPairs, pairs_of, training_pairs
from seqdpo.training.placebo import with_own_labels
from seqdpo.training.stage import n_steps

Progress: TypeAlias = Callable[[int], None]
#: What a checkpoint (None: the base) makes of some evaluation pairs of an objective, as the loss weighs tokens.
ReferenceLogps: TypeAlias = Callable[[Node | None, str, list[PreparedPair]], PairLogps]
TraceHalves: TypeAlias = dict[str, Halves]  # by objective, in the order in which they are trained


def trace_halves(
    node: Node, preferences: Preferences, keys: MechanismKeys, reference: ReferenceLogps, labels: np.random.Generator
) -> TraceHalves:
    """The held-out pairs of a stage's objective and of those before it that its trace reads, each with the reference of
    the stage that trains it; none where no trace is made.

    A control stage's own objective has labels of its own here, too: its cosines are those of no relation.
    """
    size = mechanism_size(node, preferences, keys).trace
    found = {}
    for place, name in enumerate(node.path if size.n_points else ()):
        prepared = preferences.objectives[name].eval
        turns = -(-size.n_points // size.n_blocks)
        first, second = (
            [block[: turns * size.n_pairs] for block in blocks_of(half, prepared, size.n_blocks)]
            for half in prompt_halves(prepared, place, node.stage)
        )
        read = [prepared[i] for block in (*first, *second) for i in block]
        teacher = Node(node.seed, node.path[: place + 1])
        pairs = training_pairs(read, reference(reference_of(teacher, keys.reference), name, read))
        if node.placebo and name == node.objective:
            pairs = with_own_labels(pairs, reference(node.parent, name, read), keys, labels)
        places = iter(range(len(read)))
        found[name] = Halves(pairs, *([[next(places) for _ in block] for block in half] for half in (first, second)))
    return found


def gradient_trace(
    policy: PeftModel,
    node: Node,
    of: TraceHalves,
    preferences: Preferences,
    keys: MechanismKeys,
    progress: Progress,
) -> GradientTrace | None:
    """The hook of a stage that compares gradients; None: nothing to trace."""
    if not of:
        return None
    earlier = {name: halves for name, halves in of.items() if name != node.objective}
    size = mechanism_size(node, preferences, keys).trace
    steps = n_steps(len(pairs_of(node, preferences)), keys)
    return GradientTrace(policy, of[node.objective], earlier, keys, size, steps, progress)


def stage_forecast(
    policy: PeftModel,
    node: Node,
    training: TrainingPairs,
    preferences: Preferences,
    keys: MechanismKeys,
    on_scored: Progress,
    on_gradient: Progress,
) -> dict[str, PairLogps]:
    """What the stage's gradient at its start promises to held-out pairs; empty where the study asks for none."""
    n = mechanism_size(node, preferences, keys).n_held_out
    if not n:
        return {}
    some = training.take(_some(training.n_pairs, n).tolist())
    return forecast(policy, some, held_out(preferences, n), keys, on_scored, on_gradient)


def stage_kl_and_path(
    base: PreTrainedModel,
    node: Node,
    adapter: Path,
    scores: Mapping[str, PairLogps],
    preferences: Preferences,
    keys: MechanismKeys,
    folder: RunFolder,
    forecasts: Mapping[str, PairLogps],
    progress: Progress,
) -> pa.Table:
    """KL_AND_PATH_SCHEMA between a stage's two checkpoints; no rows where nothing is measured.

    `scores` are those of the new checkpoint, of all evaluation pairs: with the parent's they are the path's ends.
    """
    n = mechanism_size(node, preferences, keys).n_held_out
    if not n:
        return KL_AND_PATH_SCHEMA.empty_table()
    ends = {}
    for name, objective in preferences.objectives.items():
        where = _some(len(objective.eval), n)
        before = scored_logps(folder, node.parent, name, [objective.eval[i] for i in where])
        ends[name] = Ends(before, PairLogps(scores[name].chosen[where], scores[name].rejected[where]))
    return kl_and_path_table(
        base,
        folder.adapter(node.parent),
        adapter,
        held_out(preferences, n),
        keys.tokens_per_batch,
        forecasts,
        not node.placebo,
        ends,
        progress,
    )


def held_out(preferences: Preferences, n: int) -> dict[str, HeldOut]:
    """At most n pairs of every objective; those of a smaller n are among those of a larger one."""
    found = {}
    for name, objective in preferences.objectives.items():
        pairs = [objective.eval[i] for i in _some(len(objective.eval), n)]
        found[name] = HeldOut([prepared.pair.pair_id for prepared in pairs], [prepared.tokens for prepared in pairs])
    return found


def scored_logps(folder: RunFolder, node: Node | None, objective: str, prepared: Sequence[PreparedPair]) -> PairLogps:
    """What a finished checkpoint makes of some evaluation pairs of an objective, from its own table."""
    scores = read_table(folder.stage(node) / "scores.parquet")
    own = scores.filter(pc.field("objective") == objective)
    rows = pc.index_in(pa.array([one.pair.pair_id for one in prepared]), value_set=own["pair_id"].combine_chunks())
    assert not rows.null_count
    own = own.take(rows)
    return PairLogps(own["chosen_logp"].to_numpy(), own["rejected_logp"].to_numpy())


def _some(n: int, at_most: int) -> NDArray[np.int64]:
    """At most so many of n places, ascending; the same for every stage."""
    return np.sort(np.random.default_rng(0).permutation(n)[:at_most])
