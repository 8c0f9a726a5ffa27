"""How much work each stage is, in pair-passes: the unit of the progress board and of `seqdpo plan`."""

from collections.abc import Sequence
from typing import NamedTuple

from seqdpo.preferences.prepare import Preferences
from seqdpo.run.mechanism import size_of_trace
from seqdpo.study.checkpoints import Node, reference_of
from seqdpo.study.keys import NodeKeys, OptimiserKeys
from seqdpo.tables import PATH

#: A training pass reads a pair forward and backward; the weights are frozen, so the backward pass costs no more
#: than the forward one, and activation checkpointing adds a second forward pass.
FORWARD_COST = 1.0
TRAINING_COST = 2.0
CHECKPOINTED_TRAINING_COST = 3.0
#: Both checkpoints, and a short step ahead and back.
KL_PASSES, FORECAST_PASSES = 2, 2


class Work(NamedTuple):
    """Pairs that pass through the model for one node of the tree."""

    trained: int  # pairs x epochs
    scored: int  # pairs read without gradients: evaluation pairs, and references of the training pairs

    def units(self, keys: OptimiserKeys) -> float:
        """Relative cost; one unit is one pair read forward."""
        training = CHECKPOINTED_TRAINING_COST if keys.gradient_checkpointing else TRAINING_COST
        return self.trained * training + self.scored * FORWARD_COST


def base_work(preferences: Preferences, trained: Sequence[str]) -> Work:
    """The base scores every pair once: evaluation pairs, and the training pairs of the objectives in the tree."""
    references = sum(len(preferences.objectives[name].train) for name in trained)
    return Work(0, _eval_pairs(preferences) + references)


def mechanism_work(node: Node, preferences: Preferences, keys: NodeKeys) -> Work:
    """What a stage's mechanism costs: the gradients of its trace; KL, forecast and, of a real stage, the path."""
    traced = size_of_trace(node, preferences, keys).gradient_pairs(node.stage - 1)
    held_out = sum(min(len(objective.eval), keys.mechanism_pairs) for objective in preferences.objectives.values())
    trained = min(len(preferences.objectives[node.objective].train), keys.mechanism_pairs)
    places = 0 if node.placebo else len(PATH)
    return Work(traced + trained, held_out * (KL_PASSES + FORECAST_PASSES + places))


def stage_work(node: Node, preferences: Preferences, keys: NodeKeys) -> Work:
    """One stage: its training pairs, all evaluation pairs, and what its reference, labels and mechanism need."""
    pairs = len(preferences.objectives[node.objective].train)
    checkpoints = {reference_of(node, keys.reference)} | ({node.parent} if node.placebo else set())
    references = sum(checkpoint is not None for checkpoint in checkpoints)
    mechanism = mechanism_work(node, preferences, keys)
    trained = pairs * keys.num_train_epochs + mechanism.trained
    return Work(trained, _eval_pairs(preferences) + references * pairs + mechanism.scored)


def _eval_pairs(preferences: Preferences) -> int:
    return sum(len(objective.eval) for objective in preferences.objectives.values())
