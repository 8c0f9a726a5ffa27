"""Is a number of a run a likely further draw of its control runs? They hold noise that no interval over pairs knows.

Control stages start from the same checkpoint and train on the same pairs, with labels that say nothing new: what they
differ by among each other is the noise of a run. Of a study without an effect the real stage is one more of them.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqdpo.analysis.estimates import t_above, t_quantile
from seqdpo.analysis.schema import BeyondControls

#: With fewer there is no spread to compare with.
FEWEST_CONTROLS = 2


def beyond_controls(real: float | None, controls: Sequence[float | None], confidence: float) -> BeyondControls | None:
    """How far a run's number lies from those of its control runs; None with fewer than two, or where one is undefined.

    The t of a further draw: (real - mean of controls) / (s sqrt(1 + 1/k)) with k - 1 degrees of freedom, s the SD of
    the k controls. It takes real and control runs to vary alike. Runs that do not differ at all give no p.
    """
    values = [value for value in (real, *controls) if value is not None and math.isfinite(value)]
    if len(controls) < FEWEST_CONTROLS or len(values) < 1 + len(controls):
        return None
    one, *others = values
    excess, reach, p = _further_draw(one, np.array(others), confidence)
    return BeyondControls(
        excess=excess, low=excess - reach, high=excess + reach, confidence=confidence, p=p, n_controls=len(controls)
    )


def _further_draw(real: float, controls: NDArray[np.float64], confidence: float) -> tuple[float, float, float | None]:
    """The excess, the reach of its interval and the two-sided p."""
    k = len(controls)
    excess = real - float(np.mean(controls))
    se = float(np.std(controls, ddof=1)) * math.sqrt(1 + 1 / k)
    reach = t_quantile((1 + confidence) / 2, k - 1) * se
    if not se > 1e-12 * max(1.0, abs(real)):
        return excess, reach, None
    return excess, reach, 2 * t_above(abs(excess) / se, k - 1)
