"""The gate: may a pipeline go on, or was an earlier objective degraded beyond what is allowed?"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from seqdpo.analyse.pair_table import expect_one_of
from seqdpo.errors import ConfigError

Outcome = Literal["passed", "failed", "open"]


class Gated(NamedTuple):
    """One earlier objective at the end of an order."""

    seed: int
    order: str
    objective: str
    n: int
    loss: float | None  # 1 - retention: share of the learned margin that is gone; below 0 where it grew
    low: float | None
    high: float | None
    outcome: Outcome
    reason: str


def gated(
    results: Mapping[str, Any],
    max_loss: float,
    objective: str | None = None,
    order: str | None = None,
    strict: bool = False,
) -> list[Gated]:
    """Every earlier objective at the end of its order, against the share of the learned margin that it may lose.

    `failed` where the whole interval of the loss lies above `max_loss`; `passed` where it lies below or at it; `open`
    where it holds both, and where nothing was learned; with `strict` those are `failed`, too.

    Raises: ConfigError if no objective (of this name, in this order) was followed by a later stage.
    """
    final = [cell for cell in results["cells"] if cell["from"] == cell["taught"] and cell["to"] == cell["order"]]
    if not final:
        raise ConfigError(
            "gate: no earlier objective was followed by a later stage here; expected one at least. "
            "Run an order of two or more objectives."
        )
    for key, wanted in (("objective", objective), ("order", order)):
        if wanted is not None:
            expect_one_of(f"--{key}", wanted, sorted({cell[key] for cell in final}))
            final = [cell for cell in final if cell[key] == wanted]
    return [_gated(cell, max_loss, strict) for cell in final]


def _gated(cell: Mapping[str, Any], max_loss: float, strict: bool) -> Gated:
    retention = cell["verdict"]["reasons"].get("retention")
    value, low, high = (None, None, None) if retention is None else _loss(retention)
    outcome, reason = _outcome(low, high, max_loss)
    if strict and outcome == "open":
        outcome = "failed"
    return Gated(cell["seed"], cell["order"], cell["objective"], cell["n"], value, low, high, outcome, reason)


def _loss(retention: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    value, low, high = (retention[key] for key in ("value", "high", "low"))
    return tuple(None if end is None else 1 - end for end in (value, low, high))  # type: ignore[return-value]


def _outcome(low: float | None, high: float | None, max_loss: float) -> tuple[Outcome, str]:
    if low is None or high is None:
        return "open", "nothing was learned that could be lost, or the interval is undefined"
    if low > max_loss:
        return "failed", f"lost more than {max_loss:.0%} of the learned margin"
    if high <= max_loss:
        return "passed", f"a loss above {max_loss:.0%} is ruled out"
    return "open", f"a loss above {max_loss:.0%} is neither shown nor ruled out"
