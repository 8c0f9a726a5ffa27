"""What is allowed and seldom meant: said before a run, with what to do about it."""

import math
from collections.abc import Iterator

from seqdpo.preferences.pairs import is_plain_text
from seqdpo.preferences.prepare import Preferences, PreparedObjective
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.study.keys import VerdictKeys
from seqdpo.wording import listed

#: Columns in which others keep what the model reads before the question.
_PARTS_OF_PROMPTS = {"system", "system_prompt", "system_message", "context", "history", "input"}


def advice(preferences: Preferences, tokeniser: Tokeniser, keys: VerdictKeys) -> Iterator[str]:
    """Sentences on plain text where there is a template, few held-out prompts, and lost or cut pairs."""
    for name, objective in preferences.objectives.items():
        for text in (
            _plain_text(objective, tokeniser, preferences),
            _few_prompts(objective, keys),
            _too_long(objective, tokeniser),
            _unread_column(objective),
        ):
            if text:
                yield f"{name}: {text}"
    for key in tokeniser.chat_template_kwargs:
        if key not in (tokeniser.chat_template or ""):
            yield f"chat_template_kwargs: the chat template has no {key!r}. Check its name."


def _plain_text(objective: PreparedObjective, tokeniser: Tokeniser, preferences: Preferences) -> str:
    if tokeniser.chat_template is None or not any(is_plain_text(pair.prompt) for pair, _ in objective.pairs):
        return ""
    beside = "" if preferences.chat_template_hash is None else ", while other pairs go through it"
    return (
        f"plain text, read without the model's chat template{beside}. For an instruct model write prompts and "
        "responses as messages: [{'role': 'user', 'content': ...}]."
    )


def _few_prompts(objective: PreparedObjective, keys: VerdictKeys) -> str:
    """One prompt that flips must not move a share by more than counts as no change."""
    needed = math.ceil(1 / min(keys.accuracy_tolerance, keys.flip_tolerance))
    prompts = len({pair.prompt_id for pair, _ in objective.eval})
    if prompts >= needed:
        return ""
    return (
        f"{prompts} held-out prompts, fewer than the {needed} that a verdict needs at least: one of them moves "
        "accuracy or the share of flips by more than their tolerances. Raise eval_fraction or max_eval_pairs, or bring "
        "more pairs."
    )


def _unread_column(objective: PreparedObjective) -> str:
    names = {name for pair, _ in objective.pairs for name, value in pair.slices.items() if isinstance(value, str)}
    found = sorted(names & _PARTS_OF_PROMPTS)
    if not found:
        return ""
    return (
        f"the column {listed(found)} is metadata and no part of any prompt. If the model should read it, write "
        "prompts as messages with it in: [{'role': 'system', 'content': ...}, ...]."
    )


def _too_long(objective: PreparedObjective, tokeniser: Tokeniser) -> str:
    lost = objective.dropped.get("over_max_length", 0) + objective.dropped.get("prompt_over_max_length", 0)
    cut = sum(tokens.truncated for _, tokens in objective.pairs)
    tried = len(objective.pairs) + lost
    if 2 * (lost + cut) <= tried:
        return ""
    return (
        f"{lost + cut} of {tried} pairs are over max_length = {tokeniser.max_length}, and {lost} of them are left out. "
        "Raise max_length, or expect findings on short texts only."
    )
