"""Means over pairs with intervals that know which pairs share a prompt."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from seqdpo.analysis.margins import Column
from seqdpo.analysis.schema import Interval

Clusters = NDArray[np.int64]  # (n_pairs,) the number of each pair's prompt, from 0 without gaps

#: How every interval of this module is made.
METHOD = "mean over pairs; t interval, standard error clustered by prompt (CR2, Satterthwaite degrees of freedom)"


class Measured:
    """A number over pairs of prompts (`value`, `n`, `n_prompts`); NaN where undefined."""

    __slots__ = ()
    value: float
    n: int
    n_prompts: int

    def interval(self, confidence: float) -> tuple[float, float]:
        """The two-sided interval; NaN where undefined."""
        raise NotImplementedError

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


@dataclass(frozen=True, slots=True)
class Estimate(Measured):
    """A mean over pairs, or what behaves like one."""

    value: float
    se: float  # clustered by prompt; NaN with fewer than two prompts
    n: int
    n_prompts: int
    df: float | None = None  # None: n_prompts - 1, as of prompts of equal size

    def interval(self, confidence: float) -> tuple[float, float]:
        """The two-sided t interval; NaN where undefined."""
        reach = t_quantile((1 + confidence) / 2, self._df) * self.se if self._has_spread else math.nan
        return self.value - reach, self.value + reach

    def p_above(self, bound: float) -> float:
        """One-sided p of "the mean is at most `bound`": small where the mean is above it; 1 where undefined.

        Without any spread there is no doubt: whoever makes a claim of it asks how many prompts agree.
        """
        if not self._has_spread:
            return 1.0
        if self.se == 0:
            return 0.0 if self.value > bound else 1.0
        return t_above((self.value - bound) / self.se, self._df)

    def p_below(self, bound: float) -> float:
        """One-sided p of "the mean is at least `bound`"."""
        return replace(self, value=-self.value).p_above(-bound)

    @property
    def _df(self) -> float:
        return self.n_prompts - 1 if self.df is None else self.df

    @property
    def _has_spread(self) -> bool:
        return math.isfinite(self.value) and math.isfinite(self.se)


@dataclass(frozen=True, slots=True)
class Ratio(Measured):
    """A ratio of two means over the same pairs, with Fieller's interval.

    It has no interval where the denominator's mean is not told from 0: there any ratio is possible.
    """

    value: float
    n: int
    n_prompts: int
    top: float
    bottom: float
    top_variance: float  # of the means, clustered by prompt
    bottom_variance: float
    covariance: float
    df: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """All ratios r at which a t test does not reject mean(top - r * bottom) = 0; NaN where these have no end.

        Source: Fieller 1954, J. R. Stat. Soc. B 16:175.
        """
        t_squared = t_quantile((1 + confidence) / 2, self.df) ** 2 if self.df > 0 else math.nan
        a = self.bottom**2 - t_squared * self.bottom_variance
        if not a > 0:
            return math.nan, math.nan
        b = self.top * self.bottom - t_squared * self.covariance
        c = self.top**2 - t_squared * self.top_variance
        root = math.sqrt(max(b * b - a * c, 0.0))
        return (b - root) / a, (b + root) / a


def mean(values: Column, clusters: Clusters) -> Estimate:
    """The mean of `values` (n_pairs,), its standard error clustered; undefined if any value is.

    Equals OLS on a constant with CR2 standard errors; with as many pairs for every prompt that is statsmodels'
    cov_type='cluster'. A mean over the defined ones alone would be of other pairs than its neighbours in a table.
    Source: Bell & McCaffrey 2002, Survey Methodology 28:169; Pustejovsky & Tipton 2018, J. Bus. Econ. Stat. 36:672.
    """
    n, sizes = len(values), _sizes(clusters)
    value = float(np.mean(values)) if n else math.nan
    if len(sizes) < 2 or math.isnan(value):
        return Estimate(value, math.nan, n, len(sizes))
    pulls = _pulls(values - value, clusters)
    return Estimate(value, math.sqrt(float(pulls @ pulls)), n, len(sizes), _df(sizes))


def ratio(numerators: Column, denominators: Column, clusters: Clusters) -> Ratio:
    """mean(numerators) / mean(denominators) over the same pairs; undefined where the latter is 0."""
    n, sizes = len(numerators), _sizes(clusters)
    top, bottom = (float(np.mean(column)) if n else math.nan for column in (numerators, denominators))
    value = top / bottom if bottom else math.nan
    if len(sizes) < 2 or math.isnan(value):
        return Ratio(value, n, len(sizes), top, bottom, math.nan, math.nan, math.nan, math.nan)
    of_top, of_bottom = _pulls(numerators - top, clusters), _pulls(denominators - bottom, clusters)
    return Ratio(
        value=value,
        n=n,
        n_prompts=len(sizes),
        top=top,
        bottom=bottom,
        top_variance=float(of_top @ of_top),
        bottom_variance=float(of_bottom @ of_bottom),
        covariance=float(of_top @ of_bottom),
        df=_df(sizes),
    )


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


def effective_prompts(clusters: Clusters) -> float:
    """How many prompts of equal size tell as much as these: (sum n_g)^2 / sum n_g^2 (Kish 1965); 0 without pairs."""
    sizes = _sizes(clusters)
    return float(sizes.sum() ** 2 / (sizes @ sizes)) if len(sizes) else 0.0


def t_quantile(p: float, df: float) -> float:
    """scipy.stats.t.ppf without its checks, which take ten times as long."""
    return float(special.stdtrit(df, p))


def t_above(t: float, df: float) -> float:
    """scipy.stats.t.sf, likewise."""
    return float(special.stdtr(df, -t))


def cr2_weights(sizes: Column) -> Column:
    """By what each prompt's sum of residuals grows before it is squared: 1 / sqrt(1 - n_g / n). `sizes` (n_prompts,).

    The residuals lie around a mean to which the prompt itself has contributed, the more the larger it is.
    """
    weights: Column = 1 / np.sqrt(1 - sizes / sizes.sum())
    return weights


def satterthwaite_df(sum_of_squares: Column, sum_of_q: Column, sum_of_q_squares: Column, n: Column) -> Column:
    """Degrees of freedom of the CR2 variance of a mean over n pairs, if pairs were alike and independent.

    Of prompts of n_g pairs: the sums of n_g^2, of q_g = n_g^2 / (1 - n_g / n) and of q_g^2. Derived from
    (tr P'P)^2 / tr (P'P)^2 with p_g = (I - H) x_g / sqrt(1 - n_g / n), Bell & McCaffrey 2002, eq. 13; prompts of equal
    size give G - 1.
    """
    degrees: Column = n**2 / (sum_of_squares + (sum_of_q**2 - sum_of_q_squares) / n**2)
    return degrees


def _pulls(residuals: Column, clusters: Clusters) -> Column:
    """What each prompt adds to the error of the mean: (n_prompts,); the sum of squares is the variance."""
    sizes = np.bincount(clusters).astype(np.float64)
    there = sizes > 0
    sums = np.bincount(clusters, weights=residuals)[there]
    return sums * cr2_weights(sizes[there]) / len(residuals)


def _df(sizes: Column) -> float:
    q = sizes**2 * cr2_weights(sizes) ** 2
    return float(satterthwaite_df(sizes @ sizes, q.sum(), q @ q, sizes.sum()))


def _sizes(clusters: Clusters) -> Column:
    """The pairs of each prompt, (n_prompts,)."""
    counts = np.bincount(clusters) if len(clusters) else np.empty(0, dtype=np.int64)
    sizes: Column = counts[counts > 0].astype(np.float64)
    return sizes


def defined(value: float | None) -> float | None:
    """The number, or None (null) where it is undefined."""
    return None if value is None or not math.isfinite(value) else float(value)
