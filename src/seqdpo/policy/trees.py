"""Prompts with their responses: what a model reads. A pair has two; a prompt's responses of all pairs may be more."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seqdpo.preferences.tokens import PairTokens, TokenIds


class PromptTree(NamedTuple):
    """One prompt and one or more responses to it, as token ids."""

    prompt: TokenIds
    responses: tuple[TokenIds, ...]

    @property
    def n_tokens(self) -> int:
        """Distinct tokens: the prompt once, and all responses."""
        return len(self.prompt) + sum(map(len, self.responses))

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest response."""
        return len(self.prompt) + max(map(len, self.responses))

    @property
    def parts(self) -> "list[PromptTree]":
        """The responses one by one, each after the very same prompt."""
        return [PromptTree(self.prompt, (response,)) for response in self.responses]


#: Whatever has a prompt and responses to it.
TokenTree: TypeAlias = PairTokens | PromptTree


class DistinctTrees(NamedTuple):
    """Every prompt of some pairs once, with every response to it once."""

    trees: list[PromptTree]
    places: NDArray[np.int64]  # (n_pairs, 2) of each pair's chosen and rejected among the responses of all trees

    @property
    def n_tokens(self) -> int:
        return sum(tree.n_tokens for tree in self.trees)


def distinct_trees(pairs: Sequence[PairTokens]) -> DistinctTrees:
    """What is to be read of pairs so that each response is read once, in the order in which they come."""
    prompts: dict[bytes, TokenIds] = {}
    responses: defaultdict[bytes, dict[bytes, TokenIds]] = defaultdict(dict)
    for pair in pairs:
        prompt = prompts.setdefault(token_bytes(pair.prompt), pair.prompt)
        for response in pair.responses:
            responses[token_bytes(prompt)].setdefault(token_bytes(response), response)
    places = {key: place for place, key in enumerate((prompt, one) for prompt in prompts for one in responses[prompt])}
    where = [[places[token_bytes(p.prompt), token_bytes(response)] for response in p.responses] for p in pairs]
    trees = [PromptTree(ids, tuple(responses[prompt].values())) for prompt, ids in prompts.items()]
    return DistinctTrees(trees, np.array(where, dtype=np.int64).reshape(-1, 2))


def token_bytes(ids: TokenIds) -> bytes:
    """Equal for equal tokens."""
    return np.asarray(ids, dtype=np.int32).tobytes()


def joined(trees: Iterable[TokenTree]) -> list[PromptTree]:
    """The trees in their order; those with the very same prompt, one after another, are one."""
    found: list[PromptTree] = []
    for tree in trees:
        before = found.pop().responses if found and found[-1].prompt is tree.prompt else ()
        found.append(PromptTree(tree.prompt, (*before, *tree.responses)))
    return found
