"""The verdict of a cell from what is claimed of its margin, its accuracy and the pairs' places among each other."""

from seqdpo.analysis.schema import Class, DecidedBy, Excess, Word


def verdict_word(
    margin: Class, accuracy: Class, redistribution: Excess, accuracy_covers_zero: bool
) -> tuple[Word, DecidedBy]:
    """The verdict, and which quantity decided it: `margin`, `accuracy`, or `flips` for any sign of redistribution.

    Margin and accuracy are two claims, and either is enough for DEGRADED or POSITIVE TRANSFER.
    """
    moved: dict[Class, Word] = {"fell": "DEGRADED", "rose": "POSITIVE TRANSFER"}
    if {margin, accuracy} == set(moved):
        return "MIXED", "margin"
    if margin in moved:
        return moved[margin], "margin"
    if accuracy in moved:
        return moved[accuracy], "accuracy"
    if margin == "unresolved":
        return "INCONCLUSIVE", "margin"
    if redistribution == "found":
        return "REDISTRIBUTED", "flips"
    if accuracy == "held" or accuracy_covers_zero:
        return "STABLE", "margin"
    return "INCONCLUSIVE", "accuracy"
