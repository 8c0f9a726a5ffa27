"""Rows of a source: what the dataset adapters share to check and use them."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from seqdpo.errors import DataError
from seqdpo.preferences.pairs import Drop, Message, Pair
from seqdpo.wording import brief, did_you_mean, listed

_MAX_SHOWN = 200  # characters of a row in a message
_WRONG_ACTION = "Correct this row or remove it."


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source. Every getter raises a DataError that names the source, the row and the column."""

    values: dict[str, Any]
    where: str
    number: int  # 1 for the first row of the source; blank lines do not count

    def value(self, column: str, expected: str) -> Any:
        if column not in self.values:
            raise DataError(
                f"{self.where}, row {self.number}: column {column!r} is missing; expected {expected}. "
                f"Columns there: {listed(self.values)}.{did_you_mean(column, self.values)} Rename the column, or read "
                f"the source with format: preference and map it under columns, as in {mapping(column, self.values)}."
            )
        return self.values[column]

    def text(self, column: str) -> str:
        value = self.value(column, "text")
        if not isinstance(value, str):
            raise self.wrong(column, value, "text")
        return value

    def flag(self, column: str) -> bool:
        value = self.value(column, "true or false")
        if not isinstance(value, bool):
            raise self.wrong(column, value, "true or false")
        return value

    def integer(self, column: str, low: int, high: int) -> int:
        """A whole number; 3.0 and '3' are the same as 3."""
        expected = f"a whole number from {low} to {high}"
        number = as_number(self.value(column, expected))
        if number is None or not number.is_integer() or not low <= number <= high:
            raise self.wrong(column, self.values[column], expected)
        return int(number)

    def dropped(self, reason: str, found: object = None) -> Drop:
        """A drop that says where it was; `found` is what to show of it, or the words for it."""
        shown = found if isinstance(found, str) else brief(self.values if found is None else found)
        shown = shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + "…"
        return Drop(reason, f"{self.where}, row {self.number}: {shown}")

    def explained(self, candidate: Pair | Drop) -> Pair | Drop:
        """The candidate, a drop with this row as its example where it has none."""
        if isinstance(candidate, Drop) and not candidate.example:
            return self.dropped(candidate.reason)
        return candidate

    def wrong(self, column: str, found: object, expected: str, action: str = _WRONG_ACTION) -> DataError:
        """The error for a value of the wrong kind; `column` may be a path such as 'completions[1].response'."""
        return DataError(
            f"{self.where}, row {self.number}: column {column!r} = {brief(found)}; expected {expected}. {action}"
        )


def mapping(column: str, names: Iterable[str]) -> str:
    """The `columns:` line that reads `column` from the name nearest to it."""
    near = get_close_matches(column, [*names], n=1)
    return f"columns: {{{column}: {near[0] if near else 'NAME'}}}"


def numbered(rows: Iterable[dict[str, Any]], where: str) -> Iterator[Row]:
    for number, values in enumerate(rows, start=1):
        yield Row(values, where, number)


def as_number(value: object) -> float | None:
    """A finite number, also one that arrives as text; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def kept(pair: Pair) -> Pair | Drop:
    """The pair, unless it has nothing to answer or nothing to compare."""
    if not pair.prompt:
        return Drop("empty_prompt")
    if not pair.chosen.strip() or not pair.rejected.strip():
        return Drop("empty_response")
    if (pair.chosen, pair.chosen_more) == (pair.rejected, pair.rejected_more):
        return Drop("identical_responses")
    return pair


def merged(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Turns of one speaker in a row as one turn, for chat templates that insist on alternation."""
    result: list[Message] = []
    for turn in turns:
        if result and result[-1].role == turn.role:
            result[-1] = Message(turn.role, f"{result[-1].content}\n\n{turn.content}")
        else:
            result.append(turn)
    return tuple(result)
