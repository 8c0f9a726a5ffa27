"""From the text of a pair to its tokens: the chat template, the boundary of the prompt, the length limit."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from seqdpo.errors import ConfigError, DataError
from seqdpo.preferences.chat import Chat, EndlessTemplateError, Texts, chat_of, chat_texts, prompt_text
from seqdpo.preferences.pairs import Drop, Message, Pair, is_plain_text
from seqdpo.wording import brief, first_line

TokenIds = NDArray[np.int32]
PAIRS_PER_CHUNK = 256  # tokenised in one call, for speed
EXAMPLE = Pair((Message("user", "A question."),), "An answer.", "Another answer.")


class PairTokens(NamedTuple):
    """A pair as token ids; prompt + chosen and prompt + rejected are what the model reads."""

    prompt: TokenIds  # (n_prompt_tokens,)
    chosen: TokenIds  # (n_chosen_tokens,)
    rejected: TokenIds  # (n_rejected_tokens,)
    truncated: bool

    @property
    def responses(self) -> tuple[TokenIds, TokenIds]:
        return self.chosen, self.rejected

    @property
    def n_tokens(self) -> int:
        """Distinct tokens: the prompt once, and both responses."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longer response."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(slots=True)
class Tokeniser:
    """Renders pairs for one model and counts what it had to note.

    `notes` counts pairs by what was found: `prompt_not_token_prefix`, `template_refused: <its message>`, what of a
    message the template does not read.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    excess_length_strategy: Literal["drop", "truncate", "raise"]
    notes: Counter[str] = field(default_factory=Counter)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chat_template(self) -> str | None:
        return self.tokenizer.get_chat_template() if self.tokenizer.chat_template else None

    @property
    def chat_template_hash(self) -> str | None:
        template = self.chat_template
        return None if template is None else hashlib.sha256(template.encode()).hexdigest()

    def has_generation_prompt(self) -> bool:
        """Whether the template opens the assistant's turn when it is asked to; true if it refuses the example."""
        chat = chat_of(EXAMPLE, EXAMPLE.prompt)
        try:
            return prompt_text(self.tokenizer, chat, self.chat_template_kwargs) != prompt_text(
                self.tokenizer, chat, self.chat_template_kwargs, add_generation_prompt=False
            )
        except Exception:  # as in _rendered
            return True

    def prompts_read(self, pairs: Iterable[Pair]) -> Iterator[tuple[str, str]]:
        """(prompt_hash, hash of the tokens that the model reads of it) of pairs whose prompt can be read.

        Raises: what `tokenise` raises.
        """
        silent = replace(self, notes=Counter())  # whatever there is to note is noted when the pair is tokenised
        if self.excess_length_strategy == "truncate":  # what is left of a prompt depends on the responses
            for pair, tokens in silent.tokenise(pairs):
                if not isinstance(tokens, Drop):
                    yield pair.prompt_hash, _hash(tokens.prompt)
            return
        for chunk in _chunks({pair.prompt_hash: pair for pair in pairs}.values()):
            texts = [silent._prompt_rendered(pair) for pair in chunk]
            for i, (ids,) in silent._encoded(chunk, texts):
                yield chunk[i].prompt_hash, _hash(_ids(ids))

    def tokenise(self, pairs: Iterable[Pair]) -> Iterator[tuple[Pair, PairTokens | Drop]]:
        """The tokens of each pair, or why it has none.

        Raises: ConfigError if conversations come without a chat template; DataError for a doubled BOS, and for
            a pair over max_length under the strategy `raise`.
        """
        for chunk in _chunks(pairs):
            for pair, tokens in zip(chunk, self._tokenise_chunk(chunk), strict=True):
                yield pair, tokens if isinstance(tokens, Drop) else self._fitted(pair, tokens)

    def _tokenise_chunk(self, pairs: Sequence[Pair]) -> list[PairTokens | Drop]:
        texts = [self._rendered(pair) for pair in pairs]
        cut = {i: self._cut(pairs[i], *ids) for i, ids in self._encoded(pairs, texts)}
        return [text if isinstance(text, Drop) else cut[i] for i, text in enumerate(texts)]

    def _rendered(self, pair: Pair) -> Texts | Drop:
        texts = self._texts(pair, pair.prompt)
        if not isinstance(texts, Drop):
            self._note_what_is_not_read(pair, texts)
        return texts

    def _prompt_rendered(self, pair: Pair) -> tuple[str] | Drop:
        """The text of the prompt alone."""
        if is_plain_text(pair.prompt):
            return (pair.prompt[0].content,)
        self._check_has_template(pair)
        try:
            return (prompt_text(self.tokenizer, chat_of(pair, pair.prompt), self.chat_template_kwargs),)
        except EndlessTemplateError:
            raise
        except Exception:  # as in _texts
            return Drop("template_refused")

    def _texts(self, pair: Pair, prompt: tuple[Message, ...]) -> Texts | Drop:
        """The pair, with `prompt` in place of its own, as texts."""
        if is_plain_text(prompt):
            text, eos = prompt[0].content, self.tokenizer.eos_token or ""
            return Texts(text, text + _ending_in(pair.chosen, eos), text + _ending_in(pair.rejected, eos))
        self._check_has_template(pair)
        try:
            return chat_texts(self.tokenizer, chat_of(pair, prompt), self.chat_template_kwargs)
        except EndlessTemplateError:
            raise
        except Exception as error:  # a template is a program of the user's, and may end in any way
            self.notes[f"template_refused: {first_line(error)}"] += 1
            return Drop("template_refused", f"{_named(pair)}: {first_line(error)}")

    def _check_has_template(self, pair: Pair) -> None:
        if self.tokenizer.chat_template is None:
            raise ConfigError(
                f"tokenizer of {self.tokenizer.name_or_path!r}: no chat template, and {_named(pair)} "
                "is a conversation; expected a template. Give one with chat_template_path, or use an instruct model."
            )

    def _note_what_is_not_read(self, pair: Pair, texts: Texts) -> None:
        """Counts what a pair has beside roles and contents, or in them, and its template leaves out."""
        chat = chat_of(pair, pair.prompt)
        if is_plain_text(pair.prompt):
            self.notes.update(f"{extra} is not read: plain text goes through no template" for extra in chat.extras())
            return
        self.notes.update(f"{extra} is not read by the chat template" for extra in self._unread(chat, texts))
        changed = [m["role"] for m in chat.prompt if not _stands_in(m, texts.with_chosen)]
        self.notes.update(
            f"a message by {role!r} is left out or changed by the chat template" for role in dict.fromkeys(changed)
        )
        if not _stands_in(chat.chosen, texts.with_chosen) or not _stands_in(chat.rejected, texts.with_rejected):
            self.notes["a response is left out or changed by the chat template"] += 1

    def _unread(self, chat: Chat, texts: Texts) -> Iterator[str]:
        for extra in chat.extras():
            try:
                if chat_texts(self.tokenizer, chat.without(extra), self.chat_template_kwargs) == texts:
                    yield extra
            except EndlessTemplateError:
                raise
            except Exception:  # as in _texts; a template that misses it reads it
                continue

    def _encoded(
        self, pairs: Sequence[Pair], texts: Sequence[tuple[str, ...] | Drop]
    ) -> Iterator[tuple[int, list[list[int]]]]:
        """The ids of all texts of every rendered pair, plain text with the tokenizer's special tokens."""
        for plain in (True, False):
            chosen = [
                (i, text)
                for i, (pair, text) in enumerate(zip(pairs, texts, strict=True))
                if not isinstance(text, Drop) and is_plain_text(pair.prompt) is plain
            ]
            if chosen:
                if plain:
                    self._check_adds_nothing_behind(pairs[chosen[0][0]])
                flat = [part for _, text in chosen for part in text]
                encoded = iter(self.tokenizer(flat, add_special_tokens=plain)["input_ids"])
                yield from ((i, list(islice(encoded, len(text)))) for i, text in chosen)

    def _cut(
        self, pair: Pair, prompt: list[int], with_chosen: list[int], with_rejected: list[int]
    ) -> PairTokens | Drop:
        """Splits the sequences where the prompt ends.

        A prompt that is no token prefix of both sequences ends where they part, as in TRL 1.16.
        """
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if bos is not None and prompt[:2] == [bos, bos]:
            raise DataError(
                f"{_named(pair)}: its prompt begins with two {self.tokenizer.bos_token!r} tokens; expected one. "
                "Take it out of the text or of the chat template (chat_template_path gives another one)."
            )
        if eos is not None and any(ids[-2:] == [eos, eos] for ids in (with_chosen, with_rejected)):
            self.notes[f"a response ends in {self.tokenizer.eos_token!r} twice: its text has one of its own"] += 1
        shared = min(_common_prefix(prompt, with_chosen), _common_prefix(prompt, with_rejected))
        if shared < len(prompt):
            self.notes["prompt_not_token_prefix"] += 1
        tokens = PairTokens(
            _ids(with_chosen[:shared]), _ids(with_chosen[shared:]), _ids(with_rejected[shared:]), truncated=False
        )
        if not len(tokens.prompt):
            return Drop("prompt_shares_no_token")
        if not len(tokens.chosen) or not len(tokens.rejected):
            return Drop("response_without_tokens")
        return tokens

    def _check_adds_nothing_behind(self, pair: Pair) -> None:
        """Raises: DataError if the tokenizer ends plain text in a token of its own, such as EOS, which would stand
        behind every prompt and, with the response's own, twice behind every response."""
        text = pair.prompt[0].content
        with_specials, without = (self.tokenizer(text, add_special_tokens=add)["input_ids"] for add in (True, False))
        if without and with_specials[-1] != without[-1]:
            raise DataError(
                f"{_named(pair)}: the tokenizer ends its prompt in {self.tokenizer.decode(with_specials[-1:])!r} by "
                "itself; expected plain text as it stands, responses end in EOS anyway. Set add_eos_token: false in "
                "tokenizer_config.json, or take the token out of the post_processor in tokenizer.json."
            )

    def _fitted(self, pair: Pair, tokens: PairTokens) -> PairTokens | Drop:
        if tokens.longest <= self.max_length:
            return _distinct(tokens)
        if self.excess_length_strategy == "drop":
            return Drop("over_max_length", f"{_named(pair)}: {tokens.longest:,} tokens")
        if self.excess_length_strategy == "raise":
            raise DataError(
                f"{_named(pair)}: {tokens.longest} tokens; expected at most max_length = {self.max_length}. "
                "Raise max_length, or set excess_length_strategy to drop or truncate."
            )
        return self._truncated(pair, tokens)

    def _truncated(self, pair: Pair, tokens: PairTokens) -> PairTokens | Drop:
        """Takes away the oldest turns, then the ends of the responses; a whole response is never taken."""
        prompt = pair.prompt
        while tokens.longest > self.max_length and (shorter := _without_oldest_turn(prompt)) is not None:
            prompt = shorter
            texts = self._texts(pair, prompt)
            if isinstance(texts, Drop):
                return texts
            [(_, ids)] = self._encoded([pair], [texts])
            cut = self._cut(pair, *ids)
            if isinstance(cut, Drop):
                return cut
            tokens = cut
        room = self.max_length - len(tokens.prompt)
        if room < 1:
            return Drop("prompt_over_max_length")
        return _distinct(PairTokens(tokens.prompt, tokens.chosen[:room], tokens.rejected[:room], truncated=True))


def _stands_in(message: Mapping[str, Any], text: str) -> bool:
    content = message["content"]
    return not isinstance(content, str) or content.strip() in text


def _hash(ids: TokenIds) -> str:
    return hashlib.sha256(ids.tobytes()).hexdigest()


def _named(pair: Pair) -> str:
    """A pair in a message: its id, and words to find it by."""
    return f"pair {pair.pair_id} ({brief(pair.prompt[-1].content)})"


def _chunks(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    rest = iter(pairs)
    while chunk := list(islice(rest, PAIRS_PER_CHUNK)):
        yield chunk


def _without_oldest_turn(prompt: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """The prompt less its oldest exchange; a system message stays, and so does the last turn."""
    system = prompt[:1] if prompt[0].role == "system" else ()
    turns = prompt[len(system) :]
    # templates want a user's turn first, so the answer to a removed question goes with it
    later_starts = [i for i in range(1, len(turns)) if turns[i].role == "user"]
    return system + turns[later_starts[0] :] if later_starts else None


def _distinct(tokens: PairTokens) -> PairTokens | Drop:
    return Drop("identical_tokens") if np.array_equal(tokens.chosen, tokens.rejected) else tokens


def _ending_in(text: str, eos: str) -> str:
    return text if text.endswith(eos) else text + eos


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    if a == b[: len(a)]:
        return len(a)
    return next(i for i, (x, y) in enumerate(zip(a, [*b, None], strict=False)) if x != y)


def _ids(ids: list[int]) -> TokenIds:
    return np.asarray(ids, dtype=np.int32)
