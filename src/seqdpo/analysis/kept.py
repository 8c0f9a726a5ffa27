"""The forecast of a preflight: what share of an earlier objective's mean margin a stage will leave."""

import math
from typing import NamedTuple

from scipy import stats

CONFIDENCE = 0.9
#: A slope beyond this says no more than that labels agree, or disagree.
STEEP = 2.0


class Before(NamedTuple):
    """The signals that the forecast is made of."""

    slope: float  # of the new labels on the present margins (`label_pull.label_slope`)


#: kept = LEVEL + PER_SLOPE * slope
LEVEL, PER_SLOPE = 0.3, 0.9
ERROR, DF = 0.4, 20
RANGE = (-1.0, 1.5)
FAILED: dict[str, str] = {}


class KeptForecast(NamedTuple):
    value: float
    low: float
    high: float
    below: float
    outside: bool


def kept(before: Before, tolerance: float) -> KeptForecast | None:
    """None where the slope is undefined."""
    if not math.isfinite(before.slope):
        return None
    value = LEVEL + PER_SLOPE * before.slope
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, DF)) * ERROR
    below = float(stats.t.cdf((1 - tolerance - value) / ERROR, DF))
    return KeptForecast(value, value - reach, value + reach, below, not RANGE[0] <= before.slope <= RANGE[1])
