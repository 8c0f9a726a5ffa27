import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from seqdpo.errors import DataError
from seqdpo.preferences.pairs import TEXT_ROLE, Drop, Message, Pair
from seqdpo.preferences.prepare import prepare
from seqdpo.preferences.table import pairs_table
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.study.file import study_from


def tokeniser():
    letters = Tokenizer(models.BPE({chr(i): i for i in range(128)}, []))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    template = "{% for m in messages %}{{ m['content'] }}|{% endfor %}"
    return Tokeniser(PreTrainedTokenizerFast(tokenizer_object=letters, chat_template=template), 60, "drop")


def study(**values):
    objectives = {"a": {"format": "lab"}, "b": {"format": "lab"}}
    fixed = {"model_name_or_path": "lab", "objectives": objectives, "output_dir": "x", "eval_fraction": 0.4}
    return study_from(fixed | values, "s")


def pairs(name, n=200, **values):
    return [Pair((Message("user", f"{i}?"),), f"{name} yes", f"{name} no", **values) for i in range(n)]


def prepared(a, b=None, **values):
    return prepare(study(**values), {"a": iter(a), "b": iter(pairs("b") if b is None else b)}, tokeniser())


def ids(prepared_pairs):
    return [p.pair.pair_id for p in prepared_pairs]


def test_kept_and_dropped_make_read():
    candidates = [*pairs("a"), pairs("a")[0], Drop("empty_response"), Pair((Message("user", "x" * 99),), "y", "n")]
    result = prepared(candidates, max_train_pairs=50, max_eval_pairs=20).objectives["a"]
    assert result.read == 203
    assert len(result.train) == 50
    assert len(result.eval) == 20
    assert len(result.train) + len(result.eval) + sum(result.dropped.values()) == 203
    assert result.dropped["duplicate"] == result.dropped["empty_response"] == 1


def test_pairs_are_sorted_by_id_and_do_not_depend_on_the_order_of_the_rows():
    first = prepared(pairs("a")).objectives["a"]
    second = prepared(pairs("a")[::-1]).objectives["a"]
    assert ids(first.train) == sorted(ids(first.train))
    assert ids(first.train) == ids(second.train)
    assert ids(first.eval) == ids(second.eval)


def test_a_lower_limit_draws_a_part_of_a_higher_one():
    few = prepared(pairs("a"), max_train_pairs=10).objectives["a"]
    more = prepared(pairs("a"), max_train_pairs=40).objectives["a"]
    assert set(ids(few.train)) < set(ids(more.train))


def test_the_limit_is_not_spent_on_pairs_that_are_too_long():
    long = [Pair((Message("user", f"{i}" + "x" * 99),), "y", "n") for i in range(200)]
    result = prepared([*pairs("a"), *long], max_train_pairs=50).objectives["a"]
    assert len(result.train) == 50


def test_an_objective_without_pairs_is_an_error_with_the_reasons():
    with pytest.raises(DataError, match=r"'a': no training pairs; 3 read, dropped: 3 empty_response"):
        prepared([Drop("empty_response")] * 3)


def test_an_objective_that_no_order_trains_needs_no_training_pairs():
    only_eval = pairs("b", upstream_split="eval")
    result = prepared(
        [
            *pairs("a", 20, upstream_split="train"),
            Pair((Message("user", "held out"),), "y", "n", upstream_split="eval"),
        ],
        only_eval[50:],
        orders=[["a"]],
    )
    assert result.objectives["b"].train == []
    assert len(result.objectives["b"].eval) == 150


def test_the_content_hash_changes_with_a_label():
    first = pairs("a")
    flipped = [Pair(first[0].prompt, first[0].rejected, first[0].chosen), *first[1:]]
    assert prepared(first).content_hash() == prepared(first).content_hash()
    assert prepared(first).content_hash() != prepared(flipped).content_hash()


def test_the_table_has_a_row_a_pair_with_its_tokens_and_slices():
    a = pairs("a", slices={"topic": "x", "level": 2})
    b = pairs("b", slices={"level": "high"})
    result = prepared(a, b)
    table = pairs_table(result)
    assert Counter(zip(table["objective"].to_pylist(), table["split"].to_pylist(), strict=True)) == {
        (name, split): len(getattr(objective, split))
        for name, objective in result.objectives.items()
        for split in ("train", "eval")
    }
    row = next(row for row in table.to_pylist() if row["pair_id"] == a[7].pair_id)
    assert row["prompt"] == [{"role": "user", "content": "7?"}]
    # the template ends each message with a bar: "7?|" and "a yes|" are 3 and 6 letters
    assert (row["prompt_tokens"], row["chosen_tokens"], row["rejected_tokens"]) == (3, 6, 5)
    assert row["slice_topic"] == "x"
    assert table.schema.field("slice_level").type == pa.string()  # a number here, a text there
    assert row["slice_level"] == "2"
    assert np.isnan(table["strength"].to_numpy()).all()


def test_prompts_that_differ_in_white_space_alone_are_on_one_side_where_the_template_trims():
    trims = tokeniser()
    trims.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | trim }}|{% endfor %}"
    spaced = [Pair((Message("user", f"{i}?{' ' * k}"),), f"yes {k}", "no") for i in range(60) for k in range(3)]
    result = prepare(study(orders=[["a"]]), {"a": iter(spaced), "b": iter(pairs("b", 60))}, trims).objectives
    sides = [
        {pair.prompt[0].content.strip() for name in ("a", "b") for pair, _ in getattr(result[name], split)}
        for split in ("train", "eval")
    ]
    assert not sides[0] & sides[1]
    assert sides[0] and sides[1]


def test_where_all_is_dropped_the_first_row_and_its_remedy_are_shown():
    drops = [Drop("response_not_by_assistant", f"x.jsonl, row {i}: role 'Assistant'") for i in (1, 2, 3)]
    with pytest.raises(DataError) as raised:
        prepared(drops)
    text = str(raised.value)
    assert "response_not_by_assistant, first x.jsonl, row 1: role 'Assistant'. Rename the roles" in text
    assert "eval_fraction" not in text


def test_where_there_is_one_prompt_only_the_remedy_is_the_share_that_is_held_out():
    with pytest.raises(DataError, match=r"no evaluation pairs; 1 read, dropped: none\n.*\(eval_fraction\)"):
        prepared([Pair((Message("user", "the only one"),), "y", "n", upstream_split="train")])


def test_pairs_that_are_all_too_long_show_one_with_its_length():
    long = [Pair((Message("user", f"{i}" + "x" * 99),), "y", "n") for i in range(20)]
    with pytest.raises(DataError, match=r"over_max_length, first pair \w+ \(.*\): 10\d tokens\. Raise max_length"):
        prepared(long)


def test_plain_text_needs_no_template_and_names_none():
    plain = [Pair((Message(TEXT_ROLE, f"{i}?"),), "yes", "no") for i in range(50)]
    both = prepare(study(), {"a": iter(plain), "b": iter(plain)}, tokeniser())
    assert both.chat_template_hash is None
    mixed = prepare(study(), {"a": iter(plain), "b": iter(pairs("b"))}, tokeniser())
    assert mixed.chat_template_hash is not None


def test_the_table_has_what_else_the_template_was_given_and_prompts_of_role_and_content_alone():
    more = Message("user", "first?", '{"name": "Ann"}')
    one = Pair((more,), "yes", "no", tools='[{"name": "f"}]', rejected_more='{"thinking": "hm"}')
    table = pairs_table(prepared([one, *pairs("a")]))
    [row] = [row for row in table.to_pylist() if row["pair_id"] == one.pair_id]
    assert row["prompt"] == [{"role": "user", "content": "first?"}]
    assert json.loads(row["template_extras"]) == {
        "prompt": '[{"name": "Ann"}]',
        "rejected": '{"thinking": "hm"}',
        "tools": '[{"name": "f"}]',
    }
    assert table["template_extras"].null_count == table.num_rows - 1
    assert "template_extras" not in pairs_table(prepared(pairs("a"))).column_names
