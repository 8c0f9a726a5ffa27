"""What a stage trains on: its pairs, and what the reference of the loss makes of them."""

from collections.abc import Sequence
from typing import NamedTuple, Self, TypeAlias

import numpy as np

from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.preferences.tokens import PairTokens
from seqdpo.study.checkpoints import Node
from seqdpo.study.losses import Column

#: Log-probabilities of chosen and rejected responses, as the loss weighs their tokens (`ld_alpha`); each (n_pairs,).
Logps: TypeAlias = tuple[Column, Column]


class TrainingPairs(NamedTuple):
    """Pairs as the loss sees them."""

    pair_ids: Sequence[str]
    tokens: Sequence[PairTokens]
    reference_chosen: Column  # (n_pairs,) nats
    reference_rejected: Column

    @property
    def n_pairs(self) -> int:
        return len(self.tokens)

    @property
    def reference(self) -> Logps:
        return self.reference_chosen, self.reference_rejected

    @property
    def response_tokens(self) -> Logps:
        """Tokens of the chosen and of the rejected responses."""
        chosen = np.array([len(pair.chosen) for pair in self.tokens], dtype=np.float64)
        return chosen, np.array([len(pair.rejected) for pair in self.tokens], dtype=np.float64)

    def take(self, indices: Sequence[int]) -> Self:
        """Some of the pairs, in the order of `indices`."""
        where = list(indices)
        return self._replace(
            pair_ids=[self.pair_ids[i] for i in where],
            tokens=[self.tokens[i] for i in where],
            reference_chosen=self.reference_chosen[where],
            reference_rejected=self.reference_rejected[where],
        )

    def and_also(self, others: "TrainingPairs") -> Self:
        """These pairs, then those."""
        return self._replace(
            pair_ids=[*self.pair_ids, *others.pair_ids],
            tokens=[*self.tokens, *others.tokens],
            reference_chosen=np.concatenate([self.reference_chosen, others.reference_chosen]),
            reference_rejected=np.concatenate([self.reference_rejected, others.reference_rejected]),
        )


def pairs_of(node: Node, preferences: Preferences) -> list[PreparedPair]:
    """The pairs that a stage trains on."""
    return [pair for name in node.objectives for pair in preferences.objectives[name].train]


def training_pairs(prepared: Sequence[PreparedPair], reference: Logps) -> TrainingPairs:
    """Pairs with what the reference of the loss makes of them."""
    return TrainingPairs([one.pair.pair_id for one in prepared], [one.tokens for one in prepared], *reference)
