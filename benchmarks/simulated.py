"""Margins with a known truth: pairs of prompts, runs that differ by noise, and a later stage that does as planted."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import pyarrow as pa

from seqdpo.analysis.margins import PairScores
from seqdpo.analysis.panel import At, Panel

RUN_CORRELATION = 0.9  # of a pair's margins between runs; the placebo stages of the lab had 0.89 to 0.93
ORDER = "first>second"
LARGE = 400_000  # pairs from which a truth without formula is taken


@dataclass(frozen=True)
class World:
    """How pairs, prompts and runs are."""

    name: str = "ordinary"
    n: int = 1000
    prompts: tuple[int, int] = (1, 2)  # the fewest and the most pairs of a prompt; evenly between
    within: float = 0.3  # correlation of two pairs of one prompt
    n_prompts: int | None = None  # in place of n
    shape: Literal["normal", "t3", "lognormal scale"] = "normal"
    gain: float = 0.65  # mean margin in SDs: an accuracy of 0.74, and 11.6% of the pairs flip between runs
    rounding: float = 0.0  # margins are multiples of it: ties
    jitter: float = 0.0  # SD of what the arithmetic adds to each margin
    scale_noise: float = 0.0  # SD of the factor that a run puts on all of its margins
    n_controls: int = 4
    base_margin: float = 0.5  # mean of the base's own margins, which have an SD of 1


@dataclass(frozen=True)
class Later:
    """What the later stage does to every margin."""

    name: str = "no change"
    shift: float = 0.0  # as a share of the gain
    scale: float = 1.0  # around 0
    spread: float = 1.0  # around the mean margin
    reshuffle: float = 0.0  # SD of what it adds to each pair, in SDs of the margins
    skew: float = 0.0  # nine in ten fall by it, one in ten rises by nine times as much: the mean stays
    nothing_taught: bool = False  # margins when taught have mean 0 and an SD of 0.3
    against_base: float = 0.0  # what is taken from every margin then


@dataclass(frozen=True)
class Truth:
    """Of the checkpoints of one draw, over all pairs like these."""

    gain: float
    change: float
    accuracy_change: float
    excess_flips: float
    ranking_change: float
    restructured: bool  # whether scale or scatter differ from the control stages'


def draw(world: World, later: Later, generator: np.random.Generator) -> tuple[Panel, Truth]:
    """A panel of one objective, a later stage and its control stages; and what is true of it."""
    clusters = _clusters(world, generator)
    scales = 1 + world.scale_noise * generator.standard_normal(2 + world.n_controls)
    margins = _margins(world, later, clusters, generator, scales)
    base = world.base_margin + _noise(clusters, world, generator)
    return _panel(margins, base, clusters), _truth(world, later, scales)


def _clusters(world: World, generator: np.random.Generator) -> np.ndarray:
    fewest, most = world.prompts
    if world.n_prompts is not None:
        sizes = generator.integers(fewest, most + 1, world.n_prompts)
    else:
        sizes = generator.integers(fewest, most + 1, world.n)
        sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), world.n)) + 1]
        sizes[-1] -= sizes.sum() - world.n
    return np.repeat(np.arange(len(sizes)), sizes)


def _margins(
    world: World, later: Later, clusters: np.ndarray, generator: np.random.Generator, scales: np.ndarray
) -> list[np.ndarray]:
    """When taught, after the later stage, and after each control stage: (n_pairs,) each."""
    n = len(clusters)
    spread = 0.3 if later.nothing_taught else 1.0
    gain = 0.0 if later.nothing_taught else world.gain
    own = spread * np.sqrt(RUN_CORRELATION) * _noise(clusters, world, generator)

    def run() -> np.ndarray:
        return gain + own + spread * np.sqrt(1 - RUN_CORRELATION) * _noise(clusters, world, generator)

    taught, after, *controls = (scale * run() for scale in scales)
    after = gain + later.spread * (after - gain)
    after = later.scale * after + later.shift * gain - later.against_base
    after = after + later.reshuffle * _noise(clusters, world, generator)
    after = after + later.skew * np.where(generator.random(n) < 0.1, 9.0, -1.0)
    found = [taught, after, *controls]
    if world.jitter:
        found = [one + world.jitter * generator.standard_normal(n) for one in found]
    return [np.round(one / world.rounding) * world.rounding for one in found] if world.rounding else found


def _noise(clusters: np.ndarray, world: World, generator: np.random.Generator) -> np.ndarray:
    """Mean 0, SD 1; two pairs of one prompt share a part of it."""
    n_prompts = int(clusters.max()) + 1
    shared = _standard(world.shape, n_prompts, generator)[clusters]
    return np.sqrt(world.within) * shared + np.sqrt(1 - world.within) * _standard(world.shape, len(clusters), generator)


def _standard(shape: str, n: int, generator: np.random.Generator) -> np.ndarray:
    if shape == "t3":
        return generator.standard_t(3, n) / np.sqrt(3)
    if shape == "lognormal scale":
        return generator.standard_normal(n) * np.exp(0.75 * generator.standard_normal(n) - 0.75**2)
    return generator.standard_normal(n)


def _truth(world: World, later: Later, scales: np.ndarray) -> Truth:
    accuracy, flips, ranking = _large(replace(world, scale_noise=0.0, n_prompts=None, n=LARGE, prompts=(1, 1)), later)
    gain = 0.0 if later.nothing_taught else world.gain
    after = gain + later.spread * (scales[1] - 1) * gain
    after = later.scale * after + later.shift * gain - later.against_base
    return Truth(
        gain=float(scales[0] * gain),
        change=float(after - scales[0] * gain),
        accuracy_change=accuracy,
        excess_flips=flips,
        ranking_change=ranking,
        restructured=(later.scale, later.spread, later.reshuffle, later.skew) != (1.0, 1.0, 0.0, 0.0),
    )


@cache
def _large(world: World, later: Later) -> tuple[float, float, float]:
    """Change of accuracy, excess of flips, change of ranking accuracy, from a large draw; scale noise moves none."""
    generator = np.random.default_rng(1)
    world = replace(world, n_controls=1)
    clusters = np.arange(world.n)
    taught, after, control = _margins(world, later, clusters, generator, np.ones(3))
    base = world.base_margin + _noise(clusters, world, generator)
    flips = [np.mean(np.abs(_right(one) - _right(taught))) for one in (after, control)]
    return (
        float(np.mean(_right(after) - _right(taught))),
        float(flips[0] - flips[1]),
        float(np.mean(_right(base + after) - _right(base))),
    )


def _right(margins: np.ndarray) -> np.ndarray:
    return (margins > 0) + 0.5 * (margins == 0)


def _panel(margins: list[np.ndarray], base: np.ndarray, clusters: np.ndarray) -> Panel:
    ids = pa.array(np.arange(len(clusters)).astype(str))
    taught, after, *controls = margins
    where = {(0, 0): np.zeros_like(taught), (1, 0): taught, (2, 0): after}
    where |= {(2, k): one for k, one in enumerate(controls, 1)}
    zero, one = np.zeros_like(base), np.ones_like(base)
    return Panel(
        objective="first",
        split="eval",
        pair_ids=ids,
        clusters=clusters,
        metadata=pa.table({"pair_id": ids}),
        checkpoints={At(0, ORDER, *at): PairScores(base + of, zero, base, zero, one, one) for at, of in where.items()},
        names={At(0, ORDER, *at): str(at) for at in where},
    )
