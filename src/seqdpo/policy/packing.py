"""Packed trees: each prompt once, then its responses, tree after tree, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdpo.policy.trees import TokenTree, joined


class Tree(NamedTuple):
    """Where a prompt and its responses lie in the packed sequence, one after another."""

    start: int
    ends: tuple[int, ...]  # of the prompt, then of each response

    @property
    def end(self) -> int:
        return self.ends[-1]

    @property
    def prompt(self) -> slice:
        return slice(self.start, self.ends[0])

    @property
    def responses(self) -> list[slice]:
        return [slice(start, end) for start, end in zip(self.ends, self.ends[1:], strict=False)]

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest response."""
        return self.ends[0] - self.start + max(one.stop - one.start for one in self.responses)


@dataclass(frozen=True, slots=True)
class PackedTrees:
    """Trees as one sequence of n_tokens distinct tokens."""

    input_ids: Tensor  # (1, n_tokens)
    position_ids: Tensor  # (1, n_tokens); those of every response count on from the prompt
    trees: tuple[Tree, ...]
    predictors: Tensor  # (n_response_tokens,) place of the token before each response token
    targets: Tensor  # (n_response_tokens,) the response tokens
    responses: Tensor  # (n_response_tokens,) whose token: i for the i-th response of all

    @property
    def n_responses(self) -> int:
        return sum(len(tree.responses) for tree in self.trees)


def packed_trees(given: Sequence[TokenTree], device: torch.device, multiple: int = 1) -> PackedTrees:
    """Packs trees in their order: [p p p c c r r r | p p c c c r], positions [0 1 2 3 4 3 4 5 | 0 1 2 3 4 2].

    Those with the very same prompt, one after another, share it. Zeros at the end, of no tree, fill the sequence up to
    a multiple of `multiple` tokens.
    """
    tokens = [(tree.prompt, *tree.responses) for tree in joined(given)]
    trees, start = [], 0
    for parts in tokens:
        ends = start + np.cumsum([len(part) for part in parts])
        trees.append(Tree(start, tuple(ends.tolist())))
        start = trees[-1].end
    targets = [response for _, *responses in tokens for response in responses]
    sizes = [len(response) for response in targets]
    filling = np.zeros(-start % multiple, dtype=np.int64)

    def tensor(parts: Sequence[NDArray[np.integer]]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)

    return PackedTrees(
        input_ids=tensor([part for parts in tokens for part in parts] + [filling])[None],
        position_ids=tensor([_positions(tree) for tree in trees] + [filling])[None],
        trees=tuple(trees),
        predictors=tensor([_predictors(tree, response) for tree in trees for response in tree.responses]),
        targets=tensor(targets),
        responses=tensor([np.repeat(np.arange(len(sizes)), sizes)]),
    )


def _positions(tree: Tree) -> NDArray[np.int64]:
    n_prompt = tree.ends[0] - tree.start
    lengths = [response.stop - response.start for response in tree.responses]
    return np.concatenate([np.arange(n_prompt), *(n_prompt + np.arange(length) for length in lengths)])


def _predictors(tree: Tree, response: slice) -> NDArray[np.int64]:
    """The places that predict a response: the prompt's last token, then all of the response but its last."""
    return np.concatenate([[tree.ends[0] - 1], np.arange(response.start, response.stop - 1)])
