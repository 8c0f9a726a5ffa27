"""Projection: no update may raise the loss of the earlier objectives, to first order."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from seqdpo.study.keys import StageKeys
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.stage import StageHook, evaluating, mean_vector


class Projection(StageHook):
    """Averaged gradient episodic memory (A-GEM) on the update that the optimiser makes.

    With u the step's change of the parameters and g the mean gradient of the earlier objectives' loss on as many of
    their pairs: where <u, g> > 0, u - <u, g> / <g, g> * g takes its place, the nearest one that does not raise that
    loss to first order. Adam scales every weight's gradient by itself, so that a projected gradient would still make an
    update that opposes g; hence the update is projected, clipping, momentum and weight decay with it.
    Source: Chaudhry et al. 2019 (arXiv 1812.00420), eq. 11, for the gradient.
    """

    def __init__(
        self,
        policy: PeftModel,
        memory: TrainingPairs,
        keys: StageKeys,
        seed: int,
        on_batch: Callable[[int], None] = lambda n_pairs: None,
    ) -> None:
        self._policy, self._memory, self._keys, self._seed, self._on_batch = policy, memory, keys, seed, on_batch
        self._batch: list[int] = []
        self._start: list[Tensor] = []
        self._gradient: list[Tensor] = []

    def pairs_of_step(self, steps_done: int, own: TrainingPairs) -> TrainingPairs:
        """The step's own; it is the time to draw those that are remembered beside them."""
        generator = np.random.default_rng([self._seed, 4, steps_done])
        n = min(own.n_pairs, self._memory.n_pairs)
        self._batch = generator.choice(self._memory.n_pairs, size=n, replace=False).tolist()
        return own

    def before_update(self, parameters: Sequence[Tensor]) -> None:
        with evaluating(self._policy), torch.random.fork_rng():
            self._gradient = mean_vector(self._policy, self._memory.take(self._batch), self._keys)
        self._on_batch(len(self._batch))
        self._start = [parameter.detach().clone() for parameter in parameters]

    def after_update(self, parameters: Sequence[Tensor]) -> None:
        updates = [parameter.detach() - start for parameter, start in zip(parameters, self._start, strict=True)]
        opposed = _dot(updates, self._gradient)
        if opposed > 0:
            share = opposed / _dot(self._gradient, self._gradient)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, self._gradient, strict=True):
                    parameter.sub_(gradient, alpha=share)
        self._start, self._gradient = [], []


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum((x.double() * y.double()).sum().item() for x, y in zip(one, other, strict=True))
