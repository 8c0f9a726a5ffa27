"""What a model makes of pairs: the log-probabilities of their responses, as numpy columns."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqdpo.policy.batches import for_each_batch
from seqdpo.policy.logps import response_logps
from seqdpo.preferences.tokens import PairTokens

Column = NDArray[np.float64]


class PairLogps(NamedTuple):
    """Log-probabilities of both responses of each pair, in nats, summed over response tokens."""

    chosen: Column  # (n_pairs,)
    rejected: Column  # (n_pairs,)

    @property
    def difference(self) -> Column:
        return self.chosen - self.rejected


def pair_logps(
    model: nn.Module,
    pairs: Sequence[PairTokens],
    tokens_per_batch: int | None,
    on_batch: Callable[[int], None] = lambda n_pairs: None,
    tail_weight: float | None = None,
) -> PairLogps:
    """Scores pairs without gradients; results are in the order of `pairs`. `on_batch` hears the pairs done.

    Batches are sorted over all pairs, and depend only on the pairs and the budget. `tail_weight` as in
    `seqdpo.policy.logps.response_logps`: a loss with `ld_alpha` weighs tokens so.
    """
    logps = PairLogps(np.empty(len(pairs)), np.empty(len(pairs)))

    def score(batch: list[int]) -> None:
        result = response_logps(model, [pairs[i] for i in batch], tail_weight)
        logps.chosen[batch] = as_column(result.chosen)
        logps.rejected[batch] = as_column(result.rejected)
        on_batch(len(batch))

    with torch.inference_mode():
        for_each_batch(model, pairs, tokens_per_batch, score)
    return logps


def as_column(values: Tensor) -> Column:
    """Where torch ends: a detached tensor as a float64 numpy column."""
    return values.detach().cpu().double().numpy()
