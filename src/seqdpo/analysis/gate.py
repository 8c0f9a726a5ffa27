"""The gate: may a pipeline go on, or was an earlier objective degraded beyond what is allowed?"""

from typing import Literal, NamedTuple

from seqdpo.analysis.pair_table import expect_one_of
from seqdpo.analysis.schema import Cell, Findings
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
    findings: Findings,
    max_loss: float,
    objective: str | None = None,
    order: str | None = None,
    strict: bool = False,
) -> list[Gated]:
    """Every earlier objective at the end of its order, against the share of the learned margin that it may lose.

    `failed` where the whole interval of the loss lies above `max_loss`; `passed` where it lies below or at it; `open`
    where it holds both, and where nothing was learned; with `strict` those are `failed`, too.

    Raises: ConfigError if no objective was followed by a later stage; ArgumentError if none of this name, or in this
        order, was.
    """
    final = [cell for cell in findings.cells if cell.from_ == cell.taught and cell.to == cell.order]
    if not final:
        raise ConfigError(
            "gate: no earlier objective was followed by a later stage here; expected one at least. "
            "Run an order of two or more objectives."
        )
    if objective is not None:
        expect_one_of("objective", objective, sorted({cell.objective for cell in final}))
        final = [cell for cell in final if cell.objective == objective]
    if order is not None:
        expect_one_of("order", order, sorted({cell.order for cell in final}))
        final = [cell for cell in final if cell.order == order]
    return [_gated(cell, max_loss, strict) for cell in final]


def _gated(cell: Cell, max_loss: float, strict: bool) -> Gated:
    kept = cell.verdict.retention
    value, low, high = (None, None, None) if kept is None else map(_lost, (kept.value, kept.high, kept.low))
    outcome, reason = _outcome(low, high, max_loss)
    if strict and outcome == "open":
        outcome = "failed"
    return Gated(cell.seed, cell.order, cell.objective, cell.n, value, low, high, outcome, reason)


def _lost(kept: float | None) -> float | None:
    return None if kept is None else 1 - kept


def _outcome(low: float | None, high: float | None, max_loss: float) -> tuple[Outcome, str]:
    if low is None or high is None:
        return "open", "nothing was learned that could be lost, or the interval is undefined"
    if low > max_loss:
        return "failed", f"lost more than {max_loss:.0%} of the learned margin"
    if high <= max_loss:
        return "passed", f"a loss above {max_loss:.0%} is ruled out"
    return "open", f"a loss above {max_loss:.0%} is neither shown nor ruled out"
