"""TRL's preference format: text or lists of messages, the prompt in a column or as what both responses share."""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, time
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from pydantic import Field

from seqdpo.preferences.datasets import Sourced
from seqdpo.preferences.messages import Conversation, calls_tools, cell, messages
from seqdpo.preferences.pairs import TEXT_ROLE, Candidates, Drop, Message, Pair, SliceValue, Split, as_json
from seqdpo.preferences.prompts import check_prompt_is_nowhere_else, check_prompt_stands_once, n_shared, shared_text
from seqdpo.preferences.rows import Row, as_number, kept, numbered
from seqdpo.preferences.sources.folders import subset_folder
from seqdpo.study.objectives import RESERVED_TEMPLATE_ARGUMENTS, SourcedObjective

_Column: TypeAlias = Literal[
    "prompt", "chosen", "rejected", "pair_id", "prompt_id", "strength", "tools", "chat_template_kwargs"
]
_COLUMNS: tuple[_Column, ...] = get_args(_Column)
_IMAGES = ("image", "images")
_SCALARS = str | int | float | date | time  # a null says no more than a column that is not there
_MAX_INT = 2**63  # Parquet integers end here
#: Rows at the beginning of a file that are looked through for a prompt in another column.
_LOOKED_THROUGH = 100


class PreferenceObjective(SourcedObjective):
    """Anything in TRL's preference format."""

    format: Literal["preference"]
    subset: str | None = None  # a configuration of the hub or of a dataset card, or a folder
    columns: dict[_Column, str] = Field(default_factory=dict)


class _Parts(NamedTuple):
    prompt: Conversation
    chosen: Message
    rejected: Message


def candidates(
    rows: Iterable[dict[str, Any]], objective: PreferenceObjective, split: Split | None, where: str
) -> Candidates:
    """One pair a row.

    A text prompt becomes one message in TEXT_ROLE. Without a prompt column the prompt is the longest beginning that
    `chosen` and `rejected` share: whole messages, or text cut back by one space where it ends on one, as TRL does.
    (Unlike TRL, a response that is wholly the beginning of the other one is an empty response.)
    A text prompt beside message lists is taken as a copy of what they begin with, as TRL does.
    A response must be one assistant message that calls no tools; others are dropped. What messages hold beside role
    and content goes to the chat template, as do `tools` and `chat_template_kwargs`. A cell of text that is a JSON
    list of messages counts as that list.

    Slices: every other column with a number, text, truth value or date; columns with lists or objects (`messages`)
    are left out.
    Raises: DataError for a row with a column that is missing or of the wrong type, or where text and message lists
        are mixed, or with pictures, or where the prompt column is there in some rows only, or where the prompt seems
        to lie in another column.
    """
    columns: dict[str, str] = {ours: objective.columns.get(ours, ours) for ours in _COLUMNS}
    rest = iter(rows)
    first = list(islice(rest, _LOOKED_THROUGH))
    explicit = bool(first) and _has_prompt(first[0], objective)
    if explicit:
        check_prompt_stands_once(first, columns, where)
    else:
        check_prompt_is_nowhere_else(first, columns, where)
    for row in numbered(chain(first, rest), where):
        if _has_prompt(row.values, objective) != explicit:
            raise row.wrong(
                columns["prompt"], row.values.get(columns["prompt"]), f"a prompt in {'every' if explicit else 'no'} row"
            )
        yield row.explained(_candidate(row, columns, objective, explicit, split))


def _has_prompt(values: Mapping[str, Any], objective: PreferenceObjective) -> bool:
    return "prompt" in objective.columns or "prompt" in values


def _candidate(
    row: Row, columns: Mapping[str, str], objective: PreferenceObjective, explicit: bool, split: Split | None
) -> Pair | Drop:
    parts = _parts(row, columns, explicit)
    given = {ours: _given(row, columns[ours], ours in objective.columns) for ours in ("pair_id", "prompt_id")}
    strength = _strength(row, columns["strength"], "strength" in objective.columns)
    tools = _json(row, columns["tools"], list, "a list of tools", "tools" in objective.columns)
    kwargs = _json(
        row, columns["chat_template_kwargs"], dict, "named arguments", "chat_template_kwargs" in objective.columns
    )
    _check_text_only(row)
    if isinstance(parts, Drop):
        return parts
    return kept(
        Pair(
            prompt=parts.prompt,
            chosen=parts.chosen.content,
            rejected=parts.rejected.content,
            upstream_split=split,
            strength=strength,
            slices=_slices(row, set(columns.values())),
            given_pair_id=given["pair_id"],
            given_prompt_id=given["prompt_id"],
            chosen_more=parts.chosen.more,
            rejected_more=parts.rejected.more,
            tools=tools,
            chat_template_kwargs=kwargs,
        )
    )


def _parts(row: Row, columns: Mapping[str, str], explicit: bool) -> _Parts | Drop:
    """Prompt and responses of a row, standard or conversational."""
    chosen, rejected = cell(row, columns["chosen"]), cell(row, columns["rejected"])
    prompt = cell(row, columns["prompt"]) if explicit else None
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(prompt, list):
            raise row.wrong(columns["prompt"], prompt, "text, because 'chosen' and 'rejected' are text")
        return _text_parts(prompt, chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        column = columns["chosen"] if isinstance(chosen, str) else columns["rejected"]
        raise row.wrong(column, row.values[column], "a list of messages like the other response")
    histories = messages(row, columns["chosen"], chosen), messages(row, columns["rejected"], rejected)
    if isinstance(prompt, list):
        return _conversation_parts(row, messages(row, columns["prompt"], prompt), *histories)
    shared = n_shared(*histories)
    if isinstance(prompt, str) and not shared:
        expected = "a list of messages, because 'chosen' and 'rejected' are lists that share no beginning"
        raise row.wrong(
            columns["prompt"], prompt, expected, "Write it as a list: [{'role': 'user', 'content': the text}]."
        )
    return _implicit_conversation_parts(row, shared, *histories)


def _text_parts(prompt: str | None, chosen: str, rejected: str) -> _Parts | Drop:
    if prompt is None:
        if chosen == rejected:
            return Drop("identical_responses")
        shared = shared_text(chosen, rejected)
        if not shared:
            return Drop("no_shared_prompt")
        prompt, chosen, rejected = shared, chosen[len(shared) :], rejected[len(shared) :]
    if not prompt:
        return Drop("empty_prompt")
    return _Parts((Message(TEXT_ROLE, prompt),), Message("assistant", chosen), Message("assistant", rejected))


def _implicit_conversation_parts(row: Row, shared: int, chosen: Conversation, rejected: Conversation) -> _Parts | Drop:
    if chosen == rejected:
        return Drop("identical_responses")
    if not shared:
        return Drop("no_shared_prompt")
    return _conversation_parts(row, chosen[:shared], chosen[shared:], rejected[shared:])


def _conversation_parts(row: Row, prompt: Conversation, chosen: Conversation, rejected: Conversation) -> _Parts | Drop:
    for response in (chosen, rejected):
        if len(response) > 1:
            return row.dropped("response_has_several_messages", [message.as_dict() for message in response])
    if not chosen or not rejected:
        return Drop("empty_response")
    for response in (chosen, rejected):
        if response[0].role != "assistant":
            return row.dropped("response_not_by_assistant", f"role {response[0].role!r}")
        if calls_tools(response[0]):
            return row.dropped("tool_calls", response[0].as_dict())
    return _Parts(prompt, chosen[0], rejected[0])


def _json(row: Row, column: str, kind: type, expected: str, required: bool) -> str:
    """A list or an object, also as its JSON text, as JSON; nothing where there is none."""
    value = row.value(column, expected) if required else row.values.get(column)
    try:
        value = json.loads(value) if isinstance(value, str) and value.strip() else value
        text = as_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise row.wrong(column, value, f"{expected}, as JSON") from error
    if value is None or value in ("", {}):
        return ""
    if not isinstance(value, kind):
        raise row.wrong(column, value, expected)
    if isinstance(value, dict) and (reserved := sorted(RESERVED_TEMPLATE_ARGUMENTS & value.keys())):
        raise row.wrong(column, value, f"no {' or '.join(reserved)} among them")
    return text


def _check_text_only(row: Row) -> None:
    for column in _IMAGES:
        if row.values.get(column):
            action = "Only text is read: remove the column if the pictures do not matter, else these rows."
            raise row.wrong(column, row.values[column], "no pictures", action)


def _given(row: Row, column: str, required: bool) -> str | None:
    """An id that came with the data; None where there is none."""
    value = row.value(column, "an id") if required else row.values.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise row.wrong(column, value, "an id, text or a whole number")
    return str(value)


def _strength(row: Row, column: str, required: bool) -> float | None:
    value = row.value(column, "a number") if required else row.values.get(column)
    if value is None or value == "":
        return None
    number = as_number(value)
    if number is None:
        raise row.wrong(column, value, "a finite number")
    return number


def _slices(row: Row, used: set[str]) -> dict[str, SliceValue]:
    others = {name: value for name, value in row.values.items() if name not in used}
    return {name: _slice_value(value) for name, value in others.items() if isinstance(value, _SCALARS)}


def _slice_value(value: Any) -> SliceValue:
    """The value as a Parquet file can hold it."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # a lone surrogate becomes '?'
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, int) and not -_MAX_INT <= value < _MAX_INT:
        return str(value)
    assert isinstance(value, int | float)
    return value


def _folders(folder: Path, objective: PreferenceObjective) -> list[Path]:
    return [folder if objective.subset is None else subset_folder(folder, objective.subset)]


def _alike(values: dict[str, Any], objective: PreferenceObjective) -> str:
    column = objective.columns.get("prompt", "prompt")
    return f"{'with' if column in values else 'without'} a column {column!r}"


FORMAT = Sourced(
    PreferenceObjective, candidates, _folders, hub=lambda objective: {"name": objective.subset}, alike=_alike
)
