"""What a variant's stages do otherwise: the reference of their loss, hooks of their steps, or no training at all."""

from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from seqdpo.measure.scores import PairLogps
from seqdpo.policy.adapters import save_between
from seqdpo.runner.bench import Bench
from seqdpo.study.checkpoints import Node, reference_of
from seqdpo.study.keys import Variant
from seqdpo.study.variants import variant_at
from seqdpo.training.pairs import TrainingPairs, training_pairs
from seqdpo.training.projection import Projection
from seqdpo.training.pull import Pull, preference_fisher
from seqdpo.training.replay import Replay
from seqdpo.training.stage import StageHook


def own_pairs(bench: Bench, node: Node) -> TrainingPairs:
    """A stage's pairs with their own labels, and what the reference of its loss makes of them."""
    each = (
        training_pairs(bench.preferences.objectives[name].train, _reference_logps(bench, node, name))
        for name in node.objectives
    )
    return reduce(TrainingPairs.and_also, each)


def remedy_hooks(bench: Bench, node: Node, policy: PeftModel, variant: Variant, seed: int) -> list[StageHook]:
    """What a variant does to its steps; `policy` is at the stage's start."""
    return [*_hooks(bench, node, policy, variant, seed)]


def _hooks(bench: Bench, node: Node, policy: PeftModel, variant: Variant, seed: int) -> Iterator[StageHook]:
    if variant.remembers:
        earlier = [own_pairs(bench, node.upto(stage)) for stage in range(1, node.stage)]
        memory = reduce(TrainingPairs.and_also, earlier)
    if variant.replay:
        yield Replay(memory, variant.replay, variant.replay_added, seed)
    if variant.ewc or variant.l2_to_previous:
        parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        strengths = [torch.full_like(parameter, variant.l2_to_previous) for parameter in parameters]
        for pairs in earlier if variant.ewc else ():
            some = np.random.default_rng([seed, 5]).permutation(pairs.n_pairs)[: variant.ewc_pairs]
            fisher = preference_fisher(policy, pairs.take(some.tolist()), bench.keys_of(node), bench.on_gradient)
            strengths = [so_far + variant.ewc * own for so_far, own in zip(strengths, fisher, strict=True)]
        yield Pull(parameters, strengths)
    if variant.project:
        yield Projection(policy, memory, bench.keys_of(node), seed, bench.on_gradient)


def make_checkpoint(bench: Bench, node: Node, variant: Variant, folder: Path) -> None:
    """Writes the adapter of a stage that is not trained, from those of others."""
    previous, new = bench.folder.adapter(node.parent), bench.folder.adapter(node.plain)
    assert previous is not None and new is not None and variant.interpolate is not None
    save_between(previous, new, variant.interpolate, folder)


def _reference_logps(bench: Bench, node: Node, objective: str) -> PairLogps:
    """What the reference of a stage's loss makes of an objective's training pairs.

    With `spo` the constant of the loss is beta * m_previous + weight * beta * (m_previous - m_base), m the chosen less
    the rejected log-probability: what was learned before counts for a pair as a reward that is there already. The
    margin that MODPO subtracts (arXiv 2310.03708) is the same constant, scaled.
    Source: SPO (arXiv 2405.12739), its two-stage problem; the constant was worked out from it, not read there.
    """
    keys = bench.keys_of(node)
    reference = bench.train_logps(reference_of(node, keys.reference), objective, keys.ld_alpha)
    if keys.reference != "spo" or node.parent is None:
        return reference
    weight = variant_at(node, bench.variants).spo_weight
    base = bench.train_logps(None, objective, keys.ld_alpha)
    return PairLogps(*(own + weight * (own - of_base) for own, of_base in zip(reference, base, strict=True)))
