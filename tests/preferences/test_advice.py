"""What is said before a run: plain text where there is a template, few held-out prompts, most pairs too long."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from seqdpo.preferences.advice import advice
from seqdpo.preferences.pairs import TEXT_ROLE, Message, Pair
from seqdpo.preferences.prepare import prepare
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.study.file import study_from

TEMPLATE = "{% for m in messages %}{{ m['content'] }}|{% endfor %}"


def pairs(n, role="user", length=1, split=None):
    return [Pair((Message(role, f"{i:>{length}}?"),), "yes", "no", upstream_split=split) for i in range(n)]


def advised(candidates, template=TEMPLATE, strategy="drop", **keys):
    letters = Tokenizer(models.BPE({chr(i): i for i in range(128)}, []))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, chat_template=template)
    study = study_from(
        {"model_name_or_path": "m", "output_dir": "o", "objectives": candidates_of(candidates)} | keys, "s"
    )
    tokeniser = Tokeniser(tokenizer, 60, strategy, chat_template_kwargs=study.chat_template_kwargs)
    preferences = prepare(study, {name: iter(some) for name, some in candidates.items()}, tokeniser)
    return list(advice(preferences, tokeniser, study))


def candidates_of(names):
    return {name: {"format": "lab"} for name in names}


ENOUGH = [*pairs(400, split="train"), *[Pair((Message("user", f"e{i}"),), "a", "b", "eval") for i in range(50)]]


def test_an_ordinary_study_needs_no_advice():
    assert advised({"a": ENOUGH}) == []


def test_plain_text_is_said_only_where_there_is_a_template():
    plain = [Pair((Message(TEXT_ROLE, f"{i}? "),), "yes", "no") for i in range(900)]
    [text] = advised({"a": plain})
    assert text.startswith("a: plain text, read without the model's chat template. For an instruct model write")
    assert advised({"a": plain}, template=None) == []


def test_plain_text_beside_conversations_is_said():
    plain = [Pair((Message(TEXT_ROLE, f"t{i}? "),), "yes", "no") for i in range(900)]
    [text] = advised({"a": plain, "b": ENOUGH})
    assert text.startswith("a: plain text, read without the model's chat template, while other pairs go through it.")


@pytest.mark.parametrize(
    ("keys", "needed"), [({}, 50), ({"flip_tolerance": 0.01}, 100), ({"accuracy_tolerance": 0.1}, 50)]
)
def test_fewer_held_out_prompts_than_the_tolerances_can_tell_are_said(keys, needed):
    # one of n prompts is 1/n of the accuracy: at a tolerance of 0.02 that takes 50
    held_out = [Pair((Message("user", f"e{i}"),), "a", "b", "eval") for i in range(needed - 1)]
    [text] = advised({"a": [*pairs(100, split="train"), *held_out]}, **keys)
    assert text.startswith(f"a: {needed - 1} held-out prompts, fewer than the {needed} that a verdict needs")


@pytest.mark.parametrize(("strategy", "lost"), [("drop", 600), ("truncate", 0)])
def test_most_pairs_over_max_length_are_said(strategy, lost):
    long = [Pair((Message("user", f"l{i}"),), f"{'x' * 80}", f"{'y' * 80}", upstream_split="train") for i in range(600)]
    [text] = advised({"a": [*ENOUGH, *long]}, strategy=strategy)
    assert text.startswith(f"a: 600 of 1050 pairs are over max_length = 60, and {lost} of them are left out")


def test_a_template_argument_that_the_template_does_not_know_is_said():
    [text] = advised({"a": ENOUGH}, chat_template_kwargs={"enable_thinking": False})
    assert "the chat template has no 'enable_thinking'" in text


def test_a_column_that_others_read_as_part_of_the_prompt_is_said():
    with_system = [
        Pair(p.prompt, p.chosen, p.rejected, p.upstream_split, slices={"system": "Be brief."}) for p in ENOUGH
    ]
    [text] = advised({"a": with_system})
    assert text.startswith("a: the column 'system' is metadata and no part of any prompt")
