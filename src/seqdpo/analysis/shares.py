"""Changes of a share, pair by pair, by score tests: they hold where few pairs change, and where none does."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from seqdpo.analysis.estimates import Clusters, Estimate, Measured, effective_prompts, mean, t_above, t_quantile
from seqdpo.analysis.margins import Column

#: How these intervals are made.
SHARE_METHOD = "changes of shares: Tango's score interval on the effective number of pairs"
#: With fewer prompts that changed, how much their pairs have in common cannot be seen.
FEWEST_CHANGED = 8


@dataclass(frozen=True, slots=True)
class ShareChange(Measured):
    """What share of the pairs changed one way less the other way; NaN where undefined."""

    value: float  # up - down
    n: int
    n_prompts: int
    up: float  # mean of what each pair gained, of those that did: a tie is half a change
    down: float
    n_effective: float  # independent pairs that would tell as much
    df: float

    def p_above(self, bound: float) -> float:
        """One-sided p of "it is at most `bound`": small where it is above; 1 where undefined."""
        return t_above(self._z(bound), self.df) if self._is_defined else 1.0

    def p_below(self, bound: float) -> float:
        """One-sided p of "it is at least `bound`"."""
        return t_above(-self._z(bound), self.df) if self._is_defined else 1.0

    def interval(self, confidence: float) -> tuple[float, float]:
        """All changes that the two-sided test does not reject."""
        if not self._is_defined:
            return math.nan, math.nan
        reach = t_quantile((1 + confidence) / 2, self.df)
        return _root(lambda bound: self._z(bound) - reach, -1.0, self.value), _root(
            lambda bound: self._z(bound) + reach, self.value, 1.0
        )

    def _z(self, bound: float) -> float:
        return tango_z(self.up * self.n_effective, self.down * self.n_effective, self.n_effective, bound)

    @property
    def _is_defined(self) -> bool:
        return math.isfinite(self.value) and self.n_effective > 0 and self.df > 0


def share_change(change: Column, clusters: Clusters, companion: Column) -> ShareChange:
    """The mean of `change`, (n_pairs,) in [-1, 1]; undefined if any value is.

    The pairs count as the independent ones that would give the clustered standard error, by the t distribution of its
    degrees of freedom. Where too few prompts changed to see what their pairs have in common, `companion` (n_pairs,), a
    change on a finer scale, says it; without a spread there either, the prompts count once each.
    """
    n, found = len(change), mean(change, clusters)
    up, down = float(np.mean(np.maximum(change, 0))), float(np.mean(np.maximum(-change, 0)))
    if found.df is None or math.isnan(found.value):
        return ShareChange(found.value, n, found.n_prompts, up, down, 0.0, 0.0)
    changed = np.count_nonzero(np.bincount(clusters, weights=np.abs(change)))
    trusted = (change, found) if changed >= FEWEST_CHANGED else (companion, mean(companion, clusters))
    effect = _design_effect(*trusted)
    n_effective = effective_prompts(clusters) if math.isnan(effect) else n / max(effect, 1.0)
    return ShareChange(found.value, n, found.n_prompts, up, down, n_effective * _finer(change, up + down), found.df)


def _design_effect(values: Column, found: Estimate) -> float:
    """The clustered variance of the mean over that of as many independent pairs; NaN without a spread."""
    variance = float(np.var(values, ddof=1)) / found.n
    return found.se**2 / variance if variance > 0 else math.nan


def _finer(change: Column, moved: float) -> float:
    """How much less changes in parts (of a mean over control stages) scatter than whole ones as large: 1 or more."""
    value, square = float(np.mean(change)), float(np.mean(change**2))
    return (moved - value**2) / (square - value**2) if square > value**2 else 1.0


def tango_z(up: float, down: float, n: float, bound: float) -> float:
    """The score statistic of "share up - share down = bound": above 0 where more than that went up.

    up, down: pairs, of n, that went up or down. The shares under the hypothesis are their likeliest ones.
    Source: Tango 1998, Statistics in Medicine 17:891, eq. 4 and 6.
    """
    b = -up - down + (2 * n - up + down) * bound
    likeliest_down = (math.sqrt(max(b * b + 8 * n * down * bound * (1 - bound), 0.0)) - b) / (4 * n)
    variance = n * (2 * likeliest_down + bound * (1 - bound))
    distance = up - down - n * bound
    if not variance > 1e-12 * n:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _root(of: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function is 0; the end that is nearer where it is 0 nowhere between."""
    low, high = max(low, -1 + 1e-9), min(high, 1 - 1e-9)
    if of(low) <= 0 or of(high) >= 0:
        return low if of(low) <= 0 else high
    from scipy.optimize import brentq  # late, as in `association.spearman`

    return float(brentq(of, low, high))
