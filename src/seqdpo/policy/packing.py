"""Pairs as packed trees: each prompt once, then its two responses, pair after pair, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdpo.preferences.tokens import PairTokens


class Tree(NamedTuple):
    """Where one pair lies in the packed sequence: [start, chosen) is the prompt, and so on."""

    start: int
    chosen: int
    rejected: int
    end: int

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longer response."""
        return self.chosen - self.start + max(self.rejected - self.chosen, self.end - self.rejected)


@dataclass(frozen=True, slots=True)
class PackedPairs:
    """n pairs as one sequence of n_tokens distinct tokens."""

    input_ids: Tensor  # (1, n_tokens)
    position_ids: Tensor  # (1, n_tokens); those of both responses count on from the prompt
    trees: tuple[Tree, ...]  # one for each pair
    predictors: Tensor  # (n_response_tokens,) place of the token before each response token
    targets: Tensor  # (n_response_tokens,) the response tokens
    responses: Tensor  # (n_response_tokens,) whose token: i for pair i's chosen, n_pairs + i for its rejected


def packed_pairs(pairs: Sequence[PairTokens], device: torch.device, multiple: int = 1) -> PackedPairs:
    """Packs pairs in their order: [p p p c c r r r | p p c c c r], positions [0 1 2 3 4 3 4 5 | 0 1 2 3 4 2].

    Zeros at the end, of no tree, fill it up to a multiple of `multiple` tokens.
    """
    trees, start = [], 0
    for pair in pairs:
        chosen = start + len(pair.prompt)
        rejected = chosen + len(pair.chosen)
        trees.append(Tree(start, chosen, rejected, rejected + len(pair.rejected)))
        start = trees[-1].end
    chosen_side = [_response(tree.chosen, tree.rejected, tree) for tree in trees]
    rejected_side = [_response(tree.rejected, tree.end, tree) for tree in trees]
    targets = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    sizes = [len(response) for response in targets]
    filling = np.zeros(-start % multiple, dtype=np.int64)

    def tensor(parts: Sequence[NDArray[np.integer]]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)

    return PackedPairs(
        input_ids=tensor([part for pair in pairs for part in pair[:3]] + [filling])[None],
        position_ids=tensor([_positions(tree) for tree in trees] + [filling])[None],
        trees=tuple(trees),
        predictors=tensor(chosen_side + rejected_side),
        targets=tensor(targets),
        responses=tensor([np.repeat(np.arange(len(sizes)), sizes)]),
    )


def _positions(tree: Tree) -> NDArray[np.int64]:
    n_prompt = tree.chosen - tree.start
    lengths = (tree.rejected - tree.chosen, tree.end - tree.rejected)
    return np.concatenate([np.arange(n_prompt), *(n_prompt + np.arange(length) for length in lengths)])


def _response(start: int, end: int, tree: Tree) -> NDArray[np.int64]:
    """The places that predict a response: the prompt's last token, then all of the response but its last."""
    return np.concatenate([[tree.chosen - 1], np.arange(start, end - 1)])
