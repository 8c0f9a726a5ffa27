"""How much work each stage is, in pair-passes: the unit of the progress board, of `seqdpo plan` and of the bound on the
mechanism."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from seqdpo.measure.gradients import FEWEST_POINTS, SMALLEST_BATCH, TraceSize, blocks_of, prompt_halves, trace_size
from seqdpo.preferences.prepare import Preferences
from seqdpo.study.checkpoints import Node, reference_of
from seqdpo.study.keys import InputKeys, MechanismKeys, OptimiserKeys, StageKeys, TreeKeys, Variant
from seqdpo.study.losses import loss_of
from seqdpo.study.variants import laid_over, variant_at
from seqdpo.tables import PATH
from seqdpo.training.pairs import pairs_of
from seqdpo.training.stage import n_steps

#: A training pass reads a pair forward and backward; the weights are frozen, so the backward pass costs no more
#: than the forward one, and activation checkpointing adds a second forward pass.
FORWARD_COST = 1.0
TRAINING_COST = 2.0
CHECKPOINTED_TRAINING_COST = 3.0
#: Both checkpoints; a short step ahead and back; the places between the checkpoints and beyond, for the scores have
#: those at both ends.
KL_PASSES, FORECAST_PASSES, PATH_PASSES = 2, 2, len(PATH) - 2
#: Held-out pairs of an objective below which KL, forecast and path say too little to be worth their passes.
FEWEST_HELD_OUT = 10
#: Of a real stage so many control stages are traced: what gradients read where nothing is taught.
TRACED_CONTROLS = 1


class Work(NamedTuple):
    """Pairs that pass through the model for one node of the tree."""

    trained: int  # pairs x epochs
    scored: int  # pairs read without gradients: evaluation pairs, and references of the training pairs

    def units(self, keys: OptimiserKeys) -> float:
        """Relative cost; one unit is one pair read forward."""
        return self.trained * training_cost(keys) + self.scored * FORWARD_COST


class MechanismSize(NamedTuple):
    """How much of the mechanism of a stage is measured, within `mechanism_share` of its training passes."""

    trace: TraceSize
    n_held_out: int  # pairs of each objective for KL, forecast and path, and training pairs for the forecast
    notes: list[str]  # what is not measured, and why


def base_work(preferences: Preferences, keys: TreeKeys) -> Work:
    """The base scores every pair once: evaluation pairs, and the training pairs of the objectives in the tree."""
    trained = sum(len(preferences.objectives[name].train) for name in keys.trained_objectives())
    return Work(0, _eval_pairs(preferences) + trained)


def stage_work(node: Node, preferences: Preferences, keys: InputKeys) -> Work:
    """One stage: what learning takes, all evaluation pairs, and what its mechanism needs."""
    own = laid_over(keys, node, keys.variants)
    learning = learning_work(node, preferences, keys, keys.variants)
    mechanism = mechanism_work(node, preferences, own)
    return Work(learning.trained + mechanism.trained, _eval_pairs(preferences) + learning.scored + mechanism.scored)


def learning_work(node: Node, preferences: Preferences, keys: StageKeys, variants: Mapping[str, Variant]) -> Work:
    """Passes that make a stage's checkpoint: its training pairs, what its reference and labels need, and its remedy.

    `keys` are the study's. What the base makes of training pairs is known before.
    """
    variant, own = variant_at(node, variants), laid_over(keys, node, variants)
    if not variant.is_trained:
        return Work(0, 0)
    pairs = len(pairs_of(node, preferences))
    checkpoints = {reference_of(node, own.reference)} | ({node.parent} if node.placebo else set())
    references = sum(checkpoint is not None for checkpoint in checkpoints)
    trained, scored = pairs * own.num_train_epochs, references * pairs
    more = _remedy_work(node, preferences, keys, variants)
    return Work(trained + more.trained, scored + more.scored)


def _remedy_work(node: Node, preferences: Preferences, keys: StageKeys, variants: Mapping[str, Variant]) -> Work:
    """Beyond what a stage of as many steps takes anyhow."""
    variant, own = variant_at(node, variants), laid_over(keys, node, variants)
    if not variant.remembers:
        return Work(0, 0)
    earlier = [node.upto(stage) for stage in range(1, node.stage)]
    sizes = [len(pairs_of(one, preferences)) for one in earlier]
    trained, passes = 0, own.num_train_epochs * len(pairs_of(node, preferences))
    if variant.replay_added:
        trained += round(variant.replay * passes)
    if variant.ewc:
        trained += sum(min(variant.ewc_pairs, size) for size in sizes)
    if variant.project:
        trained += passes
    references = [reference_of(one, laid_over(keys, one, variants).reference) for one in earlier]
    scored = sum(size for size, of in zip(sizes, references, strict=True) if of is not None)
    return Work(trained, scored)


def mechanism_work(node: Node, preferences: Preferences, keys: MechanismKeys) -> Work:
    """What a stage's mechanism costs: the gradients of its trace; KL, forecast and, of a real stage, the path."""
    size = mechanism_size(node, preferences, keys)
    of_held_out = _held_out_work(node, preferences, size.n_held_out)
    traced = size.trace.gradient_pairs(node.stage - 1)
    references = traced * _reference_passes(keys)
    return Work(traced + of_held_out.trained, references + of_held_out.scored)


def mechanism_size(node: Node, preferences: Preferences, keys: MechanismKeys) -> MechanismSize:
    """What `mechanism_share` pays for: half of it for held-out pairs where there is a trace, to which the rest goes.

    A control stage reads the held-out pairs of the real stage beside it, and the first of them is traced as that is.
    There is no trace of a first stage, which has no earlier objective.
    """
    elsewhere = not pairs_of(node, preferences)  # trained before
    if elsewhere or not is_plain(node):
        return MechanismSize(TraceSize(0, 0, 0), 0, [])
    n_held_out, of_held_out = _held_out_size(node, preferences, keys)
    trace, of_trace = TraceSize(0, 0, 0), None
    if _may_be_traced(node, keys) and node.placebo <= TRACED_CONTROLS:
        real = Node(node.seed, node.path)
        left = _budget(node, preferences, keys) - _held_out_work(real, preferences, n_held_out).units(keys)
        trace, of_trace = _trace_size(node, preferences, keys, left)
    return MechanismSize(trace, n_held_out, [note for note in (of_held_out, of_trace) if note])


def is_plain(node: Node) -> bool:
    """Whether its mechanism is measured: one objective, with the study's own keys."""
    return not node.variant and len(node.objectives) == 1


def stage_notes(node: Node, preferences: Preferences, keys: MechanismKeys) -> list[str]:
    """What a reader of the stage's results has to know beforehand: what is not measured, and labels that do pull."""
    null_note = loss_of(keys).null_note
    of_labels = [f"no exact null of control stages: {null_note}"] if node.placebo and null_note else []
    return mechanism_size(node, preferences, keys).notes + of_labels


def _held_out_size(node: Node, preferences: Preferences, keys: MechanismKeys) -> tuple[int, str | None]:
    """Held-out pairs of each objective; what to say where these are none for want of passes."""
    one = len(preferences.objectives) * (KL_PASSES + FORECAST_PASSES + PATH_PASSES) * FORWARD_COST
    one += training_cost(keys)
    parts = 2 if _may_be_traced(node, keys) else 1
    affordable = int(_budget(node, preferences, keys) / parts // one)
    fewest = min(FEWEST_HELD_OUT, keys.mechanism_pairs)
    if affordable >= fewest:
        return min(affordable, keys.mechanism_pairs), None
    found = f"{affordable} held-out pairs an objective; expected at least {fewest}"
    return 0, _too_small("KL, forecast and path", found, fewest * one * parts, node, preferences, keys)


def _trace_size(
    node: Node, preferences: Preferences, keys: MechanismKeys, units: float
) -> tuple[TraceSize, str | None]:
    """The trace that so many units pay for; what to say where there is none."""
    one = training_cost(keys) + _reference_passes(keys) * FORWARD_COST
    affordable, smallest_block = int(units // one), _smallest_block(node, preferences)
    steps = n_steps(len(pairs_of(node, preferences)), keys)
    size = trace_size(keys, affordable, steps, node.stage - 1, smallest_block)
    if size.n_points:
        return size, None
    block = smallest_block(FEWEST_POINTS)
    if block < SMALLEST_BATCH or min(steps, keys.gradient_trace_points) < FEWEST_POINTS:
        return size, (
            f"no gradients: {block} held-out pairs in a third of half an objective, {steps} steps; expected at least "
            f"{SMALLEST_BATCH} pairs, and {FEWEST_POINTS} points"
        )
    fewest = TraceSize(FEWEST_POINTS, SMALLEST_BATCH, FEWEST_POINTS).gradient_pairs(node.stage - 1)
    found = f"{affordable} pairs; expected at least {fewest}"
    return size, _too_small("gradients", found, 2 * fewest * one, node, preferences, keys)


def _too_small(what: str, found: str, needed: float, node: Node, preferences: Preferences, keys: MechanismKeys) -> str:
    enough = math.ceil(100 * keys.mechanism_share * needed / _budget(node, preferences, keys)) / 100
    return f"no {what}: mechanism_share = {keys.mechanism_share:g} pays for {found}. {enough:g} would do"


def _budget(node: Node, preferences: Preferences, keys: MechanismKeys) -> float:
    """Units that the mechanism of a stage may take."""
    trained = len(pairs_of(node, preferences)) * keys.num_train_epochs
    return keys.mechanism_share * Work(trained, 0).units(keys)


def _may_be_traced(node: Node, keys: MechanismKeys) -> bool:
    """Of a control stage: the real one beside it."""
    return node.parent is not None and keys.gradient_trace_points > 0


def _held_out_work(node: Node, preferences: Preferences, n_held_out: int) -> Work:
    held_out = sum(min(len(objective.eval), n_held_out) for objective in preferences.objectives.values())
    places = 0 if node.placebo else PATH_PASSES
    trained = min(len(pairs_of(node, preferences)), n_held_out)
    return Work(trained, held_out * (KL_PASSES + FORECAST_PASSES + places))


def _smallest_block(node: Node, preferences: Preferences) -> Callable[[int], int]:
    """Pairs of the smallest block of held-out pairs among the stage's objective and those before it, by the number of
    blocks of each half."""
    halves = [
        (half, preferences.objectives[name].eval)
        for place, name in enumerate(node.path)
        for half in prompt_halves(preferences.objectives[name].eval, place, node.stage)
    ]
    return lambda n_blocks: min(len(block) for half in halves for block in blocks_of(*half, n_blocks))


def _reference_passes(keys: MechanismKeys) -> int:
    """Where the loss weighs tokens, scores do not have what the reference makes of a traced pair, nor what a control
    stage draws its label by."""
    return 0 if keys.ld_alpha is None else 2


def training_cost(keys: OptimiserKeys) -> float:
    """Of one pair that a stage trains on."""
    return CHECKPOINTED_TRAINING_COST if keys.gradient_checkpointing else TRAINING_COST


def _eval_pairs(preferences: Preferences) -> int:
    return sum(len(objective.eval) for objective in preferences.objectives.values())
