"""UltraFeedback: best against worst, whatever the order of the completions."""

from itertools import permutations

import pytest

from seqdpo.errors import DataError
from seqdpo.preferences.datasets.ultrafeedback import candidates
from seqdpo.preferences.pairs import Drop, Message, Pair
from seqdpo.study.objectives import UltraFeedbackObjective

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def completion(response, rating, aspect="honesty", others="3"):
    annotations = {name: {"Rating": others, "Rationale": "Because."} for name in ASPECTS}
    annotations[aspect]["Rating"] = rating
    return {
        "model": "alpaca-7b",
        "response": response,
        "custom_system_prompt": f"Be like {response}.",
        "principle": "honesty",
        "critique": "",
        "fine-grained_score": 3.0,
        "overall_score": 7.0,
        "annotations": annotations,
    }


def row(*completions, instruction="Why?"):
    return {
        "source": "evol_instruct",
        "instruction": instruction,
        "models": [each["model"] for each in completions],
        "completions": list(completions),
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def read(a_row, aspect="honesty", split="train", **options):
    objective = UltraFeedbackObjective(format="ultrafeedback", aspect=aspect, **options)
    (candidate,) = candidates([a_row], objective, split, "flan.jsonl")
    return candidate


def test_best_rated_is_chosen_against_worst_rated():
    completions = [completion(*rated) for rated in (("a", "3"), ("b", "5"), ("c", "1"), ("d", "4"))]
    assert read(row(*completions), split=None) == Pair(
        (Message("user", "Why?"),), "b", "c", None, strength=4.0, slices={"source": "evol_instruct"}
    )


def test_each_aspect_reads_its_own_rating():
    completions = [completion("a", "5"), completion("b", "1")]
    assert read(row(*completions), "honesty").chosen == "a"
    assert read(row(*completions), "helpfulness") == Drop("equal_ratings")


@pytest.mark.parametrize("pairing", ["best_worst", "best_random"])
def test_ties_are_settled_the_same_way_in_every_order_of_the_completions(pairing):
    completions = [completion(*rated) for rated in (("a", "5"), ("b", "5"), ("c", "1"), ("d", "1"))]
    results = {
        (pair.chosen, pair.rejected)
        for order in permutations(completions)
        for pair in [read(row(*order), pairing=pairing)]
    }
    assert len(results) == 1


def test_ties_do_not_always_go_to_the_same_place():
    chosen = {
        read(row(completion("a", "5"), completion("b", "5"), completion("c", "1"), instruction=str(i))).chosen
        for i in range(20)
    }
    assert chosen == {"a", "b"}  # all 20 alike: 1 in 500,000 for a fair draw, and the draw is fixed


def test_best_random_draws_among_all_that_are_rated_lower():
    rated = [("a", "5"), ("b", "4"), ("c", "2"), ("d", "5")]
    pairs = [
        read(row(*[completion(*each) for each in rated], instruction=str(i)), pairing="best_random") for i in range(20)
    ]
    assert {pair.rejected for pair in pairs} == {"b", "c"}
    assert {(pair.rejected, pair.strength) for pair in pairs} == {("b", 1.0), ("c", 3.0)}


def test_unrated_and_empty_completions_are_left_out():
    completions = [completion(*rated) for rated in (("a", "N/A"), ("", "5"), ("b", "4"), ("c", "2"))]
    pair = read(row(*completions))
    assert (pair.chosen, pair.rejected, pair.strength) == ("b", "c", 2.0)


@pytest.mark.parametrize("rated", [[], [("a", "5")], [("a", "5"), ("b", "N/A")], [("a", "5"), (" ", "1"), ("", "2")]])
def test_fewer_than_two_rated_completions_are_dropped(rated):
    assert read(row(*[completion(*each) for each in rated])) == Drop("fewer_than_two_rated")


def test_number_of_completions_need_not_be_four():
    completions = [completion(str(i), "3") for i in range(5)] + [completion("best", "4")]
    assert read(row(*completions)).chosen == "best"


def test_same_text_with_two_ratings_is_no_rival_of_itself():
    same = [completion("a", "5"), completion("a", "1")]
    assert read(row(*same)) == Drop("identical_responses")
    assert read(row(*same, completion("b", "1"))).rejected == "b"


def test_system_prompts_of_the_completions_stay_out_of_the_shared_prompt():
    assert read(row(completion("a", "5"), completion("b", "1"))).prompt == (Message("user", "Why?"),)


@pytest.mark.parametrize("rating", ["6", "good", None, "2.5", True])
def test_rating_off_the_scale_names_the_completion(rating):
    message = r"flan.jsonl, row 1: column 'completions\[1\].annotations.honesty.Rating' = .*'1' to '5' or 'N/A'"
    with pytest.raises(DataError, match=message):
        read(row(completion("a", "5"), completion("b", rating)))


def test_completion_without_annotations_is_an_error():
    broken = {"model": "x", "response": "b"}
    with pytest.raises(DataError, match=r"column 'completions\[0\]' = .*expected an object with 'annotations'"):
        read({**row(), "completions": [broken]})


def test_completions_that_are_no_list_are_an_error():
    with pytest.raises(DataError, match=r"row 1: column 'completions' = 'none'; expected a list of completions"):
        read({**row(), "completions": "none"})
