"""A preference pair, its ids by content, and the count of what was dropped on the way to it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

Split: TypeAlias = Literal["train", "eval"]
SliceValue: TypeAlias = str | int | float | bool | None

#: The role of a prompt that is plain text, not a conversation: it is tokenised as it stands, without a template.
TEXT_ROLE = "text"


class Message(NamedTuple):
    """One turn of a prompt."""

    role: str
    content: str
    more: str = ""  # what else the chat template is given of it, such as its tool calls: a JSON object, or nothing

    def as_dict(self) -> dict[str, Any]:
        """The message as a chat template is given it."""
        return {"role": self.role, "content": self.content, **(json.loads(self.more) if self.more else {})}


@dataclass(frozen=True, slots=True)
class Drop:
    """What a dataset adapter yields in place of a pair it cannot make."""

    reason: str  # snake_case, stable: it is a key of data/dropped.json
    example: str = field(default="", compare=False)  # where it was found, and what


@dataclass(frozen=True)
class Pair:
    """A prompt with a preferred and a dispreferred response, all of them text."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    upstream_split: Split | None = None  # None where the source has no test split of its own
    strength: float | None = None  # how clear the preference is, in the source's own unit
    slices: dict[str, SliceValue] = field(default_factory=dict)  # metadata to group results by
    given_pair_id: str | None = None  # ids that came with the data; None: ids by content
    given_prompt_id: str | None = None
    # what else the chat template is given, as JSON, or nothing
    chosen_more: str = ""  # of the response, as Message.more
    rejected_more: str = ""
    tools: str = ""  # a list
    chat_template_kwargs: str = ""  # an object

    @cached_property
    def prompt_hash(self) -> str:
        if any(message.more for message in self.prompt) or self.tools or self.chat_template_kwargs:
            return content_hash([[list(message) for message in self.prompt], self.tools, self.chat_template_kwargs])
        return content_hash([[message.role, message.content] for message in self.prompt])

    @property
    def prompt_id(self) -> str:
        """The cluster for statistics and the unit of the train/eval split."""
        return self.given_prompt_id or self.prompt_hash

    @cached_property
    def pair_id(self) -> str:
        more = [self.chosen_more, self.rejected_more] if self.chosen_more or self.rejected_more else []
        return self.given_pair_id or content_hash([self.prompt_hash, self.chosen, self.rejected, *more])

    def texts(self) -> list[str]:
        """All that the model may read of it."""
        messages = [text for message in self.prompt for text in message]
        return [*messages, self.chosen, self.rejected, *self.extras().values()]

    def extras(self) -> dict[str, str]:
        """What the chat template is given beside roles and contents, as JSON by its name; nothing for most pairs."""
        messages = [json.loads(message.more) if message.more else {} for message in self.prompt]
        extras = {
            "prompt": as_json(messages) if any(messages) else "",
            "chosen": self.chosen_more,
            "rejected": self.rejected_more,
            "tools": self.tools,
            "chat_template_kwargs": self.chat_template_kwargs,
        }
        return {name: text for name, text in extras.items() if text}


def as_json(value: Any) -> str:
    """One text for one value, with its keys in the order they come in: a template may print them."""
    return json.dumps(value, ensure_ascii=False)


def content_hash(value: Any) -> str:
    """16 hex digits (64 bits) of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_plain_text(prompt: Sequence[Message]) -> bool:
    """Whether the prompt is one piece of text to be tokenised without a chat template."""
    return len(prompt) == 1 and prompt[0].role == TEXT_ROLE


#: What every dataset adapter yields: one item for each candidate pair, so that kept + dropped = read.
Candidates: TypeAlias = Iterator[Pair | Drop]
