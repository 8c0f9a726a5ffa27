"""What a study will cost, before anything is run: pairs, tokens, parameters, memory and time."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

import torch

from seqdpo.policy.batches import default_tokens
from seqdpo.policy.load import ParameterCount, count_parameters, device, load_config
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.runner.schedule import Frontier
from seqdpo.runner.work import Work, base_work, mechanism_work, stage_notes, stage_work
from seqdpo.study.checkpoints import Node
from seqdpo.study.keys import InputKeys, Variant
from seqdpo.study.tree import stage_tree
from seqdpo.study.variants import laid_over, variant_at
from seqdpo.training.pairs import pairs_of
from seqdpo.training.stage import n_steps

#: The share of the measured matrix-multiplication rate that a pass reaches; a rough assumption, and said so.
ASSUMED_EFFICIENCY = 0.4
ADAM_BYTES = 16  # an adapter weight, its gradient and two moments, all float32
#: Numbers of workers for which a plan says how long a study takes.
WORKERS = (2, 4, 8, 16)
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One node of the tree; `node` None is the base."""

    node: Node | None
    work: Work
    steps: int
    tokens: int  # that pass through the model, a pair's prompt once
    seconds: float
    scoring_seconds: float  # of these, for the evaluation pairs
    mechanism_seconds: float  # and for gradients, KL, forecast and path
    notes: list[str]  # what will not be measured, and control stages whose labels pull


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole study; times and memory are estimates."""

    parameters: ParameterCount
    stages: list[StagePlan]
    flops_per_second: float  # measured on this machine's matrix multiplication
    memory_bytes: int
    variants: Mapping[str, Variant] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def makespan(self, workers: int) -> float:
        """Seconds until so many workers, of which each is as fast as this machine, have run the tree.

        A stage begins as soon as its parent is done and a worker is free, as executors do it.
        """
        running: list[tuple[float, int]] = []  # when it ends, and its place among the stages
        places = {stage.node: place for place, stage in enumerate(self.stages)}
        frontier, now = Frontier(list(places), self.variants), 0.0
        while True:
            for node in frontier.take(workers - len(running)):
                heappush(running, (now + self.stages[places[node]].seconds, places[node]))
            if not running:
                return now
            now, ended = heappop(running)
            frontier.done(self.stages[ended].node)

    @property
    def mechanism_seconds(self) -> float:
        """Of the real stages; with those of the control stages, and the rest, they are all."""
        return sum(
            stage.mechanism_seconds for stage in self.stages if stage.node is not None and not stage.node.placebo
        )

    @property
    def scoring_seconds(self) -> float:
        return sum(stage.scoring_seconds for stage in self.stages)

    @property
    def placebo_seconds(self) -> float:
        """Of the control stages, with their mechanism."""
        return sum(stage.seconds for stage in self.stages if stage.node is not None and stage.node.placebo)


def plan_study(keys: InputKeys, preferences: Preferences) -> Plan:
    """The plan of a study whose model path is resolved; loads no weights."""
    parameters = count_parameters(keys)
    rate = _matmul_rate(keys)
    stages, alike = [_stage_plan(None, keys, preferences, parameters, rate)], {}
    for node in stage_tree(keys):
        same = Node(0, node.path, min(node.placebo, 1), node.variant)  # other seeds and control stages cost the same
        if same not in alike:
            alike[same] = _stage_plan(node, keys, preferences, parameters, rate)
        stages.append(replace(alike[same], node=node))
    return Plan(parameters, stages, rate, _memory(keys, preferences, parameters), keys.variants)


def _stage_plan(
    node: Node | None, keys: InputKeys, preferences: Preferences, parameters: ParameterCount, rate: float
) -> StagePlan:
    held_out = [pair for objective in preferences.objectives.values() for pair in objective.eval]
    if node is None:
        trained = [pair for name in keys.trained_objectives() for pair in preferences.objectives[name].train]
        work, steps, mean = base_work(preferences, keys), 0, _tokens_per_pair([*held_out, *trained])
        mechanism, notes = Work(0, 0), []
    else:
        train, own = pairs_of(node, preferences), laid_over(keys, node, keys.variants)
        steps = n_steps(len(train), own) if variant_at(node, keys.variants).is_trained else 0
        work, mean = stage_work(node, preferences, keys), _tokens_per_pair(train)
        mechanism, notes = mechanism_work(node, preferences, own), stage_notes(node, preferences, own)
    tokens = round(mean * (work.trained + work.scored))
    # 2 FLOPs for each parameter and token of a forward pass
    seconds_a_unit = 2 * parameters.total * mean / (rate * ASSUMED_EFFICIENCY)
    of_all, of_scores, of_mechanism = (
        seconds_a_unit * one.units(keys) for one in (work, Work(0, len(held_out)), mechanism)
    )
    return StagePlan(node, work, steps, tokens, of_all, of_scores, of_mechanism, notes)


def _tokens_per_pair(pairs: list[PreparedPair]) -> float:
    """Mean tokens that one pair puts through the model where prompts are shared: its own once, and both responses."""
    return sum(pair.tokens.n_tokens for pair in pairs) / len(pairs) if pairs else 0.0


def _matmul_rate(keys: InputKeys) -> float:
    """FLOP/s of a large matrix multiplication in the study's dtype, on this machine, in about half a second.

    The fastest one counts: what else the machine does at the moment is not the study's.
    """
    where = device()
    size = 4096 if where.type != "cpu" else 1024
    a = torch.ones(size, size, dtype=getattr(torch, keys.dtype), device=where)
    (a @ a).sum().item()  # the first call sets up the library
    began, fastest = time.perf_counter(), math.inf
    while time.perf_counter() - began < 0.5:
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        fastest = min(fastest, time.perf_counter() - start)
    return 2.0 * size**3 / fastest


def _memory(keys: InputKeys, preferences: Preferences, parameters: ParameterCount) -> int:
    """Weights, adapter with optimiser and gradient trace, and the activations of one batch; a rough upper estimate.

    Activations: about 16 hidden-sized values a token and layer (one with checkpointing), and the logits of the
    response tokens in the model's dtype and in float32.
    """
    config = load_config(keys).get_text_config()
    base = (parameters.total - parameters.trainable) * DTYPE_BYTES[keys.dtype]
    tokens = max(keys.tokens_per_batch or default_tokens(device(), getattr(torch, keys.dtype)), 2 * preferences.longest)
    values = config.hidden_size * config.num_hidden_layers * (1 if keys.gradient_checkpointing else 16)
    activations = tokens * (values * DTYPE_BYTES[keys.dtype] + config.vocab_size * (4 + DTYPE_BYTES[keys.dtype]))
    traced = 1 + max(len(order) for order in keys.all_orders()) if keys.gradient_trace_points else 0
    kept = max([traced, *map(_kept_by_remedy, keys.variants.values())])  # a variant has no trace
    return base + parameters.trainable * (ADAM_BYTES + 4 * kept) + activations


def _kept_by_remedy(variant: Variant) -> int:
    """Vectors of the adapter's size: start and strengths of a pull; start, gradient and update of a projection."""
    return 2 * bool(variant.ewc or variant.l2_to_previous) + 3 * variant.project
