"""Why rows are left out, and what their owner can do about it."""

from collections.abc import Mapping
from typing import NamedTuple

_KEYS = "The objective's own keys decide what is kept."
#: By the reason that data/dropped.json counts.
REMEDIES = {
    "empty_prompt": "Give every row a prompt.",
    "empty_response": "Give every row two responses with text, neither of them the beginning of the other.",
    "identical_responses": "A pair needs two different responses.",
    "no_shared_prompt": "Put the prompt into a column `prompt`, or name its column: columns: {prompt: NAME}; without "
    "one it is what chosen and rejected begin with.",
    "response_has_several_messages": "A response is one assistant message: where chosen and rejected hold whole "
    "conversations, leave the prompt column out of the file, or cut both down to their last message.",
    "response_not_by_assistant": "Rename the roles to user and assistant.",
    "tool_calls": "A response is text: leave rows whose response calls a tool out; calls in the prompt are read.",
    "not_a_dialogue": "HH-RLHF's dialogues begin with a blank line and 'Human: '; other text is format: preference.",
    "no_assistant_response": "Both dialogues must end with a turn of the assistant.",
    "histories_differ": "Both dialogues must be the same up to their last turn.",
    "no_partner": "A prompt's two responses must stand in adjacent rows.",
    "equal_ratings": "The ratings say nothing of which response is better.",
    "gap_below_min": "Lower min_gap.",
    "prompt_ends_on_assistant": "There is nothing to answer.",
    "no_safety_contrast": "Set contrast_only: false to keep pairs that are both safe or both unsafe.",
    "fewer_than_two_rated": "A row needs two completions with a rating of this aspect.",
    "not_unicode": "The text has half a character (a lone surrogate): write the file again from its source.",
    "duplicate": "The same pair stands there twice.",
    "trained_on": "Score pairs with prompts that no checkpoint was trained on.",
    "upstream_train_split": "Adapters are usually trained on this split; to score it, name its file as dataset_name.",
    "eval_prompt_in_train": "Held-out prompts that some objective trains on: give a test split with other prompts.",
    "template_refused": "The chat template cannot render such a conversation: change the rows, or give another "
    "template with chat_template_path.",
    "over_max_length": "Raise max_length, or set excess_length_strategy: truncate.",
    "prompt_over_max_length": "Raise max_length.",
    "prompt_shares_no_token": "The template renders a prompt alone otherwise than with a response: give another one "
    "with chat_template_path.",
    "response_without_tokens": "The template or the tokenizer leaves nothing of a response.",
    "identical_tokens": "Both responses are the same tokens: truncation or the template made them so.",
    "over_max_train_pairs": "Raise max_train_pairs.",
    "learned_before": "Their objective is trained by no stage: the adapter of adapter_name_or_path has learned it.",
    "over_max_eval_pairs": "Raise max_eval_pairs.",
}

#: Reasons by which nothing is wrong with a row: a limit of the study leaves it out.
LIMITS = frozenset(
    {"over_max_length", "prompt_over_max_length", "over_max_train_pairs", "over_max_eval_pairs", "learned_before"}
)


class LeftOut(NamedTuple):
    """Rows that are not used."""

    by_limits: int
    wrong: int  # for every other reason


def left_out(dropped: Mapping[str, int]) -> LeftOut:
    """The counts by reason, as two."""
    by_limits = sum(n for reason, n in dropped.items() if reason in LIMITS)
    return LeftOut(by_limits, sum(dropped.values()) - by_limits)


def remedy(reason: str) -> str:
    """What to do about rows that were left out for `reason`."""
    return REMEDIES.get(reason, _KEYS)
