"""TRL's preference format: standard and conversational, explicit and implicit prompts."""

import datetime
import json

import pytest

from seqdpo.errors import DataError
from seqdpo.preferences.datasets.preference import candidates
from seqdpo.preferences.pairs import TEXT_ROLE, Drop, Message, Pair, content_hash
from seqdpo.study.objectives import PreferenceObjective


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


TALK = {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]}


def read_all(*rows, split=None, **columns):
    objective = PreferenceObjective(format="preference", dataset_name="brief.jsonl", columns=columns)
    return list(candidates(rows, objective, split, "brief.jsonl"))


def read(row, **columns):
    (candidate,) = read_all(row, **columns)
    return candidate


def sides(pair):
    return [message.content for message in pair.prompt], pair.chosen, pair.rejected


# Standard


def test_text_prompt_becomes_one_message_of_plain_text():
    row = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    assert read_all(row, split="train") == [
        Pair((Message(TEXT_ROLE, "The sky is"),), " blue.", " green.", upstream_split="train")
    ]


@pytest.mark.parametrize(
    ("chosen", "rejected", "parts"),
    [
        ("The sky is blue.", "The sky is green.", (["The sky is"], " blue.", " green.")),
        ("The sky is blue.", "The sky is black.", (["The sky is bl"], "ue.", "ack.")),
        ("Q: x\nA: y", "Q: x\nA: z", (["Q: x\nA:"], " y", " z")),
        ("two  spaces", "two  places", (["two "], " spaces", " places")),
    ],
)
def test_implicit_text_prompt_is_the_shared_beginning_cut_before_a_space(chosen, rejected, parts):
    assert sides(read({"chosen": chosen, "rejected": rejected})) == parts


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [("The sky is blue.", "The sky is green."), ("The sky is blue.", "The sky is black."), ("a  b", "a  c")],
)
def test_implicit_text_prompt_is_that_of_trl(chosen, rejected):
    trl = pytest.importorskip("trl.data_utils")
    theirs = trl.extract_prompt({"chosen": chosen, "rejected": rejected})
    pair = read({"chosen": chosen, "rejected": rejected})
    assert sides(pair) == ([theirs["prompt"]], theirs["chosen"], theirs["rejected"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "yes", "rejected": "no"}, "no_shared_prompt"),
        ({"chosen": " yes", "rejected": " no"}, "no_shared_prompt"),
        ({"chosen": "same", "rejected": "same"}, "identical_responses"),
        ({"chosen": "Hi there", "rejected": "Hi there you"}, "empty_response"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "empty_prompt"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "identical_responses"),
        ({"prompt": "p", "chosen": "a", "rejected": " "}, "empty_response"),
    ],
)
def test_text_row_that_gives_no_pair_is_dropped(row, reason):
    assert read(row) == Drop(reason)


# Conversational


def test_explicit_conversation():
    row = {
        "prompt": [{"role": "system", "content": "Be brief."}, user("Sky?")],
        "chosen": [assistant("Blue.")],
        "rejected": [assistant("Green.")],
    }
    pair = read(row)
    assert pair.prompt == (Message("system", "Be brief."), Message("user", "Sky?"))
    assert (pair.chosen, pair.rejected) == ("Blue.", "Green.")


def test_implicit_conversation_shares_its_leading_messages():
    history = [user("Hi"), assistant("Hello"), user("Sky?")]
    pair = read({"chosen": [*history, assistant("Blue.")], "rejected": [*history, assistant("Green.")]})
    assert sides(pair) == (["Hi", "Hello", "Sky?"], "Blue.", "Green.")


def test_text_prompt_beside_whole_conversations_is_a_copy_of_their_beginning():
    chosen, rejected = [user("Sky?"), assistant("Blue.")], [user("Sky?"), assistant("Green.")]
    pair = read({"prompt": "Sky?", "chosen": chosen, "rejected": rejected})
    assert pair.prompt == (Message("user", "Sky?"),)
    assert pair.slices == {}


def test_text_prompt_beside_bare_responses_is_an_error():
    row = {"prompt": "Sky?", "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]}
    with pytest.raises(DataError, match="column 'prompt' = 'Sky\\?'; expected a list of messages"):
        read(row)


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ([assistant("a")], [assistant("b")], "no_shared_prompt"),
        ([user("q"), assistant("a")], [user("q"), assistant("a")], "identical_responses"),
        ([user("q"), assistant("a")], [user("q")], "empty_response"),
        ([user("q"), assistant("")], [user("q"), assistant("b")], "empty_response"),
        ([user("q"), assistant("a"), user("r")], [user("q"), assistant("b")], "response_has_several_messages"),
        ([user("q"), user("r")], [user("q"), assistant("b")], "response_not_by_assistant"),
        ([user("q"), assistant("a") | {"tool_calls": [{}]}], [user("q"), assistant("b")], "tool_calls"),
        ([user("q"), assistant("a") | {"function_call": {"name": "f"}}], [user("q"), assistant("b")], "tool_calls"),
    ],
)
def test_conversation_that_gives_no_pair_is_dropped(chosen, rejected, reason):
    assert read({"chosen": chosen, "rejected": rejected}) == Drop(reason)


def test_a_drop_shows_the_row_and_what_was_found_there():
    row = {"prompt": [user("q")], "chosen": [user("q"), assistant("a")], "rejected": [assistant("b")]}
    assert read(row).example.startswith("brief.jsonl, row 1: [{'content': 'q', 'role': 'user'}")
    row = {"prompt": [user("q")], "chosen": [{"role": "gpt", "content": "a"}], "rejected": [assistant("b")]}
    assert read(row).example == "brief.jsonl, row 1: role 'gpt'"
    assert len(read({"prompt": "p" * 999, "chosen": "a", "rejected": "a"}).example) < 300


def test_conversation_without_prompt_messages_is_dropped():
    assert read({"prompt": [], "chosen": [assistant("a")], "rejected": [assistant("b")]}) == Drop("empty_prompt")


def test_json_text_of_a_csv_cell_is_read_as_messages():
    row = {"prompt": [user("Sky?")], "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]}
    assert read({name: json.dumps(messages) for name, messages in row.items()}) == read(row)


@pytest.mark.parametrize("text", ["[1, 2]", "[broken", "[]", '[{"role": "user"}]', "[" * 100_000])
def test_text_that_only_looks_like_json_messages_stays_text(text):
    assert read({"prompt": "p", "chosen": text, "rejected": "b"}).chosen == text


# What messages and rows hold beside role and content


def test_what_a_message_has_beside_role_and_content_goes_along_and_nulls_do_not():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    answer = {"role": "tool", "content": "42", "tool_call_id": "1", "name": "f", "weight": None}
    thinking = assistant("a") | {"reasoning_content": "hm", "tool_calls": None}
    pair = read({"prompt": [user("q"), call, answer], "chosen": [thinking], "rejected": [assistant("b")]})
    assert [message.as_dict() for message in pair.prompt] == [
        user("q"),
        call,
        {"role": "tool", "content": "42", "tool_call_id": "1", "name": "f"},
    ]
    assert (pair.chosen, json.loads(pair.chosen_more), pair.rejected_more) == ("a", {"reasoning_content": "hm"}, "")


@pytest.mark.parametrize("spelt", [lambda value: value, json.dumps], ids=["values", "JSON"])
def test_tools_and_template_arguments_of_a_row_are_kept(spelt):
    tools, arguments = [{"type": "function", "function": {"name": "f"}}], {"enable_thinking": False}
    pair = read({**TALK, "tools": spelt(tools), "chat_template_kwargs": spelt(arguments)})
    assert (json.loads(pair.tools), json.loads(pair.chat_template_kwargs)) == (tools, arguments)
    assert pair.slices == {}


def test_ids_change_with_everything_the_template_is_given():
    plain = read(TALK)
    other = [
        read({**TALK, "tools": [{"name": "f"}]}),
        read({**TALK, "chat_template_kwargs": {"a": 1}}),
        read({**TALK, "prompt": [user("q") | {"name": "Ann"}]}),
        read({**TALK, "chosen": [assistant("a") | {"reasoning_content": "hm"}]}),
        read({**TALK, "rejected": [assistant("b") | {"reasoning_content": "hm"}]}),
    ]
    assert len({pair.pair_id for pair in [plain, *other]}) == 6
    assert len({pair.prompt_id for pair in [plain, *other]}) == 4  # responses are no part of the prompt
    # an ordinary pair keeps the id that it had before there was more
    assert plain.prompt_id == content_hash([["user", "q"]])
    assert plain.pair_id == content_hash([plain.prompt_id, "a", "b"])


def test_sharegpt_s_messages_and_a_single_message_are_what_openai_s_lists_are():
    theirs = {
        "prompt": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "yes"},
        "rejected": {"role": "assistant", "content": "no"},
    }
    ours = {
        "prompt": [{"role": "system", "content": "s"}, user("q")],
        "chosen": [assistant("yes")],
        "rejected": [assistant("no")],
    }
    assert read(theirs) == read(ours)
    assert isinstance(read(theirs), Pair)


def test_responses_that_differ_in_their_reasoning_alone_are_a_pair():
    thoughts = [assistant("a") | {"reasoning_content": text} for text in ("good", "bad")]
    assert isinstance(read({**TALK, "chosen": thoughts[:1], "rejected": thoughts[1:]}), Pair)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"images": [{"bytes": b"x", "path": None}]}, "column 'images' = .*; expected no pictures. Only text is read"),
        ({"image": {"bytes": b"x"}}, "column 'image'"),
        ({"tools": "no JSON"}, "column 'tools' = 'no JSON'; expected a list of tools, as JSON"),
        ({"tools": {"name": "f"}}, "column 'tools' = .*; expected a list of tools"),
        ({"chat_template_kwargs": [1]}, r"column 'chat_template_kwargs' = \[1\]; expected named arguments"),
        ({"chat_template_kwargs": {"tokenize": True}}, "expected no tokenize among them"),
        ({"prompt": [{"from": "observation", "value": "q"}]}, "Of ShareGPT's speakers system, human, .* are read"),
        ({"prompt": [{"from": "human", "value": 3}]}, "expected a message with a text 'role' and a text 'content'"),
        (
            {"prompt": [user([{"type": "image"}, {"type": "text", "text": "q"}])]},
            "Only text is read: write the content as one",
        ),
        ({"prompt": [user("q") | {"when": datetime.date(2024, 1, 2)}]}, "expected values that JSON can hold"),
    ],
)
def test_what_no_text_model_can_be_given_is_refused(extra, message):
    with pytest.raises(DataError, match=message):
        read({**TALK, **extra})


@pytest.mark.parametrize("nothing", [{"images": None}, {"images": []}, {"tools": None}, {"chat_template_kwargs": {}}])
def test_empty_columns_for_the_template_are_as_good_as_absent(nothing):
    assert read({**TALK, **nothing}) == read(TALK)


# A prompt in another column


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"question": "what is it?", "chosen": "Sure, a", "rejected": "Sure! b"}, "question"),
        ({"instruction": "name one", "chosen": "One", "rejected": "Two"}, "instruction"),
        (
            {"input": "x or y?", "chosen": "I'm sorry, but I cannot do it.", "rejected": "I'm sorry, but I can."},
            "input",
        ),
        ({"what_they_ask": "which one is it?", "chosen": "The a", "rejected": "The b"}, "what_they_ask"),
        ({"question": "what is it?", "chosen": [assistant("a")], "rejected": [assistant("b")]}, "question"),
        (
            {
                "question": "what is it?",
                "chosen": [{"role": "system", "content": "s"}, assistant("a")],
                "rejected": [{"role": "system", "content": "s"}, assistant("b")],
            },
            "question",
        ),
    ],
)
def test_a_prompt_that_lies_in_another_column_is_refused_with_the_line_to_write(row, column):
    with pytest.raises(DataError, match=rf"columns: {{prompt: {column}}}[.,]"):
        read(row)


def test_a_prompt_that_responses_repeat_is_refused_and_one_of_a_few_letters_is_not():
    rows = [{"prompt": f"what is {i}?", "chosen": f"what is {i}? yes", "rejected": f"what is {i}? no"} for i in "abc"]
    with pytest.raises(DataError, match=r"'chosen' and 'rejected' begin with the prompt, as in 'what is a\? yes'"):
        read_all(*rows)
    assert len(read_all(*rows[:1], *({"prompt": "I", "chosen": "I do", "rejected": "I don't"} for _ in range(2)))) == 3


@pytest.mark.parametrize(
    "extra",
    [
        {"question": "What is the sky?"},  # a copy of what is shared
        {"source": "web"},
        {"note": "some text about this pair of answers"},
        {"n": 3},
    ],
)
def test_other_columns_do_not_make_a_shared_prompt_doubtful(extra):
    shared = "Human: What is the sky?\n\nAssistant:"
    row = {"chosen": f"{shared} Blue.", "rejected": f"{shared} Green.", **extra}
    assert sides(read(row)) == ([shared], " Blue.", " Green.")


def test_a_long_shared_beginning_is_the_prompt_whatever_stands_beside_it():
    shared = f"Human: {'why ' * 30}\n\nAssistant:"
    row = {"chosen": f"{shared} a", "rejected": f"{shared} b", "context": "another text"}
    assert sides(read(row)) == ([shared], " a", " b")


@pytest.mark.parametrize("spelt", [lambda value: value, json.dumps], ids=["messages", "JSON"])
def test_messages_that_share_a_question_are_not_doubtful_however_short_it_is(spelt):
    row = {"chosen": [user("a\n'b'"), assistant("c")], "rejected": [user("a\n'b'"), assistant("d")]}
    pair = read({name: spelt(cell) for name, cell in row.items()} | {"question": "a\n'b' and more", "note": "x y z"})
    assert pair.prompt == (Message("user", "a\n'b'"),)


def test_one_odd_row_does_not_make_all_prompts_doubtful():
    shared = "Human: What is the sky?\n\nAssistant:"
    rows = [{"chosen": f"{shared} a{i}", "rejected": f"{shared} b{i}", "note": "a text of words"} for i in range(5)]
    odd = {"chosen": "The a", "rejected": "The b", "note": "a text of words"}
    assert len(read_all(*rows, odd)) == 6


@pytest.mark.parametrize(
    "text",
    [
        str([user("it's")]),
        "[{'content': 'a', 'role': 'user'}\n {'content': 'b', 'role': 'assistant'}]",  # numpy's
        "array([{'role': 'user', 'content': 'a'}], dtype=object)",
        '[{"role": "user", "content": "cut o',
    ],
)
@pytest.mark.parametrize("column", ["prompt", "chosen"])
def test_a_print_of_messages_is_refused_with_what_to_write(column, text):
    with pytest.raises(DataError, match=rf"column '{column}' = .*; expected text, or messages as JSON.*json.dumps"):
        read({"prompt": "p", "chosen": "a", "rejected": "b", column: text})


# Columns


def test_columns_map_other_names():
    row = {"question": "p", "good": "a", "bad": "b", "prompt": "unused", "id": "x1", "gap": "2.5"}
    pair = read(row, prompt="question", chosen="good", rejected="bad", pair_id="id", strength="gap")
    assert (sides(pair), pair.pair_id, pair.strength) == ((["p"], "a", "b"), "x1", 2.5)
    assert pair.slices == {"prompt": "unused"}


def test_optional_columns_are_used_where_they_are():
    pair = read({"prompt": "p", "chosen": "a", "rejected": "b", "pair_id": 7, "prompt_id": "q", "strength": 3})
    assert (pair.pair_id, pair.prompt_id, pair.strength) == ("7", "q", 3.0)


@pytest.mark.parametrize("nothing", [None, ""])
def test_empty_optional_columns_are_as_good_as_absent(nothing):
    plain = {"prompt": "p", "chosen": "a", "rejected": "b"}
    assert read({**plain, "pair_id": nothing, "prompt_id": nothing, "strength": nothing}) == read(plain)


def test_other_scalar_columns_are_slices_and_lists_and_nulls_are_not():
    scalars = {"source": "web", "n": 3, "score": 0.5, "checked": True}
    row = {"prompt": "p", "chosen": "a", "rejected": "b", **scalars, "tools": [{}], "meta": {}, "gone": None}
    assert read(row).slices == scalars


def test_slices_hold_only_what_parquet_can():
    odd = {"day": datetime.date(2024, 1, 2), "nan": float("nan"), "huge": 2**63, "broken": "x\ud800"}
    assert read({"prompt": "p", "chosen": "a", "rejected": "b", **odd}).slices == {
        "day": "2024-01-02",
        "nan": None,
        "huge": "9223372036854775808",
        "broken": "x?",
    }


def test_lone_surrogate_and_nul_can_be_hashed():
    assert len(read({"prompt": "\ud800", "chosen": "a\0", "rejected": "b"}).pair_id) == 16


# Errors


def test_missing_column_suggests_the_nearest_and_the_columns_key():
    message = r"brief.jsonl, row 1: column 'chosen' is missing; .* Did you mean 'choosen'\? .*under columns"
    with pytest.raises(DataError, match=message):
        read({"prompt": "p", "choosen": "a", "rejected": "b"})


@pytest.mark.parametrize("ours", ["prompt", "pair_id", "strength"])
def test_mapped_column_must_be_there(ours):
    with pytest.raises(DataError, match="row 1: column 'elsewhere' is missing"):
        read({"chosen": "a b", "rejected": "a c"}, **{ours: "elsewhere"})


@pytest.mark.parametrize("value", [3, None, {"text": "a"}])
def test_response_of_the_wrong_type_is_an_error(value):
    with pytest.raises(DataError, match=r"row 2: column 'chosen' = .*; expected text or a list of messages"):
        read_all({"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": value, "rejected": "b"})


def test_null_prompt_is_an_error_and_not_an_implicit_prompt():
    with pytest.raises(DataError, match="column 'prompt' = None"):
        read({"prompt": None, "chosen": "a b", "rejected": "a c"})


@pytest.mark.parametrize("first_has_prompt", [True, False])
def test_prompt_in_some_rows_only_is_an_error(first_has_prompt):
    rows = [{"prompt": "a", "chosen": "a b", "rejected": "a c"}, {"chosen": "a b", "rejected": "a c"}]
    expected = "a prompt in every row" if first_has_prompt else "a prompt in no row"
    with pytest.raises(DataError, match=f"row 2: column 'prompt' = .*; expected {expected}"):
        read_all(*(rows if first_has_prompt else rows[::-1]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "a", "rejected": [assistant("b")]}, "column 'chosen' = 'a'; expected a list of messages"),
        ({"chosen": [assistant("b")], "rejected": "a"}, "column 'rejected' = 'a'; expected a list of messages"),
        ({"prompt": [user("p")], "chosen": "a", "rejected": "b"}, "column 'prompt' = .*; expected text"),
        ({"chosen": [user("p"), "a"], "rejected": [user("p")]}, r"column 'chosen\[1\]' = 'a'; expected a message"),
        (
            {"chosen": [user("p"), {"role": "assistant", "content": [{"type": "image"}]}], "rejected": [user("p")]},
            r"column 'chosen\[1\]' = .*; expected a message with a text 'role' and a text 'content'",
        ),
    ],
)
def test_mixed_or_malformed_messages_are_errors(row, message):
    with pytest.raises(DataError, match=message):
        read(row)


@pytest.mark.parametrize("strength", ["much", float("nan"), "inf", True, [1]])
def test_strength_must_be_a_finite_number(strength):
    with pytest.raises(DataError, match=r"column 'strength' = .*; expected a finite number"):
        read({"prompt": "p", "chosen": "a", "rejected": "b", "strength": strength})


@pytest.mark.parametrize("given", [1.5, True, ["x"]])
def test_id_must_be_text_or_a_whole_number(given):
    with pytest.raises(DataError, match=r"column 'pair_id' = .*; expected an id"):
        read({"prompt": "p", "chosen": "a", "rejected": "b", "pair_id": given})


def test_long_values_are_cut_in_messages():
    with pytest.raises(DataError) as raised:
        read({"prompt": ["x" * 10_000], "chosen": [assistant("a")], "rejected": [assistant("b")]})
    assert len(str(raised.value)) < 400
