"""PKU-SafeRLHF: two labels on one pair."""

import pytest

from seqdpo.errors import DataError
from seqdpo.preferences.datasets.pku_saferlhf import candidates
from seqdpo.preferences.pairs import Drop, Message, Pair
from seqdpo.study.objectives import PkuSafeRlhfObjective

CATEGORIES = ("Cybercrime", "Drugs", "Physical Harm", "Privacy Violation")


def harms(*names):
    return {name: name in names for name in CATEGORIES}


#: Response 0 is the more helpful one, response 1 the safer one: the two labels conflict.
ROW = {
    "prompt": "How do I get in?",
    "response_0": "Pick the lock.",
    "response_1": "Knock.",
    "prompt_source": "BeaverTails",
    "response_0_source": "Alpaca-7B",
    "response_1_source": "Alpaca-7B",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "response_0_harm_category": harms("Privacy Violation", "Cybercrime"),
    "response_1_harm_category": harms(),
    "response_0_severity_level": 2,
    "response_1_severity_level": 0,
    "better_response_id": 0,
    "safer_response_id": 1,
    "response_0_sha256": "0" * 64,
    "response_1_sha256": "1" * 64,
}


def read(row=ROW, label="safe", split="train", **options):
    objective = PkuSafeRlhfObjective(format="pku-saferlhf", label=label, **options)
    (candidate,) = candidates([row], objective, split, "data/Alpaca-7B/train.jsonl")
    return candidate


def test_safer_response_is_chosen_and_the_severity_gap_is_the_strength():
    assert read() == Pair(
        prompt=(Message("user", "How do I get in?"),),
        chosen="Knock.",
        rejected="Pick the lock.",
        upstream_split="train",
        strength=2.0,
        slices={
            "chosen_severity": 0,
            "rejected_severity": 2,
            "prompt_source": "BeaverTails",
            "labels_agree": False,
            "harm_category": "Cybercrime; Privacy Violation",
        },
    )


def test_helpful_label_chooses_the_other_response_of_the_same_pair_and_has_no_strength():
    helpful = read(label="helpful")
    assert (helpful.chosen, helpful.rejected, helpful.strength) == ("Pick the lock.", "Knock.", None)
    assert helpful.slices["harm_category"] == "none"
    assert (helpful.slices["chosen_severity"], helpful.slices["rejected_severity"]) == (2, 0)


def test_labels_that_name_one_response_agree():
    assert read({**ROW, "better_response_id": 1}).slices["labels_agree"] is True


def test_severity_against_the_label_gives_a_strength_below_zero():
    assert read({**ROW, "safer_response_id": 0}).strength == -2.0


@pytest.mark.parametrize("one", [1, "1", 1.0])
def test_ids_may_arrive_as_text(one):
    assert read({**ROW, "safer_response_id": one}).chosen == "Knock."


@pytest.mark.parametrize("safe", [True, False])
def test_contrast_only_drops_pairs_of_two_safe_or_two_unsafe_responses(safe):
    row = {**ROW, "is_response_0_safe": safe, "is_response_1_safe": safe}
    assert read(row, contrast_only=True) == Drop("no_safety_contrast")
    assert isinstance(read(row), Pair)


def test_contrast_only_keeps_one_safe_and_one_unsafe():
    assert isinstance(read(contrast_only=True), Pair)


@pytest.mark.parametrize(("response", "reason"), [(" ", "empty_response"), ("Knock.", "identical_responses")])
def test_pair_with_nothing_to_compare_is_dropped(response, reason):
    assert read({**ROW, "response_0": response}) == Drop(reason)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("safer_response_id", 2, "a whole number from 0 to 1"),
        ("safer_response_id", "first", "a whole number from 0 to 1"),
        ("is_response_0_safe", "yes", "true or false"),
        ("response_1_severity_level", 4, "a whole number from 0 to 3"),
        ("response_0_harm_category", ["Drugs"], "true or false for each harm category"),
        ("prompt", None, "text"),
    ],
)
def test_wrong_value_names_the_column_and_what_was_expected(column, value, expected):
    message = f"data/Alpaca-7B/train.jsonl, row 1: column '{column}' = .*; expected {expected}"
    with pytest.raises(DataError, match=message):
        read({**ROW, column: value})
