"""What a model makes of pairs: the log-probabilities of their responses, as numpy columns."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqdpo.policy.batches import for_each_batch
from seqdpo.policy.logps import tail_weights, tree_logps
from seqdpo.policy.ranks import own_share, summed_numbers
from seqdpo.policy.trees import PromptTree, TokenTree, distinct_trees, token_bytes
from seqdpo.preferences.tokens import PairTokens

Column = NDArray[np.float64]
TreeT = TypeVar("TreeT", bound=TokenTree)


class PairLogps(NamedTuple):
    """Log-probabilities of both responses of each pair, in nats, summed over response tokens."""

    chosen: Column  # (n_pairs,)
    rejected: Column  # (n_pairs,)

    @property
    def difference(self) -> Column:
        return self.chosen - self.rejected


def objective_logps(
    model: nn.Module,
    objectives: Mapping[str, Sequence[PairTokens]],
    tokens_per_batch: int | None,
    on_batch: Callable[[int], None] = lambda n_pairs: None,
    tail_weight: float | None = None,
) -> dict[str, PairLogps]:
    """`pair_logps` of every objective; a response that several of them hold is scored once."""

    def read(pairs: list[PairTokens]) -> PairLogps:
        return pair_logps(model, pairs, tokens_per_batch, on_batch, tail_weight)

    return {name: PairLogps(*logps) for name, logps in read_together(objectives, read, tail_weight).items()}


def read_together(
    objectives: Mapping[str, Sequence[PairTokens]],
    read: Callable[[list[PairTokens]], tuple[Column, Column]],
    tail_weight: float | None = None,
) -> dict[str, tuple[Column, Column]]:
    """What `read` makes of each objective's pairs, given those of a whole group of `sharing` at a time."""
    found: dict[str, tuple[Column, Column]] = {}
    for names in sharing(objectives, tail_weight):
        columns = read([pair for name in names for pair in objectives[name]])
        ends = np.cumsum([len(objectives[name]) for name in names])[:-1]
        found.update(zip(names, zip(*(np.split(column, ends) for column in columns), strict=True), strict=True))
    return {name: found[name] for name in objectives}


def sharing(objectives: Mapping[str, Sequence[PairTokens]], tail_weight: float | None = None) -> list[list[str]]:
    """Groups of objectives: two that have a prompt in common are in one, which is scored as a whole.

    An objective that shares none is its own group, so that its numbers do not depend on the others, not even in their
    last bits. So is every one where tokens are weighed: their weights depend on the pair.
    """
    groups: list[tuple[list[str], set[bytes]]] = []
    for name, pairs in objectives.items():
        names, prompts = [name], {token_bytes(pair.prompt) for pair in pairs}
        for group in [group for group in groups if tail_weight is None and group[1] & prompts]:
            groups.remove(group)
            names, prompts = group[0] + names, group[1] | prompts
        groups.append((names, prompts))
    places = {name: place for place, name in enumerate(objectives)}
    return [sorted(names, key=lambda name: places[name]) for names, _ in groups]


def n_tokens_read(objectives: Mapping[str, Sequence[PairTokens]], tail_weight: float | None = None) -> int:
    """Tokens that `objective_logps` puts through a model that reads packed trees."""
    if tail_weight is not None:
        return sum(pair.n_tokens for pairs in objectives.values() for pair in pairs)
    return distinct_trees([pair for pairs in objectives.values() for pair in pairs]).n_tokens


def pair_logps(
    model: nn.Module,
    pairs: Sequence[PairTokens],
    tokens_per_batch: int | None,
    on_batch: Callable[[int], None] = lambda n_pairs: None,
    tail_weight: float | None = None,
) -> PairLogps:
    """Scores pairs without gradients; results are in the order of `pairs`. `on_batch` hears the pairs done.

    A response that several pairs hold is scored once, unless tokens are weighed. Batches depend only on the pairs and
    the budget. `tail_weight` as in `seqdpo.policy.logps.response_logps`: a loss with `ld_alpha` weighs tokens so.
    """
    if tail_weight is None:

        def score(some: list[PromptTree]) -> Tensor:
            return tree_logps(model, some)

        return PairLogps(*pair_columns(model, pairs, tokens_per_batch, score, on_batch))

    def weighed(some: list[PairTokens]) -> Tensor:
        return tree_logps(model, some, tail_weights(some, tail_weight))

    places = np.arange(2 * len(pairs)).reshape(-1, 2)
    column = _column(model, pairs, own_share(pairs), tokens_per_batch, weighed, _Heard(places, on_batch))
    return PairLogps(*column[places].T)


def pair_columns(
    model: nn.Module,
    pairs: Sequence[PairTokens],
    tokens_per_batch: int | None,
    score: Callable[[list[PromptTree]], Tensor],
    on_batch: Callable[[int], None] = lambda n_pairs: None,
) -> tuple[Column, Column]:
    """What `score` makes of each pair's chosen and rejected response, batch by batch and without gradients.

    `score` is given trees, gives (n_responses,), and reads each distinct response once. Several processes share out
    the prompts, and all get the same columns.
    """
    trees, places = distinct_trees(pairs)
    owners = np.repeat(np.arange(len(trees)), [len(tree.responses) for tree in trees])
    own = np.flatnonzero(np.isin(owners, own_share(trees))).tolist()
    responses = [part for tree in trees for part in tree.parts]
    column = _column(model, responses, own, tokens_per_batch, score, _Heard(places, on_batch))
    chosen, rejected = column[places].T
    return chosen, rejected


def _column(
    model: nn.Module,
    trees: Sequence[TreeT],
    own: list[int],
    tokens_per_batch: int | None,
    score: Callable[[list[TreeT]], Tensor],
    heard: "_Heard",
) -> Column:
    """(n_responses,) of all trees, tree after tree; `own` are this process's, the others' come from them."""
    sizes = [len(tree.responses) for tree in trees]
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    column = np.zeros(sum(sizes))

    def add(batch: list[int]) -> None:
        some = [own[i] for i in batch]
        where = np.concatenate([rows[i] for i in some])
        column[where] = as_column(score([trees[i] for i in some]))
        heard.done(where)

    with torch.inference_mode():
        for_each_batch(model, [trees[i] for i in own], tokens_per_batch, add)
    summed = summed_numbers(column)
    heard.done(np.arange(len(column)))
    return summed


class _Heard:
    """Tells of pairs, each once, when both of its responses are scored."""

    def __init__(self, places: NDArray[np.int64], on_batch: Callable[[int], None]) -> None:
        self._waiting, self._on_batch = places, on_batch
        self._scored = np.zeros(places.max(initial=-1) + 1, dtype=bool)

    def done(self, where: NDArray[np.int64]) -> None:
        """Responses at these places are scored."""
        self._scored[where] = True
        left = self._waiting[~self._scored[self._waiting].all(axis=1)]
        n_pairs = len(self._waiting) - len(left)
        self._waiting = left
        if n_pairs:
            self._on_batch(n_pairs)


def as_column(values: Tensor) -> Column:
    """Where torch ends: a detached tensor as a float64 numpy column."""
    return values.detach().cpu().double().numpy()
