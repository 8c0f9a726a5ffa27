"""The bench: model, preferences, engine and identity, made once for all stages that a worker runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from seqdpo.errors import RunError
from seqdpo.measure.movement import weight_norms
from seqdpo.measure.scores import PairLogps, objective_logps, sharing
from seqdpo.policy.adapters import loaded_adapter
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import load_model
from seqdpo.policy.quantised import description
from seqdpo.policy.trial import Trial, try_adapter
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.preferences.tokens import PairTokens
from seqdpo.runner.base_logps import BaseLogps
from seqdpo.runner.environment import environment
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.mechanism import scored_logps
from seqdpo.runner.trackers import StageTrackers
from seqdpo.runner.work import Work
from seqdpo.study.checkpoints import Node, checkpoint_of
from seqdpo.study.keys import NodeKeys, Variant
from seqdpo.study.variants import laid_over
from seqdpo.training.stage import Step

#: Hears of work done: its units, as those of `seqdpo.runner.work`, and the pairs that passed through the model.
Progress: TypeAlias = Callable[[float, int], None]
ObjectivePairs: TypeAlias = Mapping[str, Sequence[PreparedPair]]


@dataclass(slots=True)
class Bench:
    """All that a stage needs besides its place in the tree."""

    keys: NodeKeys  # the model's path resolved; of a variant's stages `keys_of`
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
    variants: Mapping[str, Variant] = field(default_factory=dict)
    start: Path | None = None  # the adapter that was trained before, and is taken for every first stage
    environment: dict[str, Any] = field(default_factory=environment)
    weight_norms: dict[str, float] = field(init=False)
    _train_logps: dict[tuple[Node | None, str, float | None], PairLogps] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weight_norms = weight_norms(self.base)

    def keys_of(self, node: Node | None) -> NodeKeys:
        """What a stage is trained with: the study's keys, and over them those of its variant."""
        return laid_over(self.keys, node, self.variants)

    def scored(
        self, policy: nn.Module, objectives: ObjectivePairs, node: Node, tail_weight: float | None = None
    ) -> dict[str, PairLogps]:
        """The log-probabilities of each objective's pairs under the policy of a stage's checkpoint; `tail_weight` as in
        `pair_logps`.

        Raises: RunError if one of them is not finite.
        """
        budget = self.keys.tokens_per_batch
        logps = objective_logps(policy, tokens_of(objectives), budget, self.on_scored, tail_weight)
        return all_finite(logps, objectives, checkpoint_of(node))

    def scored_by_base(self, objectives: ObjectivePairs, tail_weight: float | None = None) -> dict[str, PairLogps]:
        logps = self.base_logps.of(objectives, self.on_scored, tail_weight)
        return all_finite(logps, objectives, checkpoint_of(None))

    def train_logps(self, node: Node | None, objective: str, tail_weight: float | None = None) -> PairLogps:
        """What a checkpoint makes of an objective's training pairs, as the loss weighs tokens; computed once."""
        key = (node, objective, tail_weight)
        if key not in self._train_logps:
            pairs = {name: self.preferences.objectives[name].train for name in self._read_with(node, objective)}
            for name, logps in self._weighed(node, pairs, tail_weight).items():
                self._train_logps[node, name, tail_weight] = logps
        return self._train_logps[key]

    def _read_with(self, node: Node | None, objective: str) -> list[str]:
        """The objectives whose training pairs a checkpoint reads together with this one's.

        Every one is trained from the base, but few are from any other checkpoint.
        """
        if node is not None:
            return [objective]
        tokens = tokens_of({name: self.preferences.objectives[name].train for name in self.trained})
        return next(names for names in sharing(tokens, self.keys.ld_alpha) if objective in names)

    def held_out_logps(self, node: Node | None, objective: str, pairs: list[PreparedPair]) -> PairLogps:
        """The same of some evaluation pairs; the scores have them unless the loss weighs tokens."""
        if self.keys.ld_alpha is None:
            return scored_logps(self.folder, node, objective, pairs)
        return self._weighed(node, {objective: pairs}, self.keys.ld_alpha)[objective]

    def _weighed(
        self, node: Node | None, objectives: ObjectivePairs, tail_weight: float | None
    ) -> dict[str, PairLogps]:
        if node is None:
            return self.scored_by_base(objectives, tail_weight)
        with loaded_adapter(self.base, self.folder.adapter(node)) as policy:
            return self.scored(policy, objectives, node, tail_weight)

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
    variants: Mapping[str, Variant],
    start: Path | None = None,
) -> Bench:
    """Loads the base, finds the way in which it reads pairs, and tries the adapter on it.

    Raises: ConfigError for whatever is wrong with its weights, or where it cannot be trained as the keys say.
    """
    say(f"loading {keys.model_name_or_path}")
    base = load_model(keys)
    engine = choose_engine(base, preferences.longest, keys.lora_target_modules) + description(base)
    say(f"engine: {engine}")
    trial = try_adapter(base, keys, keys)
    for note in trial.notes:
        say(note)
    base_logps = BaseLogps(base, identity["model"], engine, keys.tokens_per_batch, say)
    given = (keys, folder, preferences, trained, identity, base, engine, trial, progress, say, base_logps)
    return Bench(*given, variants=variants, start=start)


def tokens_of(objectives: ObjectivePairs) -> dict[str, list[PairTokens]]:
    return {name: [pair.tokens for pair in pairs] for name, pairs in objectives.items()}


def all_finite(logps: dict[str, PairLogps], objectives: ObjectivePairs, checkpoint: str) -> dict[str, PairLogps]:
    """The log-probabilities as they are.

    Raises: RunError if one of them is not finite.
    """
    for name, pairs in objectives.items():
        _check_finite(logps[name], pairs, checkpoint)
    return logps


def _check_finite(logps: PairLogps, pairs: Sequence[PreparedPair], checkpoint: str) -> None:
    broken = np.flatnonzero(~np.isfinite(logps.difference))
    if len(broken):
        ids = ", ".join(pairs[i].pair.pair_id for i in broken[:8])
        raise RunError(
            f"checkpoint {checkpoint}: {len(broken)} of {len(pairs)} pairs have a log-probability that is not finite "
            f"({ids}); expected finite numbers. Check the weights, or use dtype: float32."
        )
