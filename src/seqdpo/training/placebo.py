"""Control stages: the same pairs, steps and learning rate, labels drawn with the checkpoint's own probability."""

import numpy as np

from seqdpo.preferences.tokens import PairTokens
from seqdpo.study.keys import LossKeys
from seqdpo.study.losses import loss_of, rewards
from seqdpo.training.pairs import Logps, TrainingPairs


def with_own_labels(
    pairs: TrainingPairs, start: Logps, keys: LossKeys, generator: np.random.Generator
) -> TrainingPairs:
    """Draws each pair's label with the probability that the starting checkpoint gives it under the stage's loss.

    `start` are that checkpoint's log-probabilities. A label of coin flips would pull every margin to 0 and erase the
    earlier stage; with the loss's own probability (for DPO sigmoid(reward margin)) the expected gradient at the start
    is zero, and what remains is the noise of training on these pairs. `seqdpo.study.losses` says for which losses
    there is no such probability.
    """
    tokens = pairs.response_tokens
    at_start = rewards(*start, tokens, keys).less(rewards(*pairs.reference, tokens, keys))
    keep = generator.random(pairs.n_pairs) < loss_of(keys).keep_probability(at_start, keys)
    chosen, rejected = pairs.reference
    return pairs._replace(
        tokens=[pair if kept else _swapped(pair) for pair, kept in zip(pairs.tokens, keep, strict=True)],
        reference_chosen=np.where(keep, chosen, rejected),
        reference_rejected=np.where(keep, rejected, chosen),
    )


def _swapped(pair: PairTokens) -> PairTokens:
    return pair._replace(chosen=pair.rejected, rejected=pair.chosen)
