"""Words of error messages: values cut short, names listed, the nearest valid name."""

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches


def brief(value: object, length: int = 80) -> str:
    """`repr`, cut in the middle when text or an unknown object is longer than `length`."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = length
    return short.repr(value)


def listed(names: Iterable[str]) -> str:
    """The names between quotes, or `none`."""
    return ", ".join(repr(name) for name in names) or "none"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """' Did you mean …?', or nothing where no name comes near."""
    near = get_close_matches(name, [*names], n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def first_line(error: BaseException) -> str:
    """What went wrong, without the chatter below it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
