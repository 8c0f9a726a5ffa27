"""What a model makes of pairs: the log-probabilities of their responses, as numpy columns."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqdpo.policy.batches import for_each_batch
from seqdpo.policy.logps import response_logps
from seqdpo.policy.ranks import own_share, summed_numbers
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

    def score(some: list[PairTokens]) -> tuple[Tensor, Tensor]:
        return response_logps(model, some, tail_weight)

    return PairLogps(*pair_columns(model, pairs, tokens_per_batch, score, on_batch))


def pair_columns(
    model: nn.Module,
    pairs: Sequence[PairTokens],
    tokens_per_batch: int | None,
    score: Callable[[list[PairTokens]], tuple[Tensor, Tensor]],
    on_batch: Callable[[int], None] = lambda n_pairs: None,
) -> tuple[Column, Column]:
    """What `score` makes of each pair's chosen and rejected response, batch by batch and without gradients.

    Several processes share out the pairs, and all get the same columns.
    """
    own = own_share(pairs)
    columns = np.zeros((2, len(pairs)))

    def add(batch: list[int]) -> None:
        where = [own[i] for i in batch]
        for column, values in zip(columns, score([pairs[i] for i in where]), strict=True):
            column[where] = as_column(values)
        on_batch(len(where))

    with torch.inference_mode():
        for_each_batch(model, [pairs[i] for i in own], tokens_per_batch, add)
    chosen, rejected = summed_numbers(columns)
    if len(own) < len(pairs):
        on_batch(len(pairs) - len(own))
    return chosen, rejected


def as_column(values: Tensor) -> Column:
    """Where torch ends: a detached tensor as a float64 numpy column."""
    return values.detach().cpu().double().numpy()
