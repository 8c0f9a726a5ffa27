"""Where the prompt of a row lies: in a column, or in what both responses begin with, or in neither as it seems."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from seqdpo.errors import DataError
from seqdpo.preferences.messages import messages_in_text
from seqdpo.wording import brief

#: Names under which others keep prompts.
_PROMPT_NAMES = set(
    "prompts question questions query instruction instructions input inputs problem request user user_prompt "
    "user_input user_message user_query input_text prompt_text text_prompt context post human conversation history "
    "dialogue".split()
)
_FEW_CHARACTERS = 20  # shared by chance rather than as a prompt
_MANY_CHARACTERS = 100  # hardly shared by chance


def shared_text(chosen: str, rejected: str) -> str:
    """What both texts begin with, cut back by one space where it ends on one, as TRL does."""
    shared = chosen[: n_shared(chosen, rejected)]
    return shared[:-1] if shared.endswith(" ") else shared


def n_shared(first: Sequence[object], second: Sequence[object]) -> int:
    """The length of the longest common beginning."""
    differing = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differing, min(len(first), len(second)))


def check_prompt_is_nowhere_else(rows: Sequence[dict[str, Any]], columns: Mapping[str, str], where: str) -> None:
    """Raises: DataError if responses share too little to be a prompt, beside a column of text that could be one."""
    found: Counter[str] = Counter()
    for values in rows:
        shared = _shared_beginning(values.get(columns["chosen"]), values.get(columns["rejected"]))
        found.update(name for name in values if name not in columns.values() and _is_prompt(name, values[name], shared))
    for name, n in found.most_common(1):
        if 2 * n > len(rows):
            shared = _shared_beginning(rows[0].get(columns["chosen"]), rows[0].get(columns["rejected"]))
            is_text = isinstance(rows[0].get(columns["chosen"]), str)
            as_messages = "" if is_text else ", with messages in it: [{'role': 'user', 'content': the text}]"
            raise DataError(
                f"{where}: no column {columns['prompt']!r}, and what 'chosen' and 'rejected' share, in row 1 "
                f"{brief(shared)}, hardly is the prompt beside the column {name!r} = {brief(rows[0].get(name))}; "
                f"expected the prompt in a column or at the beginning of both. Write under this objective: "
                f"columns: {{prompt: {name}}}{as_messages}. If it is no prompt, rename or remove that column."
            )


def check_prompt_stands_once(rows: Sequence[dict[str, Any]], columns: Mapping[str, str], where: str) -> None:
    """Raises: DataError if text responses begin with the prompt that a column gives: the model would read it twice."""
    prompt, chosen, rejected = (columns[name] for name in ("prompt", "chosen", "rejected"))
    twice = [values for values in rows if _begin_with(values.get(prompt), values.get(chosen), values.get(rejected))]
    if twice and 2 * len(twice) > len(rows):
        raise DataError(
            f"{where}: {chosen!r} and {rejected!r} begin with the prompt, as in {brief(twice[0][chosen])}; expected "
            f"it in the column {prompt!r} alone. Cut it off both, or remove that column: the prompt is then what both "
            "begin with."
        )


def _begin_with(prompt: object, *responses: object) -> bool:
    if not isinstance(prompt, str) or len(prompt) < _FEW_CHARACTERS // 2:
        return False
    return all(isinstance(response, str) and response.startswith(prompt) for response in responses)


def _shared_beginning(chosen: object, rejected: object) -> str | None:
    """What both have in common; None where that is a question in messages, or they are no two texts or two lists."""
    chosen, rejected = (
        messages_in_text(cell) or cell if isinstance(cell, str) else cell for cell in (chosen, rejected)
    )
    if isinstance(chosen, str) and isinstance(rejected, str):
        return shared_text(chosen, rejected)
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        return None
    shared = chosen[: n_shared(chosen, rejected)]
    return None if any(isinstance(message, dict) and message.get("role") != "system" for message in shared) else ""


def _is_prompt(name: str, value: object, shared: str | None) -> bool:
    """Whether a column's text could be the prompt that is not in `shared`."""
    if shared is None or not isinstance(value, str) or len(value.split()) < 2 or value.strip() in shared:
        return False
    if name.lower() in _PROMPT_NAMES:
        return len(shared) < max(_MANY_CHARACTERS, len(value))
    return len(shared) < min(_FEW_CHARACTERS, len(value)) and len(value.split()) >= 3
