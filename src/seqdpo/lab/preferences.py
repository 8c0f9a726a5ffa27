"""Preference pairs with a planted truth: which response an objective prefers follows from its angle."""

import hashlib
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqdpo.lab.dialogues import FEATURES, LEVELS, N_QUESTIONS, N_WORDINGS, Question, question, response
from seqdpo.preferences.datasets.lab import LabObjective
from seqdpo.preferences.pairs import Candidates, Message, Pair, SliceValue

Floats: TypeAlias = npt.NDArray[np.float64]

N_FEATURES = len(FEATURES)

# Two orthonormal rows whose columns all have the same length and point every 30 degrees (a tight frame). The score
# differences of random pairs are then spread almost evenly over all directions of the plane, and two directions
# disagree on the share angle/180 of the pairs to within 0.0003. The 5 degrees keep every component of the
# directions at multiples of 15 degrees away from zero.
_PHASES = np.radians(5.0 + 30.0 * np.arange(N_FEATURES))
AXES: Floats = np.stack([np.cos(_PHASES), np.sin(_PHASES)]) / math.sqrt(N_FEATURES / 2)

#: SD of the score difference of two random responses along any direction: the label noise is relative to it.
SCORE_SD = math.sqrt(2 * float(np.var(LEVELS)))

# Questions are dealt into pools of equal size. A prime, so that no pool lacks any combination of words; as large as
# 20,000 pairs in a pool allow, so that two names are unlikely (1 in 25,000) to fall on the same pool.
_N_POOLS = 25_013
_SHARED_POOL = 0
_SPREAD = 310_989_601  # odd, no factor in common with N_QUESTIONS, near its golden section: neighbours look unalike


def direction(angle: float, features: Collection[str] = tuple(FEATURES)) -> Floats:
    """The unit vector in feature space that an objective at `angle` degrees rewards; shape (n_features,).

    It is zero outside `features`: directions of disjoint features are orthogonal at any angle.
    """
    radians = math.radians(angle)
    weights: Floats = np.array([math.cos(radians), math.sin(radians)]) @ AXES * _shown(features)
    return weights / float(np.linalg.norm(weights))


def candidates(name: str, objective: LabObjective) -> Candidates:
    """The pairs of the objective `name`, the same ones on every machine.

    Raising n_pairs at overlap 0 or 1 adds pairs and leaves the earlier ones as they are. Slices: the `topic`;
    `clean`, whether the label is the one without noise; `shared`, whether the pair is from the pool that all lab
    objectives share; `d_<feature>`, the level of the chosen response minus that of the rejected one.
    """
    features = tuple(objective.features or FEATURES)
    weights = direction(objective.angle, features)
    for pool, rank in _places(name, objective):
        noise = objective.noise * SCORE_SD * _generator("label", name, pool, rank).standard_normal()
        yield _labelled(_match(pool, rank, features), weights, float(noise), shared=pool == _SHARED_POOL)


def _places(name: str, objective: LabObjective) -> Iterator[tuple[int, int]]:
    """(pool, rank in the pool) of each pair, those of the shared pool spread evenly among the objective's own."""
    own_pool = 1 + _seed("pool", name) % (_N_POOLS - 1)
    n_shared = round(objective.overlap * objective.n_pairs)
    shared_rank = 0
    for index in range(objective.n_pairs):
        if (index + 1) * n_shared // objective.n_pairs > shared_rank:
            yield _SHARED_POOL, shared_rank
            shared_rank += 1
        else:
            yield own_pool, index - shared_rank


@dataclass(frozen=True, slots=True)
class _Match:
    """A question and two responses that some objective can tell apart, before anyone judged them."""

    question: Question
    responses: tuple[str, str]
    difference: npt.NDArray[np.int64]  # (n_features,) levels of the first response minus those of the second


def _match(pool: int, rank: int, features: Collection[str]) -> _Match:
    asked = question((rank * _N_POOLS + pool) * _SPREAD % N_QUESTIONS)
    rng = _generator("match", pool, rank)
    shown = _shown(features)
    levels = rng.choice(LEVELS, size=(2, N_FEATURES))
    while np.allclose(AXES @ ((levels[0] - levels[1]) * shown), 0):
        levels = rng.choice(LEVELS, size=(2, N_FEATURES))
    wordings = rng.integers(N_WORDINGS, size=(2, N_FEATURES))
    for choices in (levels, wordings):  # where the responses must not differ, the second repeats the first
        choices[1, ~shown] = choices[0, ~shown]
    first, second = (response(asked.topic, *shown) for shown in zip(levels, wordings, strict=True))
    return _Match(asked, (first, second), levels[0] - levels[1])


def _shown(features: Collection[str]) -> npt.NDArray[np.bool_]:
    return np.array([name in features for name in FEATURES])


def _labelled(match: _Match, weights: Floats, noise: float, shared: bool) -> Pair:
    score = float(weights @ match.difference)
    sign = 1 if score + noise > 0 else -1
    differences = zip(FEATURES, (sign * match.difference).tolist(), strict=True)
    slices: dict[str, SliceValue] = {"topic": match.question.topic, "clean": sign * score > 0, "shared": shared}
    return Pair(
        prompt=(Message("user", match.question.text),),
        chosen=match.responses[0 if sign > 0 else 1],
        rejected=match.responses[1 if sign > 0 else 0],
        strength=abs(score),
        slices=slices | {f"d_{feature}": difference for feature, difference in differences},
    )


def _generator(*what: str | int) -> np.random.Generator:
    return np.random.default_rng(_seed(*what))


def _seed(*what: str | int) -> int:
    """A number that depends on the content alone: Python's own hash differs between processes."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8], "big")
