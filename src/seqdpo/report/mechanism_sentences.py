"""What gradients, steps and weights say together of each later stage, in a sentence."""

from seqdpo.analysis.schema import Gradients, Mechanism, Movement
from seqdpo.report.numbers import interval, number
from seqdpo.report.words import BOOKS, OPPOSITION


def mechanism_sentences(mechanism: Mechanism) -> list[str]:
    """One for each later stage and earlier objective."""
    moved = {(one.seed, one.to): one for one in mechanism.movement if not one.placebo}
    return [_sentence(record, moved.get((record.seed, record.to))) for record in mechanism.gradients]


def _sentence(record: Gradients, movement: Movement | None) -> str:
    account = record.account
    weights = ""
    if movement is not None and movement.cosine is not None:
        weights = (
            f" In the weights the update has cosine {number(movement.cosine)} with the earlier adapter; a random "
            f"one has 0 with SD {movement.cosine_null_sd:.4f}."
        )
    return (
        f"{record.objective} during {record.to} (seed {record.seed}): {OPPOSITION[record.statement]} "
        f"(cosine {interval(record.point_cosine)}, null 0). "
        f"Its loss changed by {interval(account.actual, '+.3f')} nats a pair. "
        f"{BOOKS[account.statement]}: {interval(account.predicted, '+.3f')} ({account.statement}).{weights}"
    )
