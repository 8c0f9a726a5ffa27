"""The tokenizer of these tests has one token for each word, so every expected sequence can be written by hand."""

from dataclasses import replace
from datetime import datetime

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from seqdpo.errors import ConfigError, DataError
from seqdpo.preferences.chat import chat_of, chat_texts
from seqdpo.preferences.pairs import TEXT_ROLE, Drop, Message, Pair
from seqdpo.preferences.tokens import Tokeniser

WORDS = "<bos> <end> <user> <assistant> <system> one two three four five six seven eight yes no maybe sirno".split()
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} <{{ m['role'] }}> {{ m['content'] }} <end>{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)


def tokenizer(template=TEMPLATE):
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="maybe"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>", eos_token="<end>", chat_template=template)


def tokeniser(max_length=100, strategy="drop", template=TEMPLATE):
    return Tokeniser(tokenizer(template), max_length, strategy)


def pair(*turns, chosen="yes", rejected="no"):
    return Pair(tuple(Message(*turn.split(": ")) for turn in turns), chosen, rejected)


def plain(text, chosen="yes", rejected="no"):
    return Pair((Message(TEXT_ROLE, text),), chosen, rejected)


def tokens_of(pairs, using):
    return [tokens for _, tokens in using.tokenise(pairs)]


def words(ids):
    return " ".join(WORDS[i] for i in ids)


def test_a_conversation_is_cut_where_the_assistants_turn_begins():
    [tokens] = tokens_of([pair("system: one", "user: two three")], tokeniser())
    assert words(tokens.prompt) == "<bos> <system> one <end> <user> two three <end> <assistant>"
    assert words(tokens.chosen) == "yes <end>"
    assert words(tokens.rejected) == "no <end>"
    assert not tokens.truncated


def test_plain_text_has_no_template_and_ends_in_one_eos():
    [tokens] = tokens_of([plain("one two", chosen=" yes ", rejected=" no <end>")], tokeniser())
    assert words(tokens.prompt) == "<bos> one two"
    assert words(tokens.chosen) == "yes <end>"
    assert words(tokens.rejected) == "no <end>"


def test_conversations_and_plain_text_keep_their_order():
    pairs = [plain("one ", " yes ", " no "), pair("user: two"), plain("three ", " yes ", " no "), pair("user: four")]
    assert [words(tokens.prompt) for tokens in tokens_of(pairs, tokeniser())] == [
        "<bos> one",
        "<bos> <user> two <end> <assistant>",
        "<bos> three",
        "<bos> <user> four <end> <assistant>",
    ]


def test_every_pair_comes_back_whatever_the_chunk():
    pairs = [pair("user: one", chosen=f"yes {'two ' * (i % 7)}") for i in range(600)]
    results = list(tokeniser().tokenise(pairs))
    assert [p for p, _ in results] == pairs
    assert [len(tokens.chosen) for _, tokens in results] == [2 + i % 7 for i in range(600)]


def test_a_prompt_that_is_no_token_prefix_ends_where_the_sequences_part_and_is_counted():
    # "sir" alone is unknown; "sirno" is one word, so the last prompt token is another one with the response
    using = tokeniser()
    [tokens] = tokens_of([plain("one sir", chosen="no ", rejected="yes ")], using)
    assert words(tokens.prompt) == "<bos> one"
    assert words(tokens.chosen) == "sirno <end>"
    assert words(tokens.rejected) == "maybe <end>"
    assert using.notes == {"prompt_not_token_prefix": 1}


def test_a_doubled_bos_is_an_error_that_names_the_pair():
    bad = plain("<bos> one", " yes ", " no ")
    with pytest.raises(DataError, match=rf"{bad.pair_id}.*two '<bos>' tokens"):
        tokens_of([bad], tokeniser())


def test_a_template_that_writes_bos_is_not_given_a_second_one():
    [tokens] = tokens_of([pair("user: one")], tokeniser())
    assert words(tokens.prompt).count("<bos>") == 1


def test_a_template_without_generation_prompt_is_found():
    assert tokeniser().has_generation_prompt()
    assert not tokeniser(
        template=TEMPLATE.replace("{% if add_generation_prompt %} <assistant>{% endif %}", "")
    ).has_generation_prompt()


def test_conversations_without_a_template_are_refused():
    with pytest.raises(ConfigError, match=r"no chat template.*chat_template_path"):
        tokens_of([pair("user: one")], tokeniser(template=None))


def test_what_a_template_refuses_is_dropped_with_its_reason():
    template = "{{ raise_exception('roles must alternate') if messages|length > 2 }}" + TEMPLATE
    using = tokeniser(template=template)
    refused, kept = tokens_of([pair("user: one", "user: two"), pair("user: one")], using)
    assert refused == Drop("template_refused")
    assert not isinstance(kept, Drop)
    assert using.notes == {"template_refused: roles must alternate": 1}


LONG = pair("system: one", "user: two", "assistant: three", "user: four", chosen="yes five six", rejected="no")
# <bos> <system> one <end> <user> two <end> <assistant> three <end> <user> four <end> <assistant>: 14 tokens,
# and yes five six <end>: 4 more


def test_a_pair_of_exactly_max_length_stays():
    [tokens] = tokens_of([LONG], tokeniser(max_length=18))
    assert tokens.longest == 18


def test_drop_leaves_a_pair_over_max_length_out():
    assert tokens_of([LONG], tokeniser(max_length=17)) == [Drop("over_max_length")]


def test_raise_names_the_pair_and_both_lengths():
    with pytest.raises(DataError, match=rf"{LONG.pair_id} .*: 18 tokens; expected at most max_length = 17"):
        tokens_of([LONG], tokeniser(17, "raise"))


def test_truncate_takes_the_oldest_turns_first_and_keeps_the_system_message():
    [tokens] = tokens_of([LONG], tokeniser(17, "truncate"))
    assert words(tokens.prompt) == "<bos> <system> one <end> <user> four <end> <assistant>"
    assert words(tokens.chosen) == "yes five six <end>"
    assert tokens.truncated


def test_truncate_then_takes_the_ends_of_the_responses():
    [tokens] = tokens_of([LONG], tokeniser(10, "truncate"))
    assert len(tokens.prompt) == 8
    assert words(tokens.chosen) == "yes five"
    assert words(tokens.rejected) == "no <end>"
    assert tokens.truncated


def test_truncate_never_takes_a_whole_response():
    assert tokens_of([LONG], tokeniser(8, "truncate")) == [Drop("prompt_over_max_length")]
    [tokens] = tokens_of([LONG], tokeniser(9, "truncate"))
    assert (words(tokens.chosen), words(tokens.rejected)) == ("yes", "no")


def test_responses_that_truncation_makes_equal_are_dropped():
    alike = pair("user: one", chosen="yes two three", rejected="yes two four")
    assert tokens_of([alike], tokeniser(7, "truncate")) == [Drop("identical_tokens")]


def test_todays_date_is_not_in_the_tokens():
    # as Llama 3.2's template: the date of the day unless one is given
    dated = "{% if not date_string is defined %}{{ raise_exception('the date of today') }}{% endif %}" + TEMPLATE
    [tokens] = tokens_of([pair("user: one")], tokeniser(template=dated))
    assert words(tokens.prompt) == "<bos> <user> one <end> <assistant>"


CLOCKS = {
    "called": "{{ strftime_now(FORMAT) }}",
    "kept under another name": "{% set today = strftime_now(FORMAT) %}{{ today }}",
    "asked for": "{% if strftime_now is defined %}{{ strftime_now(FORMAT) }}{% else %}no clock{% endif %}",
    "in a macro": "{% macro head() %}{{ strftime_now(FORMAT) }}{% endmacro %}{{ head() }}",
    "in a loop": "{% for m in messages %}{{ strftime_now(format=FORMAT) }}{% endfor %}",
    "unless given": "{% if not date_string is defined %}{% set date_string = strftime_now(FORMAT) %}{% endif %}"
    "{{ date_string }}",
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_template_has_one_day_whatever_it_calls_its_clock(clock):
    template = CLOCKS[clock].replace("FORMAT", "'%d %b %Y'")
    [texts] = texts_of(pair("user: one"), template)
    assert texts.prompt == "26 Jul 2024"


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d", "%B %d, %Y", "%A, %d %B %Y", "%-d %B %y", "%H:%M:%S", "%j", "%F", "100%% on %d%%", "day"]
)
def test_the_fixed_day_is_written_as_strftime_writes_it(form):
    [texts] = texts_of(pair("user: one"), f"{{{{ strftime_now('{form}') }}}}")
    assert texts.prompt == datetime(2024, 7, 26).strftime(form)


@pytest.mark.parametrize("start", ["\n", "  ", "\n  {% if true %}x{% endif %}", "   {%- if true %}y{% endif %}\n"])
def test_stopping_the_clock_changes_nothing_else_of_a_template(start):
    rest = "{% for m in messages %}\n  {{ m['content'] }}\n{% endfor %}"
    [plain] = texts_of(pair("user: one"), start + rest)
    [stopped] = texts_of(pair("user: one"), start + rest + "{% if false %}{{ strftime_now('%Y') }}{% endif %}")
    assert stopped == plain


def texts_of(one, template):
    return [chat_texts(tokenizer(template), chat_of(one, one.prompt), {})]


def test_template_arguments_of_the_study_and_of_the_row_reach_the_template():
    template = TEMPLATE + "{% if add_generation_prompt and think is defined %} {{ think }}{% endif %}"
    using = Tokeniser(tokenizer(template), 100, "drop", chat_template_kwargs={"think": "seven"})
    first, second = pair("user: one"), replace(pair("user: one"), chat_template_kwargs='{"think": "eight"}')
    assert [words(tokens.prompt) for tokens in tokens_of([first, second], using)] == [
        "<bos> <user> one <end> <assistant>",  # the sequences part there, as in TRL
        "<bos> <user> one <end> <assistant>",
    ]
    assert using.notes == {"prompt_not_token_prefix": 2}
    assert [
        chat_texts(using.tokenizer, chat_of(p, p.prompt), using.chat_template_kwargs).prompt.split()[-1]
        for p in (first, second)
    ] == ["seven", "eight"]


def test_a_date_that_a_study_gives_goes_before_the_fixed_one():
    [tokens] = tokens_of(
        [pair("user: one")],
        Tokeniser(tokenizer("{{ date_string }} " + TEMPLATE), 100, "drop", chat_template_kwargs={"date_string": "two"}),
    )
    assert words(tokens.prompt).startswith("two <bos>")


def test_what_a_template_does_not_read_is_counted_by_its_name():
    message = Message("user", "one", '{"name": "Ann", "weight": 0}')
    one = replace(pair("user: two"), prompt=(message,), tools='[{"name": "f"}]', chosen_more='{"thinking": "seven"}')
    using = tokeniser()
    tokens_of([one, pair("user: two")], using)
    assert using.notes == {
        "name is not read by the chat template": 1,
        "weight is not read by the chat template": 1,
        "thinking is not read by the chat template": 1,
        "tools is not read by the chat template": 1,
    }


def test_what_a_template_reads_is_no_note():
    reads = "{% if tools %}two {% endif %}{% for m in messages %}{{ m['name'] }} {% endfor %}" + TEMPLATE
    using = tokeniser(template=reads)
    one = replace(pair("user: two"), prompt=(Message("user", "one", '{"name": "eight"}'),), tools='[{"name": "f"}]')
    [tokens] = tokens_of([one], using)
    assert words(tokens.prompt) == "two eight <bos> <user> one <end> <assistant>"
    assert not using.notes


def test_tools_beside_plain_text_are_counted():
    using = tokeniser()
    tokens_of([replace(plain("one "), tools='[{"name": "f"}]')], using)
    assert using.notes == {"tools is not read: plain text goes through no template": 1}


def test_a_message_that_the_template_leaves_out_is_counted_by_its_role():
    known = "{% for m in messages if m['role'] in ('user', 'assistant') %} {{ m['content'] }}{% endfor %}"
    using = tokeniser(template="<bos>" + known)
    tokens_of([pair("critic: five", "user: one"), pair("user: one")], using)
    assert using.notes == {"a message by 'critic' is left out or changed by the chat template": 1}


def test_a_response_that_the_template_changes_is_counted():
    using = tokeniser(template=TEMPLATE.replace("m['content']", "m['content'].split('three')[-1]"))
    tokens_of([pair("user: one", chosen="two three four")], using)
    assert using.notes == {"a response is left out or changed by the chat template": 1}


def test_a_tokenizer_that_ends_plain_text_by_itself_is_refused():
    own = tokenizer()
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <end>", special_tokens=[("<bos>", 0), ("<end>", 1)]
    )
    using = Tokeniser(own, 100, "drop")
    with pytest.raises(DataError, match=r"the tokenizer ends its prompt in '<end>' by itself.*add_eos_token: false"):
        tokens_of([plain("one ")], using)
    [tokens] = tokens_of([pair("user: one")], using)  # a conversation gets no tokens but its template's
    assert words(tokens.chosen) == "yes <end>"


def test_an_eos_in_the_text_of_a_response_is_counted_where_the_template_adds_one():
    using = tokeniser()
    [tokens] = tokens_of([pair("user: one", chosen="yes <end>")], using)
    assert words(tokens.chosen) == "yes <end> <end>"  # as in TRL
    assert using.notes == {"a response ends in '<end>' twice: its text has one of its own": 1}


def test_prompts_that_the_model_reads_alike_have_one_key():
    trims = TEMPLATE.replace("m['content']", "m['content'] | trim")
    apart = [pair("user: one"), pair("user: two"), replace(pair("user: one"), tools='[{"name": "f"}]')]
    alike = [pair("user: one "), pair("user: \tone\n"), plain("<user> one <end> <assistant>")]
    keys = dict(tokeniser(template=trims).prompts_read([*apart, *alike]))
    assert {keys[p.prompt_hash] for p in [apart[0], apart[2], *alike]} == {keys[apart[0].prompt_hash]}
    assert keys[apart[1].prompt_hash] != keys[apart[0].prompt_hash]


def test_prompts_that_are_alike_once_they_are_truncated_have_one_key():
    longer = pair("user: eight", "assistant: three", "user: four", chosen="yes five six", rejected="no")
    shorter = pair("user: seven", "assistant: three", "user: four", chosen="yes five six", rejected="no")
    assert len({key for _, key in tokeniser(100, "truncate").prompts_read([longer, shorter])}) == 2
    assert len({key for _, key in tokeniser(9, "truncate").prompts_read([longer, shorter])}) == 1


def test_looking_at_prompts_notes_nothing():
    using = tokeniser(template="{{ raise_exception('no') if messages[0]['content'] == 'two' }}" + TEMPLATE)
    assert len(list(using.prompts_read([pair("user: one"), pair("user: two")]))) == 1
    assert not using.notes
