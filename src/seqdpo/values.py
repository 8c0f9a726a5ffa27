"""How much a value that was read may hold: a few lines of YAML, aliases of aliases, can stand for billions."""

from typing import Any

MOST_VALUES = 1_000_000  # of a record of a run, or of a study


def holds_too_much(value: Any) -> bool:
    """Whether lists and mappings hold more than MOST_VALUES, as a few YAML aliases of aliases do."""
    waiting, seen = [value], 0
    while waiting and seen <= MOST_VALUES:
        one = waiting.pop()
        seen += 1
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return seen > MOST_VALUES
