"""The bench: model, preferences, engine and identity, made once for all stages that a worker runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from seqdpo.errors import RunError
from seqdpo.measure.movement import weight_norms
from seqdpo.measure.scores import PairLogps, pair_logps
from seqdpo.policy.adapters import loaded_adapter
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import load_model
from seqdpo.policy.trial import Trial, try_adapter
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.runner.base_logps import BaseLogps
from seqdpo.runner.environment import environment
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.mechanism import scored_logps
from seqdpo.runner.trackers import StageTrackers
from seqdpo.runner.work import Work
from seqdpo.study.checkpoints import Node, checkpoint_of
from seqdpo.study.keys import NodeKeys
from seqdpo.training.stage import Step

#: Hears of work done: its units, as those of `seqdpo.runner.work`, and the pairs that passed through the model.
Progress: TypeAlias = Callable[[float, int], None]


@dataclass(slots=True)
class Bench:
    """All that a stage needs besides its place in the tree."""

    keys: NodeKeys  # the model's path resolved
    folder: RunFolder
    preferences: Preferences
    trained: Sequence[str]  # the objectives that some stage trains
    identity: dict[str, Any]
    base: PreTrainedModel
    engine: str  # what `choose_engine` said
    trial: Trial  # of the adapter
    progress: Progress
    say: Callable[[str], None]
    base_logps: BaseLogps
    trackers: StageTrackers = field(default_factory=StageTrackers)  # of the stage that runs
    on_step: Callable[[Step], None] = field(default=lambda step: None)  # hears of every step of the stage that runs
    start: Path | None = None  # the adapter that was trained before, and is taken for every first stage
    environment: dict[str, Any] = field(default_factory=environment)
    weight_norms: dict[str, float] = field(init=False)
    _train_logps: dict[tuple[Node | None, str], PairLogps] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weight_norms = weight_norms(self.base)

    def scored(
        self, policy: nn.Module, pairs: list[PreparedPair], node: Node, tail_weight: float | None = None
    ) -> PairLogps:
        """The log-probabilities of pairs under the policy of a stage's checkpoint; `tail_weight` as in `pair_logps`.

        Raises: RunError if one of them is not finite.
        """
        tokens, budget = [pair.tokens for pair in pairs], self.keys.tokens_per_batch
        return finite(pair_logps(policy, tokens, budget, self.on_scored, tail_weight), pairs, checkpoint_of(node))

    def scored_by_base(self, pairs: list[PreparedPair], tail_weight: float | None = None) -> PairLogps:
        return finite(self.base_logps.of(pairs, self.on_scored, tail_weight), pairs, checkpoint_of(None))

    def train_logps(self, node: Node | None, objective: str) -> PairLogps:
        """What a checkpoint makes of an objective's training pairs, as the loss weighs tokens; computed once."""
        if (node, objective) not in self._train_logps:
            self._train_logps[node, objective] = self._weighed(node, self.preferences.objectives[objective].train)
        return self._train_logps[node, objective]

    def held_out_logps(self, node: Node | None, objective: str, pairs: list[PreparedPair]) -> PairLogps:
        """The same of some evaluation pairs; the scores have them unless the loss weighs tokens."""
        if self.keys.ld_alpha is None:
            return scored_logps(self.folder, node, objective, pairs)
        return self._weighed(node, pairs)

    def _weighed(self, node: Node | None, pairs: list[PreparedPair]) -> PairLogps:
        if node is None:
            return self.scored_by_base(pairs, self.keys.ld_alpha)
        with loaded_adapter(self.base, self.folder.adapter(node)) as policy:
            return self.scored(policy, pairs, node, self.keys.ld_alpha)

    def on_scored(self, n_pairs: int) -> None:
        """Pairs were read without gradients."""
        self.progress(n_pairs, n_pairs)

    def on_gradient(self, n_pairs: int) -> None:
        """Pairs were read forward and backward."""
        self.progress(Work(n_pairs, 0).units(self.keys), n_pairs)


def make_bench(
    keys: NodeKeys,
    folder: RunFolder,
    preferences: Preferences,
    trained: Sequence[str],
    identity: dict[str, Any],
    progress: Progress,
    say: Callable[[str], None],
    start: Path | None = None,
) -> Bench:
    """Loads the base, finds the way in which it reads pairs, and tries the adapter on it.

    Raises: ConfigError for whatever is wrong with its weights, or where it cannot be trained as the keys say.
    """
    say(f"loading {keys.model_name_or_path}")
    base = load_model(keys)
    engine = choose_engine(base, preferences.longest, keys.lora_target_modules)
    say(f"engine: {engine}")
    trial = try_adapter(base, keys, keys)
    for note in trial.notes:
        say(note)
    base_logps = BaseLogps(base, identity["model"], engine, keys.tokens_per_batch, say)
    return Bench(
        keys, folder, preferences, trained, identity, base, engine, trial, progress, say, base_logps, start=start
    )


def finite(logps: PairLogps, pairs: list[PreparedPair], checkpoint: str) -> PairLogps:
    """The log-probabilities as they are.

    Raises: RunError if one of them is not finite.
    """
    broken = np.flatnonzero(~np.isfinite(logps.difference))
    if len(broken):
        ids = ", ".join(pairs[i].pair.pair_id for i in broken[:8])
        raise RunError(
            f"checkpoint {checkpoint}: {len(broken)} of {len(pairs)} pairs have a log-probability that is not finite "
            f"({ids}); expected finite numbers. Check the weights, or use dtype: float32."
        )
    return logps
