"""One train/eval split for the whole study, drawn by prompt, and limits drawn by hash."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from seqdpo.errors import DataError
from seqdpo.preferences.pairs import Candidates, Drop, Pair, Split, content_hash


@dataclass(slots=True)
class Reading:
    """The pairs of one objective as read, and what was dropped: kept + dropped = read."""

    pairs: list[Pair] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # the first drop of each reason: where it was, and what
    n_bytes: int = 0  # of the texts

    def drop(self, drop: Drop) -> None:
        self.dropped[drop.reason] += 1
        self.examples.setdefault(drop.reason, drop.example)

    @property
    def read(self) -> int:
        return len(self.pairs) + self.dropped.total()


def collect(objective: str, candidates: Candidates, most_bytes: int = sys.maxsize) -> Reading:
    """All pairs of an objective, each content once.

    Raises: DataError if two different pairs carry the same given pair_id, or their texts take more than `most_bytes`.
    """
    reading = Reading()
    seen: dict[str, Pair] = {}
    for candidate in candidates:
        if isinstance(candidate, Drop):
            reading.drop(candidate)
        elif not _is_unicode(candidate):
            reading.drop(Drop("not_unicode"))
        elif candidate.pair_id in seen:
            _check_same_content(objective, candidate, seen[candidate.pair_id])
            reading.drop(Drop("duplicate"))
        else:
            seen[candidate.pair_id] = candidate
            reading.pairs.append(candidate)
            reading.n_bytes += sum(map(sys.getsizeof, candidate.texts()))
            if reading.n_bytes > most_bytes:  # a small compressed file may hold more than any machine
                raise DataError(
                    f"objective {objective!r}: the texts of its first {len(reading.pairs):,} pairs take more than "
                    f"{most_bytes / 2**30:.1f} GiB, what is left of half of this machine's memory; expected less. "
                    "Give a file with fewer rows, or a machine with more memory."
                )
    return reading


def assign_splits(
    readings: Mapping[str, Reading], eval_fraction: float, prompts_read: Iterable[tuple[str, str]] = ()
) -> dict[str, dict[Split, list[Pair]]]:
    """Splits every objective's pairs so that no prompt is trained on by one and evaluated by another.

    `prompts_read` are (prompt_hash, what the model reads of it): prompts that read alike are one prompt here.
    A prompt in any upstream training split is a training prompt for the whole study; else one in an upstream
    test split is an evaluation prompt; the rest are drawn by hash. Upstream test pairs whose prompt is trained
    on are dropped and counted as `eval_prompt_in_train`. Every list is in the order of hashed pair ids, so its
    first n are a draw of n that depends neither on the order of the rows nor on n.
    """
    groups = _prompt_groups((pair for reading in readings.values() for pair in reading.pairs), prompts_read)
    upstream: dict[str, set[Split | None]] = {}
    for reading in readings.values():
        for pair in reading.pairs:
            upstream.setdefault(groups[pair.prompt_hash], set()).add(pair.upstream_split)
    split_of = {group: _split_of_group(group, found, eval_fraction) for group, found in upstream.items()}
    return {name: _split_reading(reading, groups, split_of) for name, reading in readings.items()}


def _split_reading(
    reading: Reading, groups: Mapping[str, str], split_of: Mapping[str, Split]
) -> dict[Split, list[Pair]]:
    splits: dict[Split, list[Pair]] = {"train": [], "eval": []}
    for pair in sorted(reading.pairs, key=lambda pair: content_hash(["draw", pair.pair_id])):
        split = split_of[groups[pair.prompt_hash]]
        if split == "train" and pair.upstream_split == "eval":
            reading.drop(Drop("eval_prompt_in_train"))
        else:
            splits[split].append(pair)
    reading.pairs = [*splits["train"], *splits["eval"]]
    return splits


def _split_of_group(group: str, upstream: set[Split | None], eval_fraction: float) -> Split:
    if "train" in upstream:
        return "train"
    if "eval" in upstream:
        return "eval"
    return "eval" if int(content_hash(["split", group]), 16) / 2**64 < eval_fraction else "train"


def _prompt_groups(pairs: Iterable[Pair], prompts_read: Iterable[tuple[str, str]]) -> dict[str, str]:
    """For each prompt's hash the name of its group: those of one given prompt_id, or that read alike, together."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    def join(one: str, other: str) -> None:
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)  # the smallest name wins, so the order of the rows does not matter

    hashes = set()
    for pair in pairs:
        hashes.add(pair.prompt_hash)
        join(pair.prompt_hash, pair.prompt_id)
    first: dict[str, str] = {}
    for prompt_hash, read in prompts_read:
        join(prompt_hash, first.setdefault(read, prompt_hash))
    return {prompt_hash: root(prompt_hash) for prompt_hash in hashes}


def _is_unicode(pair: Pair) -> bool:
    """False for lone surrogates, which neither a tokenizer nor a Parquet file can hold."""
    try:
        for text in (pair.given_pair_id or "", pair.given_prompt_id or "", *pair.texts()):
            text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_same_content(objective: str, pair: Pair, earlier: Pair) -> None:
    if (pair.prompt, pair.texts()) != (earlier.prompt, earlier.texts()):
        raise DataError(
            f"objective {objective!r}: pair_id = {pair.pair_id!r} names two different pairs; expected one id a pair. "
            "Make the ids unique, or leave the column out and ids are made from the content."
        )
