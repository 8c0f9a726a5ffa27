"""HH-RLHF (`Anthropic/hh-rlhf`): two whole dialogues that part at the last assistant turn."""

import re
from collections.abc import Iterable
from typing import Any, Literal

from seqdpo.preferences.datasets import Sourced
from seqdpo.preferences.pairs import Candidates, Drop, Message, Pair, Split
from seqdpo.preferences.rows import Row, kept, merged, numbered
from seqdpo.preferences.sources.folders import subset_folder
from seqdpo.study.objectives import Source, SourcedObjective

#: "Human:" inside a sentence opens no turn: a blank line must come before it. An empty turn can lack the space.
_TURN = re.compile(r"\n\n(Human|Assistant):(?: |(?=\n)|\Z)")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class HhRlhfObjective(SourcedObjective):
    """HH-RLHF: whole dialogues, the better one as `chosen`."""

    format: Literal["hh-rlhf"]
    dataset_name: Source = "Anthropic/hh-rlhf"
    subset: Literal["helpful-base", "harmless-base", "helpful-online", "helpful-rejection-sampled"]


def candidates(
    rows: Iterable[dict[str, Any]], objective: HhRlhfObjective, split: Split | None, where: str
) -> Candidates:
    """One pair a row: the prompt is the dialogue up to the last assistant turn.

    Slices: n_turns, the number of messages in the prompt.
    Raises: DataError for a row whose `chosen` or `rejected` is missing or no text.
    """
    for row in numbered(rows, where):
        yield row.explained(_candidate(row, split))


def _candidate(row: Row, split: Split | None) -> Pair | Drop:
    chosen, rejected = _turns(row.text("chosen")), _turns(row.text("rejected"))
    if chosen is None or rejected is None:
        return Drop("not_a_dialogue")
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        return Drop("no_assistant_response")
    if chosen[:-1] != rejected[:-1]:
        return Drop("histories_differ")
    # Merged after the comparison: a history that ends on an assistant turn becomes the beginning of both responses.
    *prompt, chosen_response = merged(chosen)
    rejected_response = merged(rejected)[-1]
    return kept(
        Pair(
            prompt=tuple(prompt),
            chosen=chosen_response.content,
            rejected=rejected_response.content,
            upstream_split=split,
            slices={"n_turns": len(prompt)},
        )
    )


def _turns(dialogue: str) -> list[Message] | None:
    """All turns as they stand, empty ones too; None for a text that does not begin with a turn."""
    before, *parts = _TURN.split(dialogue)
    if before.strip() or not parts:
        return None
    return [Message(_ROLES[name], text) for name, text in zip(parts[::2], parts[1::2], strict=True)]


FORMAT = Sourced(
    HhRlhfObjective,
    candidates,
    folders=lambda folder, objective: [subset_folder(folder, objective.subset)],
    carded=False,
    hub=lambda objective: {"data_dir": objective.subset},  # upstream has folders, and no configurations
)
