"""HelpSteer2 (`nvidia/HelpSteer2`): two rated responses to a prompt, in adjacent rows."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import Field

from seqdpo.preferences.datasets import Sourced
from seqdpo.preferences.pairs import Candidates, Drop, Message, Pair, Split
from seqdpo.preferences.rows import Row, kept, merged, numbered
from seqdpo.study.objectives import Source, SourcedObjective

_TURN = re.compile(r"(?:\A|\n)<extra_id_1>(User|Assistant)(?=\n|\Z)")
_ROLES = {"User": "user", "Assistant": "assistant"}


class HelpSteer2Objective(SourcedObjective):
    """HelpSteer2: two rated responses to a prompt; the one with the preferred rating of `attribute` is chosen."""

    format: Literal["helpsteer2"]
    dataset_name: Source = "nvidia/HelpSteer2"
    attribute: Literal["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
    prefer: Literal["higher", "lower"] = "higher"
    min_gap: int = Field(default=1, ge=1, le=4)


def candidates(
    rows: Iterable[dict[str, Any]], objective: HelpSteer2Objective, split: Split | None, where: str
) -> Candidates:
    """One pair for each two adjacent rows with the same prompt; strength is the gap of their ratings.

    Slices: n_turns, the number of messages in the prompt.
    Raises: DataError for a row whose `prompt`, `response` or rated attribute is missing or of the wrong type.
    """
    for first, second in _partners(numbered(rows, where)):
        yield first.explained(Drop("no_partner") if second is None else _candidate(first, second, objective, split))


def _partners(rows: Iterator[Row]) -> Iterator[tuple[Row, Row | None]]:
    """Adjacent rows with the same prompt, each row once; a row without such a neighbour comes alone."""
    waiting = None
    for row in rows:
        if waiting is None:
            waiting = row
        elif waiting.text("prompt") == row.text("prompt"):
            yield waiting, row
            waiting = None
        else:
            yield waiting, None
            waiting = row
    if waiting is not None:
        yield waiting, None


def _candidate(first: Row, second: Row, objective: HelpSteer2Objective, split: Split | None) -> Pair | Drop:
    ratings = [row.integer(objective.attribute, 0, 4) for row in (first, second)]
    responses = [row.text("response") for row in (first, second)]
    prompt = _messages(first.text("prompt"))
    gap = abs(ratings[0] - ratings[1])
    if gap == 0:
        return Drop("equal_ratings")
    if gap < objective.min_gap:
        return Drop("gap_below_min")
    if prompt[-1].role != "user":
        return Drop("prompt_ends_on_assistant")
    better = ratings.index(max(ratings) if objective.prefer == "higher" else min(ratings))
    return kept(
        Pair(
            prompt=prompt,
            chosen=responses[better],
            rejected=responses[1 - better],
            upstream_split=split,
            strength=float(gap),
            slices={"n_turns": len(prompt)},
        )
    )


def _messages(prompt: str) -> tuple[Message, ...]:
    """The turns of a prompt: the first user turn stands bare, each later one follows its marker's line."""
    first, *parts = _TURN.split(prompt)
    later = [Message(_ROLES[name], text.removeprefix("\n")) for name, text in zip(parts[::2], parts[1::2], strict=True)]
    return merged([Message("user", first), *later] if first or not later else later)


FORMAT = Sourced(HelpSteer2Objective, candidates)
