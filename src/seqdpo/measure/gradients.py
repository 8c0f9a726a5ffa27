"""Do the objectives oppose each other in gradient? Their gradients at points of a stage, and the account of its steps.

At every point the gradients of the current and of each earlier objective are taken on two disjoint batches of held-out
pairs: what two batches share is signal, so the analysis can tell a true angle from the noise that pulls every cosine of
single batches to zero. The account is sum_t <gradient of the earlier objective, the step that was taken>, by the
midpoint rule: the gradient in the middle of an interval, times the way from its start to its end.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from peft import PeftModel
from torch import Tensor
from torch.optim import AdamW

from seqdpo.measure.movement import ALL, layer_of
from seqdpo.preferences.pairs import content_hash
from seqdpo.preferences.prepare import PreparedPair
from seqdpo.study.keys import MechanismKeys, StageKeys
from seqdpo.tables import GRADIENTS_SCHEMA
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.resume import State
from seqdpo.training.stage import StageHook, evaluating, mean_vector

#: The rows of all modules of a layer together.
LAYER = "(layer)"
#: Pairs of a half below which a point says too little to be worth its passes.
SMALLEST_BATCH = 4
#: Fewer points than this, or blocks of pairs, have no spread, and no interval.
FEWEST_POINTS = 3
#: The held-out pairs are read in so many blocks. More of them are smaller batches, with more noise in each product of
#: two gradients; fewer leave less to tell that noise by. Between 5 and 10 the intervals are about as long.
MOST_BLOCKS = 8
_PARAMETER = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_")


class TraceSize(NamedTuple):
    """How much of a stage's trace is measured; no points where the budget does not reach."""

    n_points: int
    n_pairs: int  # of one half of one objective at one point
    n_blocks: int  # that the points take their pairs from, in turn

    def gradient_pairs(self, n_earlier: int) -> int:
        """Pairs read forward and backward in the whole stage."""
        return self.n_points * self.n_pairs * 2 * (1 + n_earlier)


class Halves(NamedTuple):
    """Held-out pairs of one objective with the reference of its loss, in two halves of disjoint blocks."""

    pairs: TrainingPairs
    first: Sequence[Sequence[int]]
    second: Sequence[Sequence[int]]


class _Point(NamedTuple):
    """What one point measured of one earlier objective."""

    step: int
    objective: str
    n_pairs: int
    block: int
    numbers: dict[str, Tensor]  # by column, each (n_modules,) float64
    mean: list[Tensor]  # of the two halves' gradients, one tensor for each parameter

    @property
    def names(self) -> dict[str, Any]:
        return {"step": self.step, "objective": self.objective, "n_pairs": self.n_pairs, "block": self.block}


def trace_size(
    keys: MechanismKeys, budget: int, n_steps: int, n_earlier: int, smallest_block: Callable[[int], int]
) -> TraceSize:
    """As many points as the study asks for, within a budget of pairs that are read forward and backward.

    `smallest_block` says how many pairs the smallest block has where each half is parted into so many.
    """
    at_a_point = 2 * (1 + n_earlier)
    points = min(keys.gradient_trace_points, n_steps, budget // (SMALLEST_BATCH * at_a_point))
    for n_blocks in range(min(points, MOST_BLOCKS), FEWEST_POINTS - 1, -1):
        smallest = smallest_block(n_blocks)
        if smallest >= SMALLEST_BATCH:
            return TraceSize(points, min(budget // (points * at_a_point), smallest), n_blocks)
    return TraceSize(0, 0, 0)


def prompt_halves(prepared: Sequence[PreparedPair], place: int, n_objectives: int) -> tuple[list[int], list[int]]:
    """Two halves of an objective's held-out pairs, the `place`-th of `n_objectives`: places of the pairs.

    They share no prompt with each other or another objective's halves. The prompts are parted by their hash:
    objectives may label the same pairs, and noise that two gradients share would pass for an angle between them.
    """
    halves: tuple[list[int], list[int]] = [], []
    for i, one in enumerate(prepared):
        part = int(content_hash(["half", one.pair.prompt_id]), 16) % (2 * n_objectives) - 2 * place
        if part in (0, 1):
            halves[part].append(i)
    return halves


def blocks_of(half: Sequence[int], prepared: Sequence[PreparedPair], n_blocks: int) -> list[list[int]]:
    """A half's pairs in blocks of about the same size that share no prompt: what one block says is its own."""
    of_prompt: dict[str, list[int]] = {}
    for i in half:
        of_prompt.setdefault(prepared[i].pair.prompt_id, []).append(i)
    blocks: list[list[int]] = [[] for _ in range(n_blocks)]
    for pairs in sorted(of_prompt.values(), key=len, reverse=True):
        min(blocks, key=len).extend(pairs)
    return blocks


class GradientTrace(StageHook):
    """Looks at a stage while it trains; `table` has what it saw.

    Beside what training holds it keeps at most 2 + (earlier objectives) vectors of the adapter's size: the parameters
    at the start of the interval, the mean gradient of each earlier objective, and one half of the current objective's.
    """

    def __init__(
        self,
        policy: PeftModel,
        current: Halves,
        earlier: Mapping[str, Halves],
        keys: StageKeys,
        size: TraceSize,
        n_steps: int,
        on_batch: Callable[[int], None] = lambda n_pairs: None,
    ) -> None:
        self._on_batch = on_batch  # hears the pairs of each gradient
        self._policy, self._current, self._earlier, self._keys, self._size = policy, current, earlier, keys, size
        named = [(name, p) for name, p in policy.named_parameters() if p.requires_grad]
        self._parameters = [parameter for _, parameter in named]
        names = [_module_of(name) for name, _ in named]
        self._modules = list(dict.fromkeys(names))
        self._places = torch.tensor([self._modules.index(name) for name in names])
        bounds = [round(k * n_steps / size.n_points) for k in range(size.n_points + 1)]
        self._starts = set(bounds[:-1])
        self._middles = {(start + end) // 2: k for k, (start, end) in enumerate(pairwise(bounds))}
        self._began, self._start = 0, list[Tensor]()  # of the interval: its first step, and the parameters there
        self._open: dict[str, _Point] = {}  # measured in this interval
        self._rows: list[dict[str, Any]] = []

    @property
    def table(self) -> pa.Table:
        """GRADIENTS_SCHEMA; whole after the stage."""
        return pa.Table.from_pylist(self._rows, GRADIENTS_SCHEMA)

    def before_step(self, steps_done: int, optimizer: AdamW) -> None:
        if steps_done in self._starts:
            self._close(steps_done)
            self._began, self._start = steps_done, [parameter.detach().clone() for parameter in self._parameters]
        if steps_done in self._middles:
            with evaluating(self._policy), torch.random.fork_rng():
                self._measure(self._middles[steps_done], steps_done, optimizer)

    def after_stage(self, steps_done: int) -> None:
        self._close(steps_done)
        self._start = []

    def state(self) -> State:
        return {
            "began": self._began,
            "start": list(self._start),
            "open": [point._asdict() for point in self._open.values()],
            "rows": list(self._rows),
        }

    def restore(self, state: State) -> None:
        self._began, self._rows = state["began"], list(state["rows"])
        where = self._parameters[0].device
        self._start = [tensor.to(where) for tensor in state["start"]]
        points = [_Point(**point) for point in state["open"]]
        self._open = {one.objective: one._replace(mean=[tensor.to(where) for tensor in one.mean]) for one in points}

    def _measure(self, k: int, step: int, optimizer: AdamW) -> None:
        for name, halves in self._earlier.items():
            self._open[name] = self._earlier_point(name, halves, k, step)
        first = self._gradient(self._current, k, self._current.first)
        crossed = {name: self._crossed(first, point, optimizer) for name, point in self._open.items()}
        second = self._gradient(self._current, k, self._current.second)
        numbers = self._of_halves("current", first, second)
        for name, point in self._open.items():
            both = self._crossed(second, point, optimizer)
            point.numbers.update(numbers | {key: (crossed[name][key] + dot) / 2 for key, dot in both.items()})

    def _earlier_point(self, name: str, halves: Halves, k: int, step: int) -> _Point:
        """Its own method, so that the second half's gradient is gone when the next one is taken."""
        first, second = self._gradient(halves, k, halves.first), self._gradient(halves, k, halves.second)
        numbers = self._of_halves("earlier", first, second)
        mean = [one.add_(other).div_(2) for one, other in zip(first, second, strict=True)]
        return _Point(step, name, self._size.n_pairs, k % len(halves.first), numbers, mean)

    def _of_halves(self, whose: str, first: Sequence[Tensor], second: Sequence[Tensor]) -> dict[str, Tensor]:
        return {
            f"{whose}_squared_norm": (self._dots(first, first) + self._dots(second, second)) / 2,
            f"{whose}_split_dot": self._dots(first, second),
        }

    def _crossed(self, gradient: Sequence[Tensor], point: _Point, optimizer: AdamW) -> dict[str, Tensor]:
        """Dots of a gradient of the current objective with the mean one of an earlier objective."""
        numbers = {"dot": self._dots(gradient, point.mean)}
        if all("exp_avg_sq" in optimizer.state[parameter] for parameter in self._parameters):
            scaled = (g / _adam_scale(optimizer, p) for g, p in zip(gradient, self._parameters, strict=True))
            numbers["preconditioned_dot"] = self._dots(scaled, point.mean)
        return numbers

    def _gradient(self, halves: Halves, k: int, half: Sequence[Sequence[int]]) -> list[Tensor]:
        """The mean gradient of the loss over the k-th batch: the next pairs of the block whose turn it is."""
        n, (turn, place) = self._size.n_pairs, divmod(k, len(half))
        block = half[place]
        indices = [block[(turn * n + i) % len(block)] for i in range(n)]
        gradients = mean_vector(self._policy, halves.pairs.take(indices), self._keys)
        self._on_batch(n)
        return gradients

    def _dots(self, one: Iterable[Tensor], other: Iterable[Tensor]) -> Tensor:
        """(n_modules,) float64 inner products of two vectors of the adapter's size."""
        each = [(x.double() * y.double()).sum().cpu() for x, y in zip(one, other, strict=True)]
        return torch.zeros(len(self._modules), dtype=torch.float64).index_add(0, self._places, torch.stack(each))

    def _close(self, steps_done: int) -> None:
        """Ends the interval: what the way through it should have done to each earlier objective's loss."""
        for point in self._open.values():
            moves = (now.detach() - then for now, then in zip(self._parameters, self._start, strict=True))
            point.numbers["update_dot"] = self._dots(moves, point.mean)
            interval = {"from_step": self._began, "to_step": steps_done}
            self._rows += [point.names | interval | row for row in _rows(self._modules, point.numbers)]
        self._open = {}


def _rows(modules: Sequence[str], numbers: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """The sums over all modules, over those of each layer, and of each module."""
    layers = [layer_of(module) for module in modules]
    groups: list[tuple[str, int | None, list[int]]] = [(ALL, None, list(range(len(modules))))]
    for layer in sorted({layer for layer in layers if layer is not None}):
        groups.append((LAYER, layer, [i for i, own in enumerate(layers) if own == layer]))
    groups += [(module, layers[i], [i]) for i, module in enumerate(modules)]
    return [
        {"module": module, "layer": layer} | {name: values[members].sum().item() for name, values in numbers.items()}
        for module, layer, members in groups
    ]


def _adam_scale(optimizer: AdamW, parameter: Tensor) -> Tensor:
    """What Adam divides a gradient's entries by: sqrt(v) + eps, v without its bias towards 0."""
    state, group = optimizer.state[parameter], optimizer.param_groups[0]
    corrected = state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"].item())
    return corrected.sqrt_().add_(group["eps"])


def _module_of(parameter: str) -> str:
    match = _PARAMETER.match(parameter)
    return match["module"] if match else parameter
