"""What a chat template is given of a pair, and the texts that it makes of it, the same ones on every day."""

import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from seqdpo.errors import ConfigError
from seqdpo.preferences.pairs import Message, Pair

#: How long a template may work on one conversation; a long one takes some milliseconds.
TEMPLATE_SECONDS = 60
#: Templates that print today's date would give other tokens tomorrow; this is the default of Llama 3.1's own.
FIXED_DAY = datetime(2024, 7, 26)
FIXED_DATE = FIXED_DAY.strftime("%d %b %Y")
#: The codes that `strftime` has on every system, and glibc's without padding.
_CODES = {f"%{code}": FIXED_DAY.strftime(f"%{code}") for code in "aAbBcdHIjmMpSUwWxXyY"}
_CODES |= {f"%-{code}": str(int(_CODES[f"%{code}"])) for code in "dHIjmMS"}
_CODES |= {"%e": "26", "%F": "2024-07-26", "%D": "07/26/24", "%T": "00:00:00", "%R": "00:00", "%f": "000000"}
_CODES |= {"%h": "Jul", "%C": "20", "%G": "2024", "%V": "30", "%u": "5", "%Z": "", "%z": ""}


class EndlessTemplateError(ConfigError):
    """A chat template took too long; it would for the next pair, too."""


class Chat(NamedTuple):
    """The arguments of a chat template for a pair."""

    prompt: list[dict[str, Any]]
    chosen: dict[str, Any]
    rejected: dict[str, Any]
    tools: list[Any] | None
    kwargs: dict[str, Any]

    def extras(self) -> Iterator[str]:
        """What is there beside roles and contents."""
        keys = (key for message in (*self.prompt, self.chosen, self.rejected) for key in message)
        yield from (key for key in dict.fromkeys(keys) if key not in ("role", "content"))
        if self.tools:
            yield "tools"
        if self.kwargs:
            yield "chat_template_kwargs"

    def without(self, extra: str) -> "Chat":
        if extra == "tools":
            return self._replace(tools=None)
        if extra == "chat_template_kwargs":
            return self._replace(kwargs={})
        prompt = [_without(message, extra) for message in self.prompt]
        return self._replace(
            prompt=prompt, chosen=_without(self.chosen, extra), rejected=_without(self.rejected, extra)
        )


class Texts(NamedTuple):
    """The prompt, and the prompt with each response."""

    prompt: str
    with_chosen: str
    with_rejected: str


def chat_of(pair: Pair, prompt: Sequence[Message]) -> Chat:
    """The pair with `prompt` in place of its own."""
    return Chat(
        [message.as_dict() for message in prompt],
        Message("assistant", pair.chosen, pair.chosen_more).as_dict(),
        Message("assistant", pair.rejected, pair.rejected_more).as_dict(),
        json.loads(pair.tools) if pair.tools else None,
        json.loads(pair.chat_template_kwargs) if pair.chat_template_kwargs else {},
    )


def chat_texts(tokenizer: PreTrainedTokenizerBase, chat: Chat, kwargs: Mapping[str, Any]) -> Texts:
    """The three texts of a pair; its own arguments go before `kwargs`. Raises whatever the template raises."""
    return Texts(
        prompt_text(tokenizer, chat, kwargs),
        _text(tokenizer, [*chat.prompt, chat.chosen], chat, kwargs),
        _text(tokenizer, [*chat.prompt, chat.rejected], chat, kwargs),
    )


def prompt_text(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, kwargs: Mapping[str, Any], add_generation_prompt: bool = True
) -> str:
    return _text(tokenizer, chat.prompt, chat, kwargs, add_generation_prompt)


def _text(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    chat: Chat,
    kwargs: Mapping[str, Any],
    add_generation_prompt: bool = False,
) -> str:
    template = tokenizer.get_chat_template(tools=chat.tools)
    given = {"tools": chat.tools, "date_string": FIXED_DATE, **kwargs, **chat.kwargs}
    if "strftime_now" in template:
        given["chat_template"] = _clock_stopped(template)
    given["add_generation_prompt"] = add_generation_prompt
    with time_limit():
        text = tokenizer.apply_chat_template(messages, tokenize=False, **given)
    assert isinstance(text, str)
    return text


@contextmanager
def time_limit() -> Iterator[None]:
    """Ends a chat template that does not come to an end; only in the main thread, and where there are such signals.

    Raises: EndlessTemplateError.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _end)
    signal.setitimer(signal.ITIMER_REAL, TEMPLATE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _end(number: int, frame: FrameType | None) -> None:
    raise EndlessTemplateError(
        f"chat template: {TEMPLATE_SECONDS} seconds for one conversation; expected less than one. It may be in a loop "
        "without end. Correct it, or give another one with chat_template_path."
    )


def _clock_stopped(template: str) -> str:
    """The template with its clock, transformers' `strftime_now`, replaced by a macro that knows one day.

    transformers gives templates no functions but its own, so what stands in for one must be Jinja.
    """
    filters = "".join(f"|replace({code!r}, {value!r})" for code, value in _CODES.items())
    macro = f"{{{{ format|replace('%%', '\\x00'){filters}|replace('\\x00', '%') }}}}"
    # the line break is part of the tag before it (trim_blocks), and the template begins a line as before
    return f"{{% macro strftime_now(format) %}}{macro}{{% endmacro %}}\n{template}"


def _without(message: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != key}
