import random
from collections import Counter
from itertools import count

import pytest

from seqdpo.errors import DataError
from seqdpo.preferences.pairs import Drop, Message, Pair
from seqdpo.preferences.splits import Reading, assign_splits, collect


def pair(prompt, chosen="yes", rejected="no", **values):
    return Pair((Message("user", prompt),), chosen, rejected, **values)


def reading(*pairs):
    return Reading(list(pairs))


def prompts(pairs):
    return {p.prompt_hash for p in pairs}


def many(objective, n=400):
    return [pair(f"question {i}", chosen=objective) for i in range(n)]


def test_no_prompt_that_any_objective_trains_on_is_an_evaluation_prompt_of_any():
    splits = assign_splits({"a": reading(*many("a")), "b": reading(*many("b")[100:])}, eval_fraction=0.3)
    trained = prompts(splits["a"]["train"]) | prompts(splits["b"]["train"])
    evaluated = prompts(splits["a"]["eval"]) | prompts(splits["b"]["eval"])
    assert not trained & evaluated
    assert trained and evaluated


def test_the_drawn_share_is_the_eval_fraction():
    # 4,000 prompts at 0.3: SD = sqrt(4000 x .3 x .7) = 29, so 4 SD = 116
    splits = assign_splits({"a": reading(*many("a", 4000))}, eval_fraction=0.3)
    assert abs(len(splits["a"]["eval"]) - 1200) < 116


def test_an_upstream_test_split_is_used_less_the_prompts_that_are_trained_on():
    a = reading(pair("shared", upstream_split="eval"), pair("own", upstream_split="eval"))
    b = reading(pair("shared", chosen="other", upstream_split="train"))
    splits = assign_splits({"a": a, "b": b}, eval_fraction=0.5)
    assert prompts(splits["a"]["eval"]) == {pair("own").prompt_hash}
    assert splits["a"]["train"] == []
    assert a.dropped == Counter(eval_prompt_in_train=1)
    assert a.read == 2


def test_prompts_of_an_upstream_test_split_are_held_out_by_sources_without_one():
    a = reading(*(pair(f"question {i}", chosen="a", upstream_split="eval") for i in range(50)))
    b = reading(*many("b", 50))
    splits = assign_splits({"a": a, "b": b}, eval_fraction=0.01)
    assert len(splits["a"]["eval"]) == 50
    assert len(splits["b"]["eval"]) == 50


def test_pairs_of_one_given_prompt_id_stay_together():
    pairs = [pair(f"wording {i} of {i // 2}", given_prompt_id=f"p{i // 2}") for i in range(200)]
    splits = assign_splits({"a": reading(*pairs)}, eval_fraction=0.5)
    assert not {p.prompt_id for p in splits["a"]["train"]} & {p.prompt_id for p in splits["a"]["eval"]}
    assert splits["a"]["train"] and splits["a"]["eval"]


def test_one_prompt_under_two_given_ids_is_on_one_side():
    pairs = [pair("same words", chosen=str(i), given_prompt_id=f"p{i}") for i in range(40)]
    splits = assign_splits({"a": reading(*pairs)}, eval_fraction=0.5)
    assert {len(splits["a"]["train"]), len(splits["a"]["eval"])} == {0, 40}


def test_the_split_and_the_draw_do_not_depend_on_the_order_of_the_rows():
    pairs = many("a")
    shuffled = random.Random(1).sample(pairs, len(pairs))
    assert assign_splits({"a": reading(*pairs)}, 0.3) == assign_splits({"a": reading(*shuffled)}, 0.3)


def test_a_pair_that_stands_twice_is_kept_once_and_counted():
    result = collect("a", iter([pair("x"), pair("x"), Drop("identical_responses"), pair("y")]))
    assert len(result.pairs) == 2
    assert result.dropped == Counter(duplicate=1, identical_responses=1)
    assert result.read == 4


def test_a_pair_with_a_lone_surrogate_is_dropped_and_counted():
    wrong = [
        pair("x", chosen="\ud800"),
        pair("\udfff"),
        pair("y", given_pair_id="\ud800"),
        pair("z", given_prompt_id="\ud800"),
        Pair((Message("\ud800", "x"),), "yes", "no"),
    ]
    result = collect("a", iter([*wrong, pair("fine \U0001f600")]))
    assert len(result.pairs) == 1
    assert result.dropped == Counter(not_unicode=5)


def test_one_given_id_for_two_different_pairs_is_an_error():
    with pytest.raises(DataError, match=r"'a'.*pair_id = '7' names two different pairs"):
        collect("a", iter([pair("x", given_pair_id="7"), pair("y", given_pair_id="7")]))


def test_ids_change_with_any_part_of_the_content():
    ids = {
        pair("x").pair_id,
        pair("y").pair_id,
        pair("x", chosen="z").pair_id,
        pair("x", rejected="z").pair_id,
        pair("x", "no", "yes").pair_id,
        Pair((Message("system", "x"),), "yes", "no").pair_id,
    }
    assert len(ids) == 6
    assert pair("x").prompt_id == pair("x", chosen="z").prompt_id


def test_prompts_that_read_alike_are_on_one_side_and_the_others_stay_where_they_were():
    # every third prompt reads as the one before it
    pairs = many("a", 300)
    read = [(p.prompt_hash, str(i - i % 3 // 2)) for i, p in enumerate(pairs)]
    apart = assign_splits({"a": reading(*pairs)}, 0.4)["a"]
    joined = assign_splits({"a": reading(*pairs)}, 0.4, iter(read))["a"]
    held_out = {split: prompts(splits["eval"]) for split, splits in (("apart", apart), ("joined", joined))}
    for one, other in zip(pairs[1::3], pairs[2::3], strict=True):
        assert (one.prompt_hash in held_out["joined"]) == (other.prompt_hash in held_out["joined"])
    for alone in pairs[0::3]:
        assert (alone.prompt_hash in held_out["joined"]) == (alone.prompt_hash in held_out["apart"])
    assert {p.prompt_hash for p in pairs[1::3]} & held_out["joined"]


def test_a_held_out_prompt_that_reads_as_a_training_prompt_is_dropped():
    a = reading(pair("x", upstream_split="train"), pair("x ", upstream_split="eval"))
    splits = assign_splits({"a": a}, 0.5, [(p.prompt_hash, "same") for p in a.pairs])
    assert splits["a"]["eval"] == []
    assert a.dropped == Counter(eval_prompt_in_train=1)


def test_the_first_drop_of_each_reason_is_kept_as_its_example():
    drops = [Drop("empty_response", "row 1"), Drop("empty_response", "row 2"), Drop("tool_calls", "row 3")]
    assert collect("a", iter(drops)).examples == {"empty_response": "row 1", "tool_calls": "row 3"}


def test_texts_that_the_memory_does_not_hold_are_refused_while_they_are_read():
    """A pair of two responses of 1 MB, for ever; duplicates of the first take no room."""
    endless = (pair(f"x{max(i - 10, 0)}", chosen="a" * 10**6, rejected="b" * 10**6) for i in count())
    with pytest.raises(DataError, match=r"objective 'a': the texts of its first 6 pairs take more than 0.0 GiB"):
        collect("a", endless, most_bytes=11 * 10**6)
