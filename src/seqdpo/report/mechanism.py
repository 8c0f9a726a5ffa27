"""What gradients, steps and weights say together of each later stage, in a sentence."""

from collections.abc import Mapping
from typing import Any

from seqdpo.report.html import interval, number

Record = Mapping[str, Any]

GRADIENTS = {
    "opposed": "the gradients of the two objectives oppose each other",
    "aligned": "the gradients of the two objectives point the same way",
    "unresolved": "these batches cannot tell whether the gradients oppose each other",
}
ACCOUNT = {
    "confirmed": "The steps, times the earlier gradient, account for it",
    "contradicted": "The steps, times the earlier gradient, promised the opposite, so it was no first-order effect",
    "unresolved": "The steps, times the earlier gradient, do not settle why",
}


def mechanism_lines(mechanism: Record) -> list[str]:
    """A line for each later stage and earlier objective."""
    moved = {(one["seed"], one["to"]): one for one in mechanism.get("movement", []) if not one["placebo"]}
    return [_line(record, moved.get((record["seed"], record["to"]))) for record in mechanism.get("gradients", [])]


def _line(record: Record, movement: Record | None) -> str:
    account = record["account"]
    weights = ""
    if movement is not None and movement["cosine"] is not None:
        weights = (
            f" In the weights the update has cosine {number(movement['cosine'])} with the earlier adapter; a random "
            f"one has 0 with SD {movement['cosine_null_sd']:.4f}."
        )
    return (
        f"{record['objective']} during {record['to']} (seed {record['seed']}): {GRADIENTS[record['statement']]} "
        f"(cosine {interval(record['point_cosine'])}, null 0). "
        f"Its loss changed by {interval(account['actual'], '+.3f')} nats a pair. "
        f"{ACCOUNT[account['statement']]}: {interval(account['predicted'], '+.3f')} ({account['statement']}).{weights}"
    )
