"""A cell that holds text or a list of messages, as files of many kinds hold it."""

import json
import re
from typing import Any, TypeAlias

from seqdpo.errors import DataError
from seqdpo.preferences.pairs import Message, as_json
from seqdpo.preferences.rows import Row

Conversation: TypeAlias = tuple[Message, ...]
EXPECTED = "text or a list of messages, each with a text 'role' and a text 'content'"
_MESSAGE = "a message with a text 'role' and a text 'content'"
_LOOKS_LIKE_MESSAGES = re.compile(r"""\s*(array\()?\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")
#: ShareGPT's `from`, and the role that it is.
_SHAREGPT_ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_TOOL_CALLS = ("tool_calls", "function_call")


def cell(row: Row, column: str) -> str | list[Any]:
    """A text or a list; a text that is a JSON list of messages counts as that list, and one message as a list of it.

    Raises: DataError for anything else, and for a text that is Python's or numpy's print of messages.
    """
    value = row.value(column, EXPECTED)
    if isinstance(value, str):
        found = messages_in_text(value)
        if found is None and _LOOKS_LIKE_MESSAGES.match(value) and not _is_json(value):
            raise row.wrong(
                column,
                value,
                "text, or messages as JSON",
                "This is a print of messages, not JSON: write the cell with json.dumps, or save the rows as JSON lines "
                "or Parquet.",
            )
        return found or value
    if isinstance(value, dict) and (value.keys() >= {"role", "content"} or value.keys() >= {"from", "value"}):
        return [value]
    if not isinstance(value, list):
        raise row.wrong(column, value, EXPECTED)
    return value


def messages(row: Row, column: str, value: list[Any]) -> Conversation:
    """Raises: DataError for an item that is no message, or holds more than text."""
    return tuple(_message(row, f"{column}[{i}]", item) for i, item in enumerate(value))


def calls_tools(message: Message) -> bool:
    """Whether it calls tools, which a text cannot hold."""
    return any(message.as_dict().get(key) for key in _TOOL_CALLS)


def messages_in_text(text: str) -> list[Any] | None:
    """The list of messages that a cell of a CSV file can only hold as JSON."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_messages = isinstance(value, list) and all(
        isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value
    )
    return value if is_messages else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _message(row: Row, path: str, item: object) -> Message:
    """Role and content, and whatever else stands there for the chat template to read.

    A null says no more than a key that is not there: Parquet and Arrow fill every message up with them.
    """
    if isinstance(item, dict) and item.get("from") in _SHAREGPT_ROLES and "role" not in item:
        others = {key: value for key, value in item.items() if key not in ("from", "value")}
        item = {"role": _SHAREGPT_ROLES[item["from"]], "content": item.get("value"), **others}
    if not isinstance(item, dict) or not isinstance(item.get("role"), str):
        raise _no_message(row, path, item)
    more = {key: value for key, value in item.items() if key not in ("role", "content") and value is not None}
    content = item.get("content")
    if content is None and any(more.get(key) for key in _TOOL_CALLS):
        more["content"] = None
        content = ""
    if not isinstance(content, str):
        raise _no_message(row, path, item)
    try:
        return Message(item["role"], content, as_json(more) if more else "")
    except (TypeError, ValueError) as error:
        raise row.wrong(path, item, "values that JSON can hold") from error


def _no_message(row: Row, path: str, item: object) -> DataError:
    if isinstance(item, dict) and {"from", "value"} <= item.keys():
        action = f"Of ShareGPT's speakers {', '.join(_SHAREGPT_ROLES)} are read: write role and content for others."
        return row.wrong(path, item, _MESSAGE, action)
    if isinstance(item, dict) and isinstance(item.get("content"), list):
        return row.wrong(
            path, item, _MESSAGE, "Only text is read: write the content as one text, without pictures and sounds."
        )
    return row.wrong(path, item, _MESSAGE)
