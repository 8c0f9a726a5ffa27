"""The rows of a JSON file, in whatever shape programs write tables: lines, a list, objects, columns."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from seqdpo.errors import DataError
from seqdpo.wording import brief, listed

_EXPECTED = "expected one object a line, or one list of objects"
#: Where programs put the rows beside facts about them; under any other key a list is a cell of a single row.
_TABLE_KEYS = set("data rows records items examples instances samples results train test validation eval dev".split())
_LONGEST_WHOLE = 2**30  # characters
_WRITE_LINES = "With pandas: to_json(path, orient='records', lines=True)."


def json_rows(lines: Iterable[str], where: str) -> Iterator[dict[str, Any]]:
    """The rows of JSON lines, read one by one; any other shape is read whole.

    Shapes: an object a line; objects over several lines, one after another; one list of objects; an object that holds
    such a list under one of its keys; an object of columns, each a list or, as pandas writes it, an object of row
    labels; pandas' `orient='split'` and `orient='index'`.
    Raises: DataError that names the line, or the shape where it is none of these, or too long to be read whole.
    """
    rest = enumerate(lines, start=1)
    number, line = next(((number, line) for number, line in rest if line.strip()), (1, ""))
    first = _complete_object(line)
    if first is None:
        yield from _whole(_joined(chain([line], (text for _, text in rest)), where), number, where)
        return
    second = next(((n, text) for n, text in rest if text.strip()), None)
    if second is None:
        yield from _rows_of_object(first, where)
        return
    yield first
    for number, line in chain([second], rest):
        if line.strip():
            yield _object(_parsed(line.strip(), number, where), f"{where}, line {number}")


def _complete_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _joined(lines: Iterable[str], where: str) -> str:
    parts, length = [], 0
    for line in lines:
        length += len(line)
        if length > _LONGEST_WHOLE:
            raise DataError(
                f"{where}: more than {_LONGEST_WHOLE:,} characters that are no JSON lines; {_EXPECTED}, of at most so "
                f"many. {_WRITE_LINES}"
            )
        parts.append(line)
    return "".join(parts)


def _whole(text: str, first_line: int, where: str) -> Iterator[dict[str, Any]]:
    """The rows of a text that is no JSON lines."""
    values = _values(text, first_line, where)
    if len(values) == 1 and isinstance(values[0], dict):
        yield from _rows_of_object(values[0], where)
        return
    rows = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    yield from (_object(row, f"{where}, row {number}") for number, row in enumerate(rows, start=1))


def _values(text: str, first_line: int, where: str) -> list[Any]:
    """The JSON values that stand in a text one after another."""
    values, position, decoder = [], 0, json.JSONDecoder()
    while position := _next_character(text, position):
        try:
            value, position = decoder.raw_decode(text, position - 1)
        except (ValueError, RecursionError) as error:
            raise _not_json(error, first_line, where) from error
        values.append(value)
    return values


def _next_character(text: str, position: int) -> int:
    """One more than the place of the next character that is no white space; 0 where there is none."""
    rest = len(text) - len(text[position:].lstrip())
    return rest + 1 if rest < len(text) else 0


def _rows_of_object(value: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """The rows of a file that is one object: a table, or a single row."""
    tables = [key for key, rows in value.items() if _is_list_of_rows(rows) and (len(value) == 1 or key in _TABLE_KEYS)]
    if _is_split(value):
        return iter([dict(zip(value["columns"], cells, strict=True)) for cells in value["data"]])
    if _is_columns(value):
        return iter([dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)])
    if _is_labelled(value):
        return _rows_of_labelled(value)
    if len(tables) == 1:
        return iter(value[tables[0]])
    if len(tables) > 1:
        raise DataError(
            f"{where}: one object with a list of rows under each of {listed(tables)}; {_EXPECTED}. "
            "Write each list to a file of its own, and name them as {train: path, eval: path}."
        )
    return iter([value])


def _is_list_of_rows(value: object) -> bool:
    """A list of objects that are no messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and "role" not in v for v in value)


def _is_split(value: Mapping[str, Any]) -> bool:
    columns, data = value.get("columns"), value.get("data")
    if not isinstance(columns, list) or not isinstance(data, list):
        return False
    return all(isinstance(cells, list) and len(cells) == len(columns) for cells in data)


def _is_columns(value: Mapping[str, Any]) -> bool:
    """Lists of one length, and not the messages of a single row."""
    if not value or not all(isinstance(cells, list) and cells for cells in value.values()):
        return False
    if any(_is_list_of_rows(cells) or _is_messages(cells) for cells in value.values()):
        return False
    return len({len(cells) for cells in value.values()}) == 1


def _is_messages(cells: list[Any]) -> bool:
    return all(isinstance(cell, dict) and "role" in cell for cell in cells)


def _is_labelled(value: Mapping[str, Any]) -> bool:
    """Objects that all have the same keys, one of the two sides numbered."""
    inner = list(value.values())
    if len(inner) < 1 or not all(isinstance(cells, dict) and cells.keys() == inner[0].keys() for cells in inner):
        return False
    return bool(inner[0]) and (_numbered(value) or _numbered(inner[0]))


def _rows_of_labelled(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if _numbered(value):
        return iter(list(value.values()))
    labels = next(iter(value.values()))
    return iter([{column: cells[label] for column, cells in value.items()} for label in labels])


def _numbered(keys: Iterable[str]) -> bool:
    return all(key.lstrip("-").isdigit() for key in keys)


def _parsed(text: str, line: int, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(error, line, where) from error


def _not_json(error: Exception, first_line: int, where: str) -> DataError:
    line, reason = first_line, "nested too deeply or a number too long"
    if isinstance(error, json.JSONDecodeError):
        line, reason = first_line + error.lineno - 1, f"{error.msg} at column {error.colno}"
    return DataError(
        f"{where}, line {line}: not JSON ({reason}); {_EXPECTED}. Correct or remove the line. {_WRITE_LINES}"
    )


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{where}: {brief(value)}; expected an object with named columns. Correct or remove it. {_WRITE_LINES}"
        )
    return value
