"""UltraFeedback (`openbmb/UltraFeedback`): up to four completions of an instruction, rated in four aspects."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from seqdpo.preferences.datasets import Sourced
from seqdpo.preferences.pairs import Candidates, Drop, Message, Pair, Split, content_hash
from seqdpo.preferences.rows import Row, as_number, kept, numbered
from seqdpo.study.objectives import Source, SourcedObjective


class _Rated(NamedTuple):
    draw: str  # hash of the instruction and the response: settles ties the same way in whatever order they come
    rating: int
    response: str


class UltraFeedbackObjective(SourcedObjective):
    """UltraFeedback: a best-rated completion of `aspect` against a worst-rated (or a random lower-rated) one."""

    format: Literal["ultrafeedback"]
    dataset_name: Source = "openbmb/UltraFeedback"
    aspect: Literal["instruction_following", "honesty", "truthfulness", "helpfulness"]
    pairing: Literal["best_worst", "best_random"] = "best_worst"


def candidates(
    rows: Iterable[dict[str, Any]], objective: UltraFeedbackObjective, split: Split | None, where: str
) -> Candidates:
    """One pair a row: a best-rated completion against a worst-rated one, or against any rated lower.

    Strength is the gap of the two ratings. Slices: source.
    Completions with the rating 'N/A' or an empty response are left out. Ties, and the draw of `best_random`, are
    settled by a hash of the content, so that the order of the completions does not matter.
    Raises: DataError for a row with a column that is missing or of the wrong type.
    """
    for row in numbered(rows, where):
        yield row.explained(_candidate(row, objective, split))


def _candidate(row: Row, objective: UltraFeedbackObjective, split: Split | None) -> Pair | Drop:
    instruction, source = row.text("instruction"), row.text("source")
    rated = sorted(_rated(row, instruction, objective.aspect))
    if len(rated) < 2:
        return Drop("fewer_than_two_rated")
    best_rating, worst_rating = max(r.rating for r in rated), min(r.rating for r in rated)
    if best_rating == worst_rating:
        return Drop("equal_ratings")
    best = next(r for r in rated if r.rating == best_rating)
    highest_rejected = worst_rating if objective.pairing == "best_worst" else best_rating - 1
    # the same text can come from two models with two ratings; it is no rival of itself
    rivals = [r for r in rated if r.rating <= highest_rejected and r.response != best.response]
    if not rivals:
        return Drop("identical_responses")
    return kept(
        Pair(
            # custom_system_prompt differs between the completions of a row, and a pair has one prompt for both
            prompt=(Message("user", instruction),),
            chosen=best.response,
            rejected=rivals[0].response,
            upstream_split=split,
            strength=float(best.rating - rivals[0].rating),
            slices={"source": source},
        )
    )


def _rated(row: Row, instruction: str, aspect: str) -> Iterator[_Rated]:
    """The completions with a response and a rating of `aspect`."""
    completions = row.value("completions", "a list of completions")
    if not isinstance(completions, list):
        raise row.wrong("completions", completions, "a list of completions")
    for i, completion in enumerate(completions):
        path = f"completions[{i}]"
        response = _member(row, completion, path, "response")
        if not isinstance(response, str):
            raise row.wrong(f"{path}.response", response, "text")
        annotations = _member(row, completion, path, "annotations")
        annotation = _member(row, annotations, f"{path}.annotations", aspect)
        rating = _rating(row, annotation, f"{path}.annotations.{aspect}")
        if rating is not None and response.strip():
            yield _Rated(content_hash([instruction, response]), rating, response)


def _rating(row: Row, annotation: object, path: str) -> int | None:
    """1 to 5, which upstream writes as text; None for 'N/A'."""
    found = _member(row, annotation, path, "Rating")
    if found == "N/A":
        return None
    number = as_number(found)
    if number is None or not number.is_integer() or not 1 <= number <= 5:
        raise row.wrong(f"{path}.Rating", found, "'1' to '5' or 'N/A'")
    return int(number)


def _member(row: Row, parent: object, path: str, key: str) -> object:
    if not isinstance(parent, dict) or key not in parent:
        raise row.wrong(path, parent, f"an object with {key!r}")
    return parent[key]


FORMAT = Sourced(UltraFeedbackObjective, candidates)
