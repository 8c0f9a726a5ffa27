"""What a study will cost, before anything is run: pairs, tokens, parameters, memory and time."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

import torch

from seqdpo.measure.scores import n_tokens_read
from seqdpo.policy.batches import default_tokens
from seqdpo.policy.load import ParameterCount, base_bytes, count_parameters, device, load_config
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.runner.bench import tokens_of
from seqdpo.runner.probe import Rates, assumed_rates, probe
from seqdpo.runner.schedule import Frontier
from seqdpo.runner.work import Work, base_work, mechanism_work, stage_notes, stage_work
from seqdpo.study.checkpoints import Node
from seqdpo.study.keys import InputKeys, Variant
from seqdpo.study.tree import stage_tree
from seqdpo.study.variants import laid_over, variant_at
from seqdpo.training.pairs import pairs_of
from seqdpo.training.stage import n_steps

ADAM_BYTES = 16  # an adapter weight, its gradient and two moments, all float32
#: Numbers of workers for which a plan says how long a study takes.
WORKERS = (2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One node of the tree; `node` None is the base."""

    node: Node | None
    work: Work
    steps: int
    tokens: int  # that pass through the model: in scores each prompt and response once
    seconds: float
    scoring_seconds: float  # of these, for the evaluation pairs
    mechanism_seconds: float  # and for gradients, KL, forecast and path
    notes: list[str]  # what will not be measured, and control stages whose labels pull


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole study; times and memory are estimates."""

    parameters: ParameterCount
    stages: list[StagePlan]
    rates: Rates
    memory_bytes: int
    variants: Mapping[str, Variant] = field(default_factory=dict)
    assumed: str | None = None  # the device of probe.ASSUMED_RATES that it is for; None: this machine

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


def plan_study(keys: InputKeys, preferences: Preferences, assumed: str | None = None) -> Plan:
    """The plan of a study whose model path is resolved, for this machine or a device of `probe.ASSUMED_RATES`.

    Raises: ConfigError for what is wrong with the model, as far as it is looked at.
    """
    parameters = count_parameters(keys)
    rates = probe(keys, preferences, parameters) if assumed is None else assumed_rates(keys, parameters, assumed)
    where = device() if assumed is None else torch.device("cuda")
    held_out = n_tokens_read(tokens_of(preferences.held_out))
    stages, alike = [_base_plan(keys, preferences, held_out, rates)], {}
    for node in stage_tree(keys):
        same = Node(0, node.path, min(node.placebo, 1), node.variant)  # other seeds and control stages cost the same
        if same not in alike:
            alike[same] = _stage_plan(node, keys, preferences, held_out, rates)
        stages.append(replace(alike[same], node=node))
    return Plan(parameters, stages, rates, _memory(keys, preferences, parameters, where), keys.variants, assumed)


def _base_plan(keys: InputKeys, preferences: Preferences, held_out: int, rates: Rates) -> StagePlan:
    trained = tokens_of({name: preferences.objectives[name].train for name in keys.trained_objectives()})
    tokens = held_out + n_tokens_read(trained, keys.ld_alpha)
    of_all, of_scores = (rates.scored * one for one in (tokens, held_out))
    return StagePlan(None, base_work(preferences, keys), 0, tokens, of_all, of_scores, 0.0, [])


def _stage_plan(node: Node, keys: InputKeys, preferences: Preferences, held_out: int, rates: Rates) -> StagePlan:
    """`held_out`: tokens that pass through the model for the scores of all evaluation pairs."""
    train, own_keys = pairs_of(node, preferences), laid_over(keys, node, keys.variants)
    steps = n_steps(len(train), own_keys) if variant_at(node, keys.variants).is_trained else 0
    work, mechanism = stage_work(node, preferences, keys), mechanism_work(node, preferences, own_keys)
    # the scores apart, what is read has about as many tokens a pair as the stage's own
    own = work._replace(scored=work.scored - sum(map(len, preferences.held_out.values())))
    mean = _tokens_per_pair(train)
    tokens = held_out + round(mean * (own.trained + own.scored))
    of_own, of_mechanism = (
        mean * (one.trained * rates.trained + one.scored * rates.scored) for one in (own, mechanism)
    )
    of_scores, notes = rates.scored * held_out, stage_notes(node, preferences, own_keys)
    return StagePlan(node, work, steps, tokens, of_own + of_scores, of_scores, of_mechanism, notes)


def _tokens_per_pair(pairs: list[PreparedPair]) -> float:
    """Mean tokens that one pair puts through the model where prompts are shared: its own once, and both responses."""
    return sum(pair.tokens.n_tokens for pair in pairs) / len(pairs) if pairs else 0.0


def _memory(keys: InputKeys, preferences: Preferences, parameters: ParameterCount, where: torch.device) -> int:
    """Weights, adapter with optimiser and gradient trace, and the activations of one batch; a rough upper estimate.

    Activations: about 16 hidden-sized values a token and layer (one with checkpointing), and the logits of the
    response tokens in the model's dtype and in float32.
    """
    config = load_config(keys).get_text_config()
    base, value = base_bytes(keys), getattr(torch, keys.dtype).itemsize
    tokens = max(keys.tokens_per_batch or default_tokens(where, getattr(torch, keys.dtype)), 2 * preferences.longest)
    values = config.hidden_size * config.num_hidden_layers * (1 if keys.gradient_checkpointing else 16)
    activations = tokens * (values * value + config.vocab_size * (4 + value))
    traced = 1 + max(len(order) for order in keys.all_orders()) if keys.gradient_trace_points else 0
    return base + parameters.trainable * (ADAM_BYTES + 4 * traced) + activations
