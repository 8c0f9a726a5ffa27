"""Replay: some of each step's pairs are those of earlier objectives."""

import numpy as np

from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.stage import StageHook


class Replay(StageHook):
    """Mixes pairs of earlier objectives into every step, each with the reference of the stage that taught it.

    A step of n pairs trains on n * share earlier ones in place of as many of its own (which its shuffled order ends
    with), or beside them (`added`). Fractions are carried from step to step, so that the share holds over the stage.
    The step's gradient is the mean over all its pairs: (1 - share) * L_new + share * L_earlier.
    Source: Chaudhry et al. 2019 (arXiv 1902.10486), experience replay.
    """

    def __init__(self, memory: TrainingPairs, share: float, added: bool, seed: int) -> None:
        self._memory, self._share, self._added, self._seed = memory, share, added, seed

    def pairs_of_step(self, steps_done: int, own: TrainingPairs) -> TrainingPairs:
        n = min(_whole(self._share * own.n_pairs, steps_done), self._memory.n_pairs)
        drawn = self._generator(steps_done).choice(self._memory.n_pairs, size=n, replace=False)
        kept = own if self._added else own.take(range(own.n_pairs - n))
        return kept.and_also(self._memory.take(drawn.tolist()))

    def _generator(self, steps_done: int) -> np.random.Generator:
        """Of the step alone: a stage that goes on after an interruption draws what it would have drawn."""
        return np.random.default_rng([self._seed, 3, steps_done])


def _whole(pairs: float, steps_done: int) -> int:
    """How many of a step's `pairs` a step come at this step: whole ones, that add up to it."""
    return int(round(pairs * (steps_done + 1), 6) // 1) - int(round(pairs * steps_done, 6) // 1)
