"""Means over pairs with intervals that know which pairs share a prompt."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from seqdpo.analysis.margins import Column
from seqdpo.analysis.schema import Interval

Clusters = NDArray[np.int64]  # (n_pairs,) the number of each pair's prompt, from 0 without gaps

#: How every interval of this module is made.
METHOD = "mean over pairs; t interval, standard error clustered by prompt (G/(G-1) correction, G-1 degrees of freedom)"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over pairs, or a ratio of two; NaN where undefined."""

    value: float
    se: float  # clustered by prompt; NaN with fewer than two prompts
    n: int  # pairs
    n_prompts: int

    def interval(self, confidence: float) -> tuple[float, float]:
        """The two-sided t interval; NaN where undefined."""
        reach = float(stats.t.ppf((1 + confidence) / 2, self._df)) * self.se if self._has_spread else math.nan
        return self.value - reach, self.value + reach

    def p_above(self, bound: float) -> float:
        """One-sided p of "the mean is at most `bound`": small where the mean is above it; 1 where undefined."""
        if not self._has_spread:
            return 1.0
        if self.se == 0:
            return 0.0 if self.value > bound else 1.0
        return float(stats.t.sf((self.value - bound) / self.se, self._df))

    def p_below(self, bound: float) -> float:
        """One-sided p of "the mean is at least `bound`"."""
        return Estimate(-self.value, self.se, self.n, self.n_prompts).p_above(-bound)

    def record(self, confidence: float) -> Interval:
        """As it stands in results.json."""
        low, high = self.interval(confidence)
        return Interval(
            value=defined(self.value),
            low=defined(low),
            high=defined(high),
            confidence=confidence,
            n=self.n,
            n_prompts=self.n_prompts,
        )

    @property
    def _df(self) -> int:
        return self.n_prompts - 1

    @property
    def _has_spread(self) -> bool:
        return math.isfinite(self.value) and math.isfinite(self.se)


def mean(values: Column, clusters: Clusters) -> Estimate:
    """The mean of `values` (n_pairs,), its standard error clustered; undefined if any value is.

    Equals OLS on a constant with cov_type='cluster' in statsmodels. A mean over the defined ones alone would be of
    other pairs than its neighbours in a table.
    """
    n = len(values)
    value = float(np.mean(values)) if n else math.nan
    return _estimate(value, values - value, clusters)


def ratio(numerators: Column, denominators: Column, clusters: Clusters) -> Estimate:
    """mean(numerators) / mean(denominators) over the same pairs; the standard error is of the linearised ratio.

    Undefined where the denominators' mean is 0.
    """
    bottom = float(np.mean(denominators)) if len(denominators) else math.nan
    if bottom == 0 or math.isnan(bottom):
        return Estimate(math.nan, math.nan, len(numerators), _count(clusters))
    value = float(np.mean(numerators)) / bottom
    return _estimate(value, (numerators - value * denominators) / bottom, clusters)


def difference(values: Column, first: NDArray[np.bool_], second: NDArray[np.bool_], clusters: Clusters) -> Estimate:
    """The mean of the values (n_pairs,) over the pairs of `first` less that over those of `second`.

    A prompt's pulls on both means are summed before they are squared, so that prompts on both sides count as one.
    `n_prompts` is that of the side with fewer: the t interval and the G/(G-1) correction rest on it.
    """
    one, other = mean(values[first], clusters[first]), mean(values[second], clusters[second])
    value, n, fewest = one.value - other.value, one.n + other.n, min(one.n_prompts, other.n_prompts)
    if fewest < 2 or math.isnan(value):
        return Estimate(value, math.nan, n, fewest)
    pulls = first * (values - one.value) / one.n - second * (values - other.value) / other.n
    sums = np.bincount(clusters, weights=pulls)
    return Estimate(value, math.sqrt(float(sums @ sums) * fewest / (fewest - 1)), n, fewest)


def two_sided(estimate: Estimate) -> float | None:
    """p of "the mean is 0"; None where there is no standard error."""
    if not (math.isfinite(estimate.value) and math.isfinite(estimate.se)):
        return None
    return min(1.0, 2 * min(estimate.p_above(0), estimate.p_below(0)))


def _estimate(value: float, residuals: Column, clusters: Clusters) -> Estimate:
    n, n_prompts = len(residuals), _count(clusters)
    if n_prompts < 2 or math.isnan(value):
        return Estimate(value, math.nan, n, n_prompts)
    sums = np.bincount(clusters, weights=residuals)
    variance = float(sums @ sums) / n**2 * n_prompts / (n_prompts - 1)
    return Estimate(value, math.sqrt(variance), n, n_prompts)


def _count(clusters: Clusters) -> int:
    return int(np.count_nonzero(np.bincount(clusters))) if len(clusters) else 0


def defined(value: float | None) -> float | None:
    """The number, or None (null) where it is undefined."""
    return None if value is None or not math.isfinite(value) else float(value)
