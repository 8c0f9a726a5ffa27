"""What is wrong with the values of a study, in sentences: pydantic's findings in the words of a user's file."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from seqdpo.study.keys import InputKeys, Keys, Variant
from seqdpo.study.objectives import FORMATS, objective_models
from seqdpo.study.other_tools import answer
from seqdpo.wording import brief, did_you_mean

MAX_LISTED = 15
MAX_VALUE = 60  # characters of a wrong value in a message
#: What a value should have been, by pydantic's type of error; for other types its own message says it.
_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "`key: value` lines below it",
    "model_type": "`key: value` lines below it",
    "model_attributes_type": "`key: value` lines below it",
    "too_short": "at least one",
}
#: What else would have been right, by the tag of the union's kind that pydantic looked at.
_OTHER_KINDS = {"(word)": " or a list", "(name)": " or {train: …, eval: …}"}
_IN_PARENTHESES = re.compile(r"\(\w+\)")


def problems_of(values: Mapping[str, Any], kind: type[Keys]) -> list[str]:
    """Every problem of a file of this kind, one sentence each; none if it is valid."""
    problems = _findings(values, kind)
    # pydantic looks at how keys go together only where each is valid by itself: look again without the wrong ones
    wrong = {problem["loc"][0] for problem in problems if problem["loc"]}
    if wrong and wrong.isdisjoint({"setting", "objectives", "orders"}):
        needed = {"model_name_or_path": "any", "output_dir": "any"}
        rest = needed | {key: value for key, value in values.items() if key not in wrong}
        problems += [problem for problem in _findings(rest, kind) if not problem["loc"]]
    return [_sentence(problem, kind) for problem in problems]


def bulleted(problems: Sequence[str]) -> str:
    """One problem as a sentence, several as a list."""
    ended = [problem if problem.endswith("?") else f"{problem}." for problem in problems]
    if len(ended) == 1:
        return ended[0]
    more = [f"  and {len(ended) - MAX_LISTED} more."] if len(ended) > MAX_LISTED else []
    return "\n".join([f"{len(ended)} problems.", *(f"  - {text}" for text in ended[:MAX_LISTED]), *more])


def _findings(values: Mapping[str, Any], kind: type[Keys]) -> list[ErrorDetails]:
    try:
        kind.model_validate(values)
    except ValidationError as error:
        return error.errors()
    return []


def _sentence(problem: ErrorDetails, kind: type[Keys]) -> str:
    place = [str(part) for part in problem["loc"]]
    tag = place.pop(2) if _has_format(place) else None
    # tags of other unions, and pydantic's word for the key itself, are no keys of the user's either
    own = [part for part in place if part != "[key]" and not _IN_PARENTHESES.fullmatch(part)]
    key = ".".join(own)
    match problem["type"]:
        case "extra_forbidden" if "(paths)" in place:
            return f"{key} is not expected; expected train and eval"
        case "extra_forbidden":
            return _unknown_key(key, own[-1], tag, kind)
        case "missing":
            return f"{key} is missing; expected a value{_described(key, kind)}"
        case "union_tag_not_found":
            return f"{key}.format is missing; expected one of {', '.join(_formats())}"
        case "union_tag_invalid":
            found = problem["input"].get("format")
            near = _nearest(found, _formats())
            return f"{key}.format = {brief(found, MAX_VALUE)}; expected one of {', '.join(_formats())}{near}"
        case "invalid_key":
            return f"{key} is not a key of {_a(kind)}; expected text"
    if place[-1:] == ["[key]"] and problem["type"] != "value_error":
        return f"{key} is not expected; {_expectation(problem)}"
    return _wrong_value(key, problem) + _OTHER_KINDS.get(place[-1] if place else "", "")


def _wrong_value(key: str, problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    if problem["type"] == "value_error" and "; expected" in message:
        return f"{key}: {message}"
    return f"{key} = {brief(problem['input'], MAX_VALUE)}; {_expectation(problem)}"


def _expectation(problem: ErrorDetails) -> str:
    if problem["type"] in _EXPECTED:
        return f"expected {_EXPECTED[problem['type']]}"
    message = problem["msg"].removeprefix("Value error, ")
    if message.startswith("Input should be "):
        return "expected " + message.removeprefix("Input should be ")
    return message[0].lower() + message[1:]


def _unknown_key(key: str, name: str, tag: str | None, kind: type[Keys]) -> str:
    if key.startswith("variants."):
        kind = Variant
    known = _keys_of_format(tag) if tag else list(kind.model_fields)
    of = f"an objective of format {tag}" if tag else _a(kind)
    # other tools' words for how to train mean nothing where nothing is trained
    told = answer(name, of_objective=tag is not None) if tag or issubclass(kind, InputKeys) else None
    rest = f"; {told}" if told else _nearest(name, known) or f"; expected one of {', '.join(known)}"
    return f"{key} is not a key of {of}{rest}"


def _nearest(name: Any, known: Sequence[str]) -> str:
    near = did_you_mean(str(name), known)
    return f".{near}" if near else ""


def _a(kind: type[Keys]) -> str:
    """`a study`, `an audit`."""
    name = kind.__name__.lower()
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _described(key: str, kind: type[Keys]) -> str:
    field = kind.model_fields.get(key)
    return f" ({field.description})" if field and field.description else ""


def _formats() -> list[str]:
    return list(FORMATS)


def _keys_of_format(tag: str) -> list[str]:
    return list(objective_models()[tag].model_fields)


def _has_format(place: Sequence[str]) -> bool:
    """A discriminated union puts its tag, the format, into the place; the user's file has no such level."""
    return len(place) > 2 and place[0] == "objectives" and place[2] in _formats()
