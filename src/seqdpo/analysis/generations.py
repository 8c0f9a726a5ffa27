"""What checkpoints answered, counted: lengths, and beginnings that look like a refusal. Nothing is judged."""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from statsmodels.stats.proportion import proportion_confint

#: Beginnings, in small letters and with plain apostrophes, of what models say when they decline.
REFUSALS = (
    *("i'm sorry", "i am sorry", "sorry", "i apologize", "i apologise", "unfortunately, i"),
    *("i can't", "i cannot", "i can not", "i won't", "i will not", "i'm not able", "i am not able", "i'm unable"),
    *("i am unable", "i don't think i can", "as an ai", "i must decline", "no, i can't", "no, i cannot"),
)


class Answers(NamedTuple):
    """What a checkpoint answered to the prompts of an objective."""

    seed: int
    checkpoint: str
    objective: str
    n: int
    mean_tokens: float
    refusal_like: int  # beginnings of REFUSALS
    cut_off: int  # at the limit of new tokens


class WinRate(NamedTuple):
    """Of a checkpoint against the one before it, over the prompts of an objective."""

    seed: int
    objective: str
    earlier: str
    later: str
    n: int  # prompts
    rate: float  # a tie is half a win
    low: float
    high: float


def win_rate(points: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """(the mean of wins, 1, ties, 1/2, and losses, 0; its Wilson interval).

    A tie varies less than a win and a loss, so with ties the interval is too wide rather than too narrow.
    """
    total, n = float(sum(points)), len(points)
    low, high = proportion_confint(total, n, 1 - confidence, "wilson")
    return total / n, float(low), float(high)


def looks_like_refusal(text: str) -> bool:
    """Whether a response begins with one of REFUSALS."""
    return text.strip().lower().replace("’", "'").startswith(REFUSALS)


def count_answers(generations: pa.Table) -> list[Answers]:
    """One for each seed, objective and checkpoint of generations.parquet, in the order of its rows."""
    grouped: dict[tuple[int, str, str], list[dict[str, object]]] = {}
    for row in generations.to_pylist():
        grouped.setdefault((row["seed"], row["objective"], row["checkpoint"]), []).append(row)
    return [
        Answers(
            seed,
            checkpoint,
            objective,
            len(rows),
            sum(int(str(row["tokens"])) for row in rows) / len(rows),
            sum(looks_like_refusal(str(row["response"])) for row in rows),
            sum(not row["ended"] for row in rows),
        )
        for (seed, objective, checkpoint), rows in grouped.items()
    ]


def engines(generations: pa.Table) -> list[str]:
    """What answered; of a run of an older release, which did not note it, nothing."""
    return [] if "engine" not in generations.column_names else pc.unique(generations["engine"]).to_pylist()


def answered_pairs(generations: pa.Table) -> dict[str, list[str]]:
    """The pair_id of each prompt that was asked, by objective."""
    found: dict[str, dict[str, None]] = {}
    for objective, pair_id in zip(
        generations["objective"].to_pylist(), generations["pair_id"].to_pylist(), strict=True
    ):
        found.setdefault(objective, {})[pair_id] = None
    return {objective: list(ids) for objective, ids in found.items()}
