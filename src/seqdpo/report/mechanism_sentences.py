"""What gradients, steps and weights say together of each later stage, in a sentence."""

from seqdpo.analysis.schema import Bounds, Gradients, Mechanism, Movement
from seqdpo.report.numbers import interval, number
from seqdpo.report.words import BOOKS, OPPOSITION


def mechanism_sentences(mechanism: Mechanism) -> list[str]:
    """One for each later stage and earlier objective."""
    moved = {(one.seed, one.to): one for one in mechanism.movement if not one.placebo}
    real = (record for record in mechanism.gradients if not record.placebo)
    return [_sentence(record, moved.get((record.seed, record.to))) for record in real]


def _sentence(record: Gradients, movement: Movement | None) -> str:
    account = record.account
    weights = "" if movement is None or movement.cosine is None else f" {_weights(movement)}"
    return (
        f"{record.objective} during {record.to} (seed {record.seed}): {OPPOSITION[record.statement]} "
        f"({_cosine(record)}). "
        f"Its loss changed by {interval(account.actual, '+.3f')} nats a pair. "
        f"{BOOKS[account.statement]}: {interval(account.predicted, '+.3f')} ({account.statement}).{weights}"
    )


def _cosine(record: Gradients) -> str:
    """Without the noise of the batches, beside its bound; where that is open, the side of 0 may be known still."""
    said = f"cosine {interval(record.cosine)}, bound ±{record.near_orthogonal:g}"
    beyond = "" if record.beyond_control is None else f", beyond a control stage {interval(record.beyond_control)}"
    if record.side == "open":
        return f"{said}; with the noise of its batches {interval(record.point_cosine)}{beyond}"
    return f"{said}; with the noise of its batches {interval(record.point_cosine)}, {record.side}{beyond}"


def _weights(movement: Movement) -> str:
    """Where the update went, beside where the control stages went."""
    where = f"In the weights the update has cosine {number(movement.cosine)} with the earlier adapter"
    beyond = movement.cosine_beyond_controls
    if beyond is None:
        return f"{where}; with two control stages it could be said what any training there reads."
    found = Bounds(value=beyond.excess, low=beyond.low, high=beyond.high)
    p = "" if beyond.p is None else f", p = {beyond.p:.2g}"
    return f"{where}: {interval(found)} beyond its {beyond.n_controls} control stages{p}."
