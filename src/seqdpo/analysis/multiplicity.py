"""Many tests at once: Holm's procedure, as adjusted p values and as levels of intervals; false discovery rates."""

from collections.abc import Sequence
from itertools import accumulate


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted for each other; those that are None take no part.

    statsmodels' multipletests gives the same, but runs Python's garbage collector at every call: a tenth of a second.
    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    there = sorted(p for p in p_values if p is not None)
    steps = accumulate((p * (len(there) - i) for i, p in enumerate(there)), max)
    adjusted = {p: min(1.0, step) for p, step in zip(there, steps, strict=True)}
    return [None if p is None else adjusted[p] for p in p_values]


def holm_levels(p_values: Sequence[float], level: float) -> list[float]:
    """The level at which Holm's procedure tests each hypothesis: level / m for the smallest p, level / (m - 1) for
    the next, and so on; from the first that fails, all the others share its level.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    levels = [0.0] * len(p_values)
    left = len(p_values)
    failed = False
    for i in sorted(range(len(p_values)), key=lambda i: p_values[i]):
        levels[i] = level / left
        failed = failed or p_values[i] > levels[i]
        left -= 0 if failed else 1
    return levels


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted for each other, so that what stays below q holds at most a share q of false ones; None takes no part.

    Source: Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57:289.
    """
    from scipy.stats import false_discovery_control  # late, as in `association.spearman`

    there = [p for p in p_values if p is not None]
    adjusted = iter(false_discovery_control(there).tolist() if there else ())
    return [None if p is None else next(adjusted) for p in p_values]
