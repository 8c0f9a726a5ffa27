"""The gate: may a pipeline go on, or was an earlier objective degraded beyond what is allowed?"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from seqdpo.analysis.pair_table import expect_one_of
from seqdpo.analysis.schema import Bounds, Cell, Findings, Reasons
from seqdpo.errors import ArgumentError, ConfigError
from seqdpo.study.checkpoints import variant_of

Outcome = Literal["passed", "failed", "open"]
GatedQuantity = Literal["margin", "accuracy", "ranking accuracy"]


class Loss(NamedTuple):
    """What was lost of one quantity; below 0 where it grew; None where it cannot be said."""

    quantity: GatedQuantity
    value: float | None
    low: float | None
    high: float | None
    allowed: float
    outcome: Outcome


class Gated(NamedTuple):
    """One earlier objective at the end of an order."""

    seed: int
    order: str
    objective: str
    n: int
    losses: tuple[Loss, ...]
    outcome: Outcome
    reason: str


def gated(
    findings: Findings,
    max_loss: float,
    objective: str | None = None,
    order: str | None = None,
    strict: bool = False,
    max_accuracy_loss: float | None = None,
    variant: str | None = None,
) -> list[Gated]:
    """Every earlier objective at the end of its order, against what it may lose.

    Looked at are the share of the learned margin, the accuracy, and the ranking accuracy below that of the base; where
    nothing was learned the last alone. `max_accuracy_loss` is the study's `accuracy_tolerance` unless it is given.
    `failed` where the whole interval of a loss lies above what is allowed; `passed` where all lie below or at it;
    `open` otherwise; with `strict` those are `failed`, too. A study's variants are looked at where one is named, by
    itself or with an order.

    Raises: ConfigError if no objective was followed by a later stage; ArgumentError if none of this name, or in this
        order or variant, was, or a loss is no share.
    """
    _check_share("max_loss", max_loss)
    accuracy = findings.method.tolerances.accuracy if max_accuracy_loss is None else max_accuracy_loss
    _check_share("max_accuracy_loss", accuracy)
    final = [cell for cell in findings.cells if cell.from_ == cell.taught and cell.to == cell.order]
    if not final:
        raise ConfigError(
            "gate: no earlier objective was followed by a later stage here; expected one at least. "
            "Run an order of two or more objectives."
        )
    if objective is not None:
        expect_one_of("objective", objective, sorted({cell.objective for cell in final}))
        final = [cell for cell in final if cell.objective == objective]
    if variant is not None:
        expect_one_of("variant", variant, sorted({own for cell in final if (own := variant_of(cell.order))}))
    wanted = variant or (variant_of(order) if order else "")
    final = [cell for cell in final if variant_of(cell.order) == wanted]
    if order is not None:
        expect_one_of("order", order, sorted({cell.order for cell in final}))
        final = [cell for cell in final if cell.order == order]
    return [_gated(cell, max_loss, accuracy, strict) for cell in final]


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        hint = f" For {value:g}% give {value / 100:g}." if 1 <= value <= 100 else ""
        raise ArgumentError([name], f" = {value:g} is no share; expected one from 0 to below 1, as 0.05.{hint}")


def _gated(cell: Cell, max_loss: float, max_accuracy_loss: float, strict: bool) -> Gated:
    losses = tuple(_losses(cell, max_loss, max_accuracy_loss))
    outcome, reason = _outcome(losses)
    if strict and outcome == "open":
        outcome = "failed"
    return Gated(cell.seed, cell.order, cell.objective, cell.n, losses, outcome, reason)


def _losses(cell: Cell, max_loss: float, max_accuracy_loss: float) -> Iterator[Loss]:
    reasons = cell.verdict.reasons
    if isinstance(reasons, Reasons):
        yield _loss("margin", reasons.retention, 1.0, max_loss)
        yield _loss("accuracy", reasons.accuracy_change, 0.0, max_accuracy_loss)
    yield _loss("ranking accuracy", reasons.base.ranking_accuracy_change, 0.0, max_accuracy_loss)


def _loss(quantity: GatedQuantity, found: Bounds, whole: float, allowed: float) -> Loss:
    """`whole` less what was found: a share that was kept, or a change."""
    value, high, low = (None if one is None else whole - one for one in (found.value, found.low, found.high))
    outcome: Outcome = "open"
    if low is not None and low > allowed:
        outcome = "failed"
    elif high is not None and high <= allowed:
        outcome = "passed"
    return Loss(quantity, value, low, high, allowed, outcome)


def _outcome(losses: tuple[Loss, ...]) -> tuple[Outcome, str]:
    """Failed by any quantity, passed by all; where something was learned, that the base is not undercut follows."""
    failed = [loss for loss in losses if loss.outcome == "failed"]
    if failed:
        return "failed", "; ".join(f"lost more than {loss.allowed:.0%} {_of(loss)}" for loss in failed)
    asked = [loss for loss in losses if _has_to_hold(loss, losses)]
    if unsettled := [loss for loss in asked if loss.outcome == "open"]:
        above = ", or ".join(f"above {loss.allowed:.0%} {_of(loss)}" for loss in unsettled)
        return "open", f"a loss {above} is neither shown nor ruled out"
    return (
        "passed",
        f"ruled out is a loss {', and one '.join(f'above {loss.allowed:.0%} {_of(loss)}' for loss in asked)}",
    )


def _has_to_hold(loss: Loss, losses: tuple[Loss, ...]) -> bool:
    return loss.quantity != "ranking accuracy" or len(losses) == 1


def _of(loss: Loss) -> str:
    return {
        "margin": "of the learned margin",
        "accuracy": "of accuracy",
        "ranking accuracy": "of the base's ranking accuracy",
    }[loss.quantity]
