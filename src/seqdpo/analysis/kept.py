"""The forecast of a preflight: what share of an earlier objective's mean margin a stage will leave.

It is made of one signal, the transfer so far: what the policy, before the stage, makes of the new objective's pairs, as
a share of what it makes of the earlier objective's own. To first order two objectives act on each other alike
(-learning rate x <gradient, gradient>), so what the earlier one did to the new one foretells what the new one will do
to it. The line, its error and the words on signals that failed are those of benchmarks/preflight_truth.py, which
docs/preflight.md reports: of the lab's model of a million parameters, and of no other.
"""

import math
from typing import NamedTuple

from scipy import stats

CONFIDENCE = 0.9
#: kept = LEVEL + PER_TRANSFER * transfer, by least squares over N_CELLS cells of the lab.
LEVEL, PER_TRANSFER, N_CELLS = 0.25, 0.81, 12
#: Root mean square error of a cell of a study that the line was not fitted on, and its degrees of freedom.
ERROR, DF = 0.40, 10
#: Transfers that were seen there; beyond them the line is not known to go on.
LOWEST, HIGHEST = -1.0, 1.0
#: Signals that foretold nothing there, and what is to be said beside them.
FAILED = {
    "gradient": "no forecast: it foretold nothing in the lab",
    "probe": "no forecast: it foretold nothing in the lab",
}


class KeptForecast(NamedTuple):
    """The share of the present mean margin that will be left."""

    value: float
    low: float  # of the two-sided interval at CONFIDENCE, for one further stage
    high: float
    falls: float  # the chance of a loss beyond the tolerance
    outside: bool  # the transfer lies outside those that were seen


def kept(transfer: float, tolerance: float) -> KeptForecast | None:
    """None where the transfer is undefined; `tolerance` is a share of the margin, as `margin_tolerance`."""
    if not math.isfinite(transfer):
        return None
    value = LEVEL + PER_TRANSFER * transfer
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, DF)) * ERROR
    falls = float(stats.t.cdf((1 - tolerance - value) / ERROR, DF))
    return KeptForecast(value, value - reach, value + reach, falls, not LOWEST <= transfer <= HIGHEST)
