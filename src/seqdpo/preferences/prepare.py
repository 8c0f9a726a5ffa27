"""All preferences of a study: read, split, tokenised and limited, every dropped row counted."""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from seqdpo.errors import DataError, Problems
from seqdpo.preferences.drops import remedy
from seqdpo.preferences.pairs import Candidates, Drop, Pair, Split, content_hash, is_plain_text
from seqdpo.preferences.splits import Reading, assign_splits, collect
from seqdpo.preferences.tokens import PairTokens, Tokeniser
from seqdpo.study.keys import TreeKeys

_MAX_NOTED = 5
_MAX_EXPLAINED = 3  # reasons of drops in a message


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

    @property
    def pairs(self) -> list[PreparedPair]:
        return [*self.train, *self.eval]


@dataclass(frozen=True, slots=True)
class Preferences:
    """The pairs of a whole study."""

    objectives: dict[str, PreparedObjective]
    notes: dict[str, int]  # what the tokeniser found, with the number of pairs
    chat_template_hash: str | None  # SHA-256; None where all prompts are plain text

    @property
    def held_out(self) -> dict[str, list[PreparedPair]]:
        """The evaluation pairs of every objective."""
        return {name: objective.eval for name, objective in self.objectives.items()}

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with one of its responses."""
        pairs = (pair for objective in self.objectives.values() for pair in objective.pairs)
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
    progress("comparing prompts")
    pairs = chain.from_iterable(reading.pairs for reading in readings.values())
    splits = assign_splits(readings, keys.eval_fraction, tokeniser.prompts_read(pairs))
    objectives = {}
    for name, reading in readings.items():
        progress(f"tokenising {name}")
        objectives[name] = _prepare_objective(keys, name, reading, splits[name], tokeniser)
    _check_not_empty(objectives, readings, keys.trained_objectives(), tokeniser.notes)
    all_plain = all(is_plain_text(pair.prompt) for objective in objectives.values() for pair, _ in objective.pairs)
    return Preferences(objectives, dict(tokeniser.notes), None if all_plain else tokeniser.chat_template_hash)


def _prepare_objective(
    keys: TreeKeys, name: str, reading: Reading, splits: Mapping[Split, list[Pair]], tokeniser: Tokeniser
) -> PreparedObjective:
    read = reading.read
    if name == keys.learned:
        train: list[PreparedPair] = []
        reading.dropped["learned_before"] += len(splits["train"])
    else:
        train = _draw(splits["train"], keys.train_limit(name), "over_max_train_pairs", tokeniser, reading)
    held_out = _draw(splits["eval"], keys.eval_limit(name), "over_max_eval_pairs", tokeniser, reading)
    return PreparedObjective(train, held_out, read, dict(sorted(reading.dropped.items())))


def _draw(
    pairs: list[Pair], limit: int | None, over_limit: str, tokeniser: Tokeniser, reading: Reading
) -> list[PreparedPair]:
    """The first `limit` pairs that can be tokenised; pairs come in the order of their hashes."""
    kept: list[PreparedPair] = []
    seen = 0
    for pair, tokens in tokeniser.tokenise(pairs):
        if limit is not None and len(kept) == limit:
            break
        seen += 1
        if isinstance(tokens, Drop):
            reading.drop(tokens)
        else:
            kept.append(PreparedPair(pair, tokens))
    if seen < len(pairs):
        reading.dropped[over_limit] += len(pairs) - seen
    return sorted(kept, key=lambda prepared: prepared.pair.pair_id)


def _check_not_empty(
    objectives: Mapping[str, PreparedObjective],
    readings: Mapping[str, Reading],
    trained: Container[str],
    notes: Mapping[str, int],
) -> None:
    problems = []
    for name, objective in objectives.items():
        missing = [
            label
            for label, pairs in (("training", objective.train), ("evaluation", objective.eval))
            if not pairs and (label == "evaluation" or name in trained)
        ]
        for label in missing:
            problems.append(
                f"objective {name!r}: no {label} pairs; {objective.read} read, {_reasons(objective.dropped)}"
            )
        if missing:
            problems += _explanations(objective, readings[name].examples)
    if problems:
        noted = [f"note: {n} pairs: {note}" for note, n in list(notes.items())[:_MAX_NOTED]]
        raise DataError("\n".join([*problems, *noted]))


def _reasons(dropped: Mapping[str, int]) -> str:
    return "dropped: " + (", ".join(f"{n} {reason}" for reason, n in dropped.items()) or "none")


def _explanations(objective: PreparedObjective, examples: Mapping[str, str]) -> Iterator[str]:
    """The first row of each frequent reason, with what to do."""
    frequent = [reason for reason, _ in Counter(objective.dropped).most_common(_MAX_EXPLAINED)]
    for reason in frequent:
        example = examples.get(reason)
        yield f"  {reason}{f', first {example}' if example else ''}. {remedy(reason)}"
    if sum(objective.dropped.values()) < objective.read or not frequent:
        yield (
            "  Expected at least one of each: train and evaluation pairs are parted by prompt (eval_fraction); are "
            "there enough prompts?"
        )
