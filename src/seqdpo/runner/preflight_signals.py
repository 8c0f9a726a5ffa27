"""What is measured before a stage trains: from its parent's checkpoint and the new pairs, at a share of its cost.

Nothing of the stage itself is read: its checkpoint may be there, as of a run that is looked at again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqdpo.analysis.estimates import Clusters
from seqdpo.analysis.label_pull import numbered
from seqdpo.analysis.margins import Column
from seqdpo.analysis.preflight import Earlier, NewPairs, Signals
from seqdpo.measure.forecast import forecast
from seqdpo.measure.kl_and_path import HeldOut
from seqdpo.measure.scores import PairLogps, pair_logps
from seqdpo.policy.adapters import loaded_adapter, trainable_policy
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.preferences.table import pairs_table
from seqdpo.runner.bench import Bench
from seqdpo.runner.mechanism import scored_logps
from seqdpo.runner.stage import stage_seed
from seqdpo.runner.work import FORWARD_COST, training_cost
from seqdpo.study.checkpoints import Node, reference_of
from seqdpo.study.keys import OptimiserKeys
from seqdpo.training.pairs import Logps, training_pairs
from seqdpo.training.placebo import with_own_labels
from seqdpo.training.stage import n_steps, train_stage

#: Control stages of the probe: with two it can be said how much they differ by themselves.
N_CONTROLS = 2
#: The real short stage and its control stages take at most this share of the stage's steps together.
MOST_PROBED = 0.1
#: Parts of a preflight's passes: labels, gradient, held-out pairs; the probe has the rest.
LABELS, GRADIENT, HELD_OUT = 0.1, 0.15, 0.25
FEWEST_LABELS, FEWEST_HELD_OUT, FEWEST_GRADIENT_PAIRS = 16, 10, 8
MOST_LABELS, MOST_HELD_OUT, MOST_GRADIENT_PAIRS = 2000, 500, 1000


class PreflightSize(NamedTuple):
    """How much of a stage is looked at before it trains."""

    labels: int  # of its pairs, whose labels are held against the policy
    gradient: int  # of its pairs, whose mean gradient is taken
    held_out: int  # pairs of each earlier objective that are forecast and probed
    steps: int  # of the probe and of each of its control stages; 0: no probe
    units: float  # passes forward; one forward and backward costs two or three
    share: float  # of the stage's training passes


def preflight_size(n_pairs: int, n_earlier: int, n_held_out: int, keys: OptimiserKeys, share: float) -> PreflightSize:
    """What `share` of a stage's training passes pays for; never less than the fewest of each but the probe.

    `n_pairs` the stage trains on, `n_held_out` the most that an earlier objective has.
    """
    one = training_cost(keys)
    stage = n_pairs * keys.num_train_epochs * one
    budget = share * stage
    a_label = 2 * FORWARD_COST  # by the base and by the policy
    pulled = one + FORWARD_COST  # by the reference, too
    a_held_out = n_earlier * FORWARD_COST  # once under one policy
    n_stages = 1 + N_CONTROLS
    labels = _between(LABELS * budget / a_label, FEWEST_LABELS, min(MOST_LABELS, n_pairs))
    gradient = _between(GRADIENT * budget / pulled, FEWEST_GRADIENT_PAIRS, min(MOST_GRADIENT_PAIRS, n_pairs))
    affordable = HELD_OUT * budget / ((2 + n_stages) * a_held_out)
    held_out = _between(affordable, FEWEST_HELD_OUT, min(MOST_HELD_OUT, n_held_out))
    spent = labels * a_label + gradient * pulled + 2 * held_out * a_held_out
    of_probe = n_stages * held_out * a_held_out
    a_step = keys.pairs_per_step * (n_stages * one + 2 * FORWARD_COST)  # the reference, and labels of control stages
    most = math.floor(MOST_PROBED * n_steps(n_pairs, keys) / (1 + N_CONTROLS))
    steps = min(math.floor((budget - spent - of_probe) / a_step), most)
    if steps >= 1:
        spent += of_probe + steps * a_step
    return PreflightSize(labels, gradient, held_out, max(steps, 0), spent, spent / stage)


def signals(bench: Bench, node: Node, size: PreflightSize) -> Signals:
    """All that a preflight knows of a later stage; its parent must be done."""
    prepared = bench.preferences.objectives[node.objective].train
    shuffled = np.random.default_rng([stage_seed(node), 3]).permutation(len(prepared)).tolist()
    labels = [prepared[i] for i in sorted(shuffled[: size.labels])]
    probed = [prepared[i] for i in shuffled[: size.steps * bench.keys.pairs_per_step]]
    # from the other end: other pairs than the probe's, where there are enough
    pulled = [prepared[i] for i in shuffled[-size.gradient :]]
    earlier = {name: some_held_out(bench.preferences, name, size.held_out) for name in node.path[:-1]}
    foretold = _forecasts(bench, node, pulled, earlier)
    probes = _probes(bench, node, probed, earlier) if probed else []
    return Signals(
        new=_new_pairs(bench, node, labels),
        new_held_out=_margins(bench, node.parent, node.objective),
        new_held_out_clusters=_clusters(bench.preferences.objectives[node.objective].eval),
        earlier={
            name: Earlier(
                margins=_margins(bench, node.parent, name),
                clusters=_clusters(bench.preferences.objectives[name].eval),
                read=np.array(some),
                forecast=foretold[name].difference if foretold else None,
                probes=[_against_base(bench, name, some, probe[name]) for probe in probes],
            )
            for name, some in earlier.items()
        },
    )


def some_held_out(preferences: Preferences, objective: str, n: int) -> list[int]:
    """At most so many places among an objective's held-out pairs, ascending; the same for every stage."""
    found: NDArray[np.int64] = np.random.default_rng(0).permutation(len(preferences.objectives[objective].eval))[:n]
    return np.sort(found).tolist()


def _forecasts(
    bench: Bench, node: Node, pulled: Sequence[PreparedPair], earlier: Mapping[str, Sequence[int]]
) -> dict[str, PairLogps]:
    """What the mean gradient of some pairs promises to held-out pairs of earlier objectives."""
    pairs, keys = training_pairs(pulled, _logps(bench, reference_of(node, bench.keys.reference), pulled)), bench.keys
    held_out = {name: _held_out(bench, name, some) for name, some in earlier.items()}
    with trainable_policy(bench.base, keys, bench.folder.adapter(node.parent), stage_seed(node)) as policy:
        return forecast(policy, pairs, held_out, keys, bench.on_scored, bench.on_gradient)


def _probes(
    bench: Bench, node: Node, probed: Sequence[PreparedPair], earlier: Mapping[str, Sequence[int]]
) -> list[dict[str, PairLogps]]:
    """A short stage and its control stages at the stage's full learning rate; of each, the earlier objectives' scores.

    The rate is constant and without warm-up, so that few steps go as far as they can.
    """
    keys = bench.keys.model_copy(
        update={"lr_scheduler_type": "constant", "warmup_ratio": 0.0, "warmup_steps": 0, "num_train_epochs": 1}
    )
    seed, parent = stage_seed(node), bench.folder.adapter(node.parent)
    pairs = training_pairs(probed, _logps(bench, reference_of(node, keys.reference), probed))
    at_start = _logps(bench, node.parent, probed)
    held_out = {name: _held_out(bench, name, some) for name, some in earlier.items()}
    found = []
    for control in range(N_CONTROLS + 1):
        labels = np.random.default_rng([seed, 4, control])
        own = with_own_labels(pairs, at_start, keys, labels) if control else pairs
        with trainable_policy(bench.base, keys, parent, seed) as policy:
            train_stage(policy, own, keys, seed, lambda step: bench.on_gradient(step.n_pairs))
            found.append(
                {
                    name: pair_logps(policy, of.tokens, keys.tokens_per_batch, bench.on_scored)
                    for name, of in held_out.items()
                }
            )
    return found


def _logps(bench: Bench, node: Node | None, some: Sequence[PreparedPair]) -> Logps:
    """What a checkpoint makes of some training pairs, as the loss weighs tokens."""
    if node is None:
        return bench.scored_by_base(list(some), bench.keys.ld_alpha)
    with loaded_adapter(bench.base, bench.folder.adapter(node)) as policy:
        return bench.scored(policy, list(some), node, bench.keys.ld_alpha)


def _new_pairs(bench: Bench, node: Node, some: Sequence[PreparedPair]) -> NewPairs:
    """Margins of some of the pairs that the stage will train on, under its start."""
    with loaded_adapter(bench.base, bench.folder.adapter(node.parent)) as policy:
        current = bench.scored(policy, list(some), node)
    margins = current.difference - bench.scored_by_base(list(some)).difference
    objective = bench.preferences.objectives[node.objective]
    only = replace(objective, train=list(some), eval=[])
    metadata = pairs_table(Preferences({node.objective: only}, {}, None))
    return NewPairs(margins, _clusters(some), metadata)


def _margins(bench: Bench, node: Node | None, objective: str) -> Column:
    """Of all held-out pairs of an objective under a finished checkpoint."""
    pairs = bench.preferences.objectives[objective].eval
    return scored_logps(bench.folder, node, objective, pairs).difference - _of_base(bench, objective, pairs)


def _against_base(bench: Bench, objective: str, some: Sequence[int], logps: PairLogps) -> Column:
    pairs = [bench.preferences.objectives[objective].eval[i] for i in some]
    return logps.difference - _of_base(bench, objective, pairs)


def _of_base(bench: Bench, objective: str, pairs: Sequence[PreparedPair]) -> Column:
    return scored_logps(bench.folder, None, objective, pairs).difference


def _held_out(bench: Bench, objective: str, some: Sequence[int]) -> HeldOut:
    pairs = [bench.preferences.objectives[objective].eval[i] for i in some]
    return HeldOut([one.pair.pair_id for one in pairs], [one.tokens for one in pairs])


def _clusters(pairs: Sequence[PreparedPair]) -> Clusters:
    return numbered([one.pair.prompt_id for one in pairs])


def _between(value: float, fewest: int, most: int) -> int:
    return min(max(int(value), fewest), most)
