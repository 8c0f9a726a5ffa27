"""All preferences of a study: read, split, tokenised and limited, every dropped row counted."""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from seqdpo.errors import DataError, Problems
from seqdpo.preferences.pairs import Candidates, Drop, Pair, Split, content_hash
from seqdpo.preferences.splits import Reading, assign_splits, collect
from seqdpo.preferences.tokens import PairTokens, Tokeniser
from seqdpo.study.keys import TreeKeys

_MAX_NOTED = 5


class PreparedPair(NamedTuple):
    """A pair with its tokens."""

    pair: Pair
    tokens: PairTokens


@dataclass(frozen=True, slots=True)
class PreparedObjective:
    """The pairs of one objective, both splits sorted by pair_id; kept + dropped = read."""

    train: list[PreparedPair]
    eval: list[PreparedPair]
    read: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Preferences:
    """The pairs of a whole study."""

    objectives: dict[str, PreparedObjective]
    notes: dict[str, int]  # what the tokeniser found, with the number of pairs
    chat_template_hash: str | None  # SHA-256; None where all prompts are plain text

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with one of its responses."""
        pairs = (pair for objective in self.objectives.values() for pair in [*objective.train, *objective.eval])
        return max(pair.tokens.longest for pair in pairs)

    def accounts(self) -> dict[str, Any]:
        """For each objective what was read, kept and dropped, by reason: the content of data/dropped.json."""
        return {
            name: {
                "read": objective.read,
                "train": len(objective.train),
                "eval": len(objective.eval),
                "dropped": objective.dropped,
            }
            for name, objective in self.objectives.items()
        }

    def content_hash(self) -> str:
        """Changes with any pair, split or token."""
        return content_hash(
            {
                name: [tokens_hash(objective.train), tokens_hash(objective.eval)]
                for name, objective in self.objectives.items()
            }
        )


def tokens_hash(pairs: Iterable[PreparedPair]) -> str:
    """A hash of the ids and the tokens of pairs, in order."""
    return content_hash([[pair.pair_id, *(ids.tobytes().hex() for ids in tokens[:3])] for pair, tokens in pairs])


def prepare(
    keys: TreeKeys,
    candidates: Mapping[str, Candidates],
    tokeniser: Tokeniser,
    progress: Callable[[str], None] = lambda text: None,
) -> Preferences:
    """Reads and tokenises the pairs of every objective.

    Raises: what reading raises, of all objectives at once; DataError that lists, for every objective without
        training or evaluation pairs, what was dropped and why; and what `Tokeniser.tokenise` raises.
    """
    readings = {}
    problems = Problems()
    for name, objective_candidates in candidates.items():
        progress(f"reading {name}")
        with problems.collected():
            readings[name] = collect(name, objective_candidates)
    problems.raise_all()
    splits = assign_splits(readings, keys.eval_fraction)
    objectives = {}
    for name, reading in readings.items():
        progress(f"tokenising {name}")
        objectives[name] = _prepare_objective(keys, name, reading, splits[name], tokeniser)
    _check_not_empty(objectives, keys.trained_objectives(), tokeniser.notes)
    return Preferences(objectives, dict(tokeniser.notes), tokeniser.chat_template_hash)


def _prepare_objective(
    keys: TreeKeys, name: str, reading: Reading, splits: Mapping[Split, list[Pair]], tokeniser: Tokeniser
) -> PreparedObjective:
    read, dropped = reading.read, reading.dropped
    train = _draw(splits["train"], keys.train_limit(name), "over_max_train_pairs", tokeniser, dropped)
    held_out = _draw(splits["eval"], keys.eval_limit(name), "over_max_eval_pairs", tokeniser, dropped)
    return PreparedObjective(train, held_out, read, dict(sorted(dropped.items())))


def _draw(
    pairs: list[Pair], limit: int | None, over_limit: str, tokeniser: Tokeniser, dropped: Counter[str]
) -> list[PreparedPair]:
    """The first `limit` pairs that can be tokenised; pairs come in the order of their hashes."""
    kept: list[PreparedPair] = []
    seen = 0
    for pair, tokens in tokeniser.tokenise(pairs):
        if limit is not None and len(kept) == limit:
            break
        seen += 1
        if isinstance(tokens, Drop):
            dropped[tokens.reason] += 1
        else:
            kept.append(PreparedPair(pair, tokens))
    if seen < len(pairs):
        dropped[over_limit] += len(pairs) - seen
    return sorted(kept, key=lambda prepared: prepared.pair.pair_id)


def _check_not_empty(
    objectives: Mapping[str, PreparedObjective], trained: Container[str], notes: Mapping[str, int]
) -> None:
    problems = [
        f"objective {name!r}: no {label} pairs; {objective.read} read, {_reasons(objective.dropped)}"
        for name, objective in objectives.items()
        for label, pairs in (("training", objective.train), ("evaluation", objective.eval))
        if not pairs and (label == "evaluation" or name in trained)
    ]
    if problems:
        noted = [f"note: {n} pairs: {note}" for note, n in list(notes.items())[:_MAX_NOTED]]
        remedy = (
            "Expected at least one of each. Train and evaluation pairs are parted by prompt (eval_fraction): are there "
            "enough prompts? max_length and the objective's own keys decide what is dropped."
        )
        raise DataError("\n".join([*problems, *noted, remedy]))


def _reasons(dropped: Mapping[str, int]) -> str:
    return "dropped: " + (", ".join(f"{n} {reason}" for reason, n in dropped.items()) or "none")
