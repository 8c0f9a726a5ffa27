"""Numbers as every surface shows them."""

from seqdpo.analysis.schema import Bounds, WorstObjective


def number(value: float | None, form: str = "+.2f") -> str:
    """A number as it is shown; undefined is a dash."""
    return "–" if value is None else format(value, form)


def percent(value: float | None) -> str:
    """A share as it is shown."""
    return "–" if value is None else f"{value:.1%}"


def interval(estimate: Bounds | WorstObjective, form: str = "+.2f") -> str:
    """A value with its interval, where it has one."""
    if estimate.low is None:
        return number(estimate.value, form)
    return f"{number(estimate.value, form)} [{number(estimate.low, form)}, {number(estimate.high, form)}]"
