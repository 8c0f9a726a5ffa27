"""Words of messages: values cut short, names listed, the nearest valid name, what a library said."""

import reprlib
import unicodedata
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


def reason(error: BaseException) -> str:
    """What a library said, on one line and not too long, as a sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= 240 else text[:240] + "…"
    return text if text.endswith((".", "…")) else text + "."


def visible(text: str) -> str:
    """The text with every character that steers a terminal or turns its writing round replaced by a sign for it.

    Data may hold escape sequences; a terminal would obey them. Line breaks and tabs stay.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in "\n\t":
        return character
    if character < " ":
        return chr(0x2400 + ord(character))  # the picture of the control character
    steers = unicodedata.category(character) in ("Cc", "Zl", "Zp")
    turns = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return "\N{REPLACEMENT CHARACTER}" if steers or turns else character
