"""HH-RLHF: turns, shared histories, and the rows that give no pair."""

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from seqdpo.errors import DataError
from seqdpo.preferences.datasets.hh_rlhf import candidates
from seqdpo.preferences.pairs import Drop, Message, Pair
from seqdpo.study.objectives import HhRlhfObjective

OBJECTIVE = HhRlhfObjective(format="hh-rlhf", subset="harmless-base")
REAL = Path(os.environ.get("SEQDPO_HH_RLHF", Path(__file__).parents[2].parent / "shared" / "data" / "hh-rlhf"))


def only(chosen, rejected):
    (candidate,) = candidates([{"chosen": chosen, "rejected": rejected}], OBJECTIVE, "train", "test.jsonl.gz")
    return candidate


def test_prompt_is_everything_up_to_the_last_assistant_turn():
    history = "\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: A joke?"
    assert only(f"{history}\n\nAssistant: Knock knock.", f"{history}\n\nAssistant: No.") == Pair(
        prompt=(Message("user", "Hi."), Message("assistant", "Hello!"), Message("user", "A joke?")),
        chosen="Knock knock.",
        rejected="No.",
        upstream_split="train",
        slices={"n_turns": 3},
    )


def test_names_inside_a_turn_open_no_turn():
    history = "\n\nHuman: Is it Human: or\nAssistant: that begins a line?"
    pair = only(f"{history}\n\nAssistant: Human: does.\n Assistant: too.", f"{history}\n\nAssistant: Both.")
    assert pair.prompt == (Message("user", "Is it Human: or\nAssistant: that begins a line?"),)
    assert pair.chosen == "Human: does.\n Assistant: too."


def test_names_glued_to_a_word_after_a_blank_line_open_no_turn():
    pair = only("\n\nHuman: a\n\nAssistant:b\n\nAssistant: c", "\n\nHuman: a\n\nAssistant:b\n\nAssistant: d")
    assert pair.prompt == (Message("user", "a\n\nAssistant:b"),)


@pytest.mark.parametrize("empty", ["\n\nAssistant: ", "\n\nAssistant:"])
def test_empty_earlier_turn_is_kept(empty):
    history = f"\n\nHuman: Hi.{empty}\n\nHuman: Are you there?"
    pair = only(f"{history}\n\nAssistant: Yes.", f"{history}\n\nAssistant: No.")
    assert pair.prompt == (Message("user", "Hi."), Message("assistant", ""), Message("user", "Are you there?"))


@pytest.mark.parametrize("response", ["", " ", "  \n"])
def test_empty_final_response_is_dropped_on_either_side(response):
    full, empty = "\n\nHuman: Hi.\n\nAssistant: Hello.", f"\n\nHuman: Hi.\n\nAssistant:{response}"
    assert only(full, empty) == only(empty, full) == Drop("empty_response")


def test_histories_that_differ_are_dropped():
    chosen = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: So?\n\nAssistant: So what."
    rejected = "\n\nHuman: Hi.\n\nAssistant: Hey.\n\nHuman: So?\n\nAssistant: So there."
    assert only(chosen, rejected) == Drop("histories_differ")


def test_histories_of_different_length_are_dropped_though_they_begin_alike():
    start = "\n\nHuman: Hi.\n\nAssistant: Hello."
    assert only(f"{start}\n\nAssistant: And welcome.", start) == Drop("histories_differ")


def test_identical_responses_are_dropped():
    dialogue = "\n\nHuman: Hi.\n\nAssistant: Hello."
    assert only(dialogue, dialogue) == Drop("identical_responses")


def test_dialogue_that_ends_on_a_human_turn_is_dropped():
    ends_on_human = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Bye."
    assert only(ends_on_human, "\n\nHuman: Hi.\n\nAssistant: Hey.") == Drop("no_assistant_response")


@pytest.mark.parametrize("text", ["Yes.", "", "Human: Hi.\n\nAssistant: Hello."])
def test_text_that_does_not_begin_with_a_turn_is_dropped(text):
    assert only(text, "\n\nHuman: Hi.\n\nAssistant: Hello.") == Drop("not_a_dialogue")


def test_dialogue_without_a_human_turn_is_dropped():
    assert only("\n\nAssistant: Hello.", "\n\nAssistant: Hey.") == Drop("empty_prompt")


def test_turns_of_one_speaker_in_a_row_become_one():
    history = "\n\nHuman: One.\n\nHuman: Two.\n\nAssistant: Three.\n\nAssistant: Four.\n\nHuman: Five."
    pair = only(f"{history}\n\nAssistant: Six.", f"{history}\n\nAssistant: Seven.")
    assert pair.prompt == (
        Message("user", "One.\n\nTwo."),
        Message("assistant", "Three.\n\nFour."),
        Message("user", "Five."),
    )
    assert pair.slices == {"n_turns": 3}


def test_history_that_ends_on_an_assistant_turn_begins_both_responses():
    history = "\n\nHuman: Hi.\n\nAssistant: Hello."
    pair = only(f"{history}\n\nAssistant: Welcome.", f"{history}\n\nAssistant: Go away.")
    assert pair.prompt == (Message("user", "Hi."),)
    assert (pair.chosen, pair.rejected) == ("Hello.\n\nWelcome.", "Hello.\n\nGo away.")


def test_lone_surrogate_and_nul_can_be_hashed():
    pair = only("\n\nHuman: \ud800\n\nAssistant: a\0b", "\n\nHuman: \ud800\n\nAssistant: c")
    assert len(pair.pair_id) == len(pair.prompt_id) == 16


def test_wrong_type_names_file_row_and_column():
    good = {"chosen": "\n\nHuman: Hi.\n\nAssistant: a", "rejected": "\n\nHuman: Hi.\n\nAssistant: b"}
    message = r"data/test.jsonl.gz, row 2: column 'chosen' = 3; expected text\. Correct this row or remove it"
    with pytest.raises(DataError, match=message):
        list(candidates([good, {**good, "chosen": 3}], OBJECTIVE, None, "data/test.jsonl.gz"))


def test_missing_column_suggests_the_nearest_name():
    message = r"row 1: column 'rejected' is missing; .*'chosen', 'rejectd'\. Did you mean 'rejectd'\?"
    with pytest.raises(DataError, match=message):
        list(candidates([{"chosen": "a", "rejectd": "b"}], OBJECTIVE, None, "x.jsonl"))


def test_every_row_of_the_real_test_file_is_kept_or_dropped_for_a_reason():
    path = REAL / "harmless-base" / "test.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no HH-RLHF at {REAL}; set SEQDPO_HH_RLHF to its folder")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    results = list(candidates(rows, OBJECTIVE, "eval", str(path)))
    assert len(results) == len(rows) == 1600

    # the same facts with plain string operations, on a file where every dialogue ends on an assistant turn
    parted = [[row[side].rpartition("\n\nAssistant:") for side in ("chosen", "rejected")] for row in rows]
    for (chosen, rejected), result in zip(parted, results, strict=True):
        if not chosen[2].strip() or not rejected[2].strip():
            assert result == Drop("empty_response")
        elif chosen[0] != rejected[0]:
            assert result == Drop("histories_differ")
        else:
            assert isinstance(result, Pair)
            assert (result.chosen, result.rejected) == (chosen[2][1:], rejected[2][1:])
            assert result.prompt[-1].role == "user"
            roles = [message.role for message in result.prompt]
            assert all(first != second for first, second in pairwise(roles))
            assert result.prompt[0].content == chosen[0].removeprefix("\n\nHuman: ").split("\n\nAssistant:")[0]
    dropped = [result.reason for result in results if isinstance(result, Drop)]
    assert sorted(dropped) == ["empty_response"] * 4 + ["histories_differ"]
