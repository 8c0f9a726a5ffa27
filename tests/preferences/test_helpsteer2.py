"""HelpSteer2: partners, ratings and multi-turn prompts."""

import pytest

from seqdpo.errors import DataError
from seqdpo.preferences.datasets.helpsteer2 import candidates
from seqdpo.preferences.pairs import Drop, Message, Pair
from seqdpo.study.objectives import HelpSteer2Objective

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def row(prompt, response, *ratings):
    return {"prompt": prompt, "response": response, **dict(zip(ATTRIBUTES, ratings, strict=True))}


def read(rows, attribute="helpfulness", split="train", **options):
    objective = HelpSteer2Objective(format="helpsteer2", attribute=attribute, **options)
    return list(candidates(rows, objective, split, "train.jsonl.gz"))


TWO = [row("c#", "A language.", 3, 4, 4, 2, 1), row("c#", "A note.", 1, 4, 4, 0, 2)]


def test_higher_rating_is_chosen_and_the_gap_is_the_strength():
    assert read(TWO) == [
        Pair((Message("user", "c#"),), "A language.", "A note.", "train", strength=2.0, slices={"n_turns": 1})
    ]


def test_each_attribute_labels_the_same_pair_its_own_way():
    (helpful,), (verbose,) = read(TWO), read(TWO, "verbosity")
    assert (verbose.chosen, verbose.rejected, verbose.strength) == ("A note.", "A language.", 1.0)
    assert helpful.prompt_id == verbose.prompt_id


def test_prefer_lower_turns_the_attribute_round():
    (pair,) = read(TWO, "verbosity", prefer="lower")
    assert (pair.chosen, pair.rejected, pair.strength) == ("A language.", "A note.", 1.0)


def test_order_of_the_two_rows_does_not_matter():
    assert read(TWO) == read(TWO[::-1])


def test_equal_ratings_are_dropped():
    assert read(TWO, "correctness") == [Drop("equal_ratings")]


def test_gap_below_min_gap_is_dropped_and_a_gap_of_min_gap_is_kept():
    assert read(TWO, "verbosity", min_gap=2) == [Drop("gap_below_min")]
    assert isinstance(read(TWO, "helpfulness", min_gap=2)[0], Pair)


def test_row_without_partner_is_dropped_and_the_rows_after_it_still_find_theirs():
    lone = row("alone", "x", 0, 0, 0, 0, 0)
    results = read([lone, *TWO, row("last", "x", 0, 0, 0, 0, 0)])
    assert [type(result) for result in results] == [Drop, Pair, Drop]
    assert results[0] == results[2] == Drop("no_partner")


def test_four_rows_of_one_prompt_make_two_pairs_and_a_third_row_is_left_over():
    rows = [row("p", text, rating, 0, 0, 0, 0) for text, rating in (("a", 1), ("b", 2), ("c", 3), ("d", 4))]
    assert [(pair.chosen, pair.rejected) for pair in read(rows)] == [("b", "a"), ("d", "c")]
    assert [type(result) for result in read(rows[:3])] == [Pair, Drop]


def test_multi_turn_prompt_becomes_messages():
    prompt = "Hi\nthere\n<extra_id_1>Assistant\nHello!\n\nHow are you?\n<extra_id_1>User\nFine."
    (pair,) = read([row(prompt, "Good.", 4, 0, 0, 0, 0), row(prompt, "Meh.", 0, 0, 0, 0, 0)])
    assert pair.prompt == (
        Message("user", "Hi\nthere"),
        Message("assistant", "Hello!\n\nHow are you?"),
        Message("user", "Fine."),
    )
    assert pair.slices == {"n_turns": 3}


def test_empty_turn_between_markers_is_kept():
    prompt = "Hi\n<extra_id_1>Assistant\n\n<extra_id_1>User\nStill there?"
    (pair,) = read([row(prompt, "Yes.", 4, 0, 0, 0, 0), row(prompt, "No.", 0, 0, 0, 0, 0)])
    assert pair.prompt == (Message("user", "Hi"), Message("assistant", ""), Message("user", "Still there?"))


def test_marker_inside_a_line_is_text():
    prompt = "What does <extra_id_1>User mean?"
    (pair,) = read([row(prompt, "A turn.", 4, 0, 0, 0, 0), row(prompt, "Hm.", 0, 0, 0, 0, 0)])
    assert pair.prompt == (Message("user", prompt),)


def test_prompt_that_begins_with_its_marker_has_no_empty_first_turn():
    prompt = "<extra_id_1>User\nHi"
    (pair,) = read([row(prompt, "a", 4, 0, 0, 0, 0), row(prompt, "b", 0, 0, 0, 0, 0)])
    assert pair.prompt == (Message("user", "Hi"),)


def test_prompt_that_ends_on_the_assistant_is_dropped():
    prompt = "Hi\n<extra_id_1>Assistant\nHello!"
    rows = [row(prompt, "a", 4, 0, 0, 0, 0), row(prompt, "b", 0, 0, 0, 0, 0)]
    assert read(rows) == [Drop("prompt_ends_on_assistant")]


@pytest.mark.parametrize(("second", "reason"), [("", "empty_response"), ("same", "identical_responses")])
def test_pair_with_nothing_to_compare_is_dropped(second, reason):
    assert read([row("p", "same", 4, 0, 0, 0, 0), row("p", second, 0, 0, 0, 0, 0)]) == [Drop(reason)]


@pytest.mark.parametrize("rating", [5, -1, 2.5, True, None, "high"])
def test_rating_off_the_scale_is_an_error(rating):
    rows = [TWO[0], {**TWO[1], "helpfulness": rating}]
    with pytest.raises(DataError, match=r"row 2: column 'helpfulness' = .*expected a whole number from 0 to 4"):
        read(rows)


def test_missing_prompt_is_an_error_with_the_row_number():
    with pytest.raises(DataError, match=r"train.jsonl.gz, row 2: column 'prompt' is missing"):
        read([TWO[0], {"response": "x"}])
