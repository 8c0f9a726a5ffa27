"""Estimates over the points of a stage: each point is one draw of held-out batches, so the points are what varies."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from seqdpo.analysis.estimates import defined
from seqdpo.analysis.margins import Column
from seqdpo.analysis.schema import PointInterval

#: One column of a table: a row for each point, a column for each module, layer or the whole.
Points = NDArray[np.float64]  # (n_points, n_groups)


class PointEstimate(NamedTuple):
    """A number over the points of a stage for each of n_groups, NaN where undefined."""

    value: Column  # (n_groups,)
    se: Column  # (n_groups,)
    n_points: int

    def record(self, group: int, confidence: float) -> PointInterval:
        """One group's, as it stands in results.json."""
        low, high = self.interval(group, confidence)
        return PointInterval(
            value=defined(self.value[group]),
            low=defined(low),
            high=defined(high),
            confidence=confidence,
            n_points=self.n_points,
        )

    def interval(self, group: int, confidence: float) -> tuple[float, float]:
        """The two-sided t interval with n_points - 1 degrees of freedom; NaN where undefined."""
        reach = stats.t.ppf((1 + confidence) / 2, self.n_points - 1) * self.se[group] if self.n_points > 1 else np.nan
        return float(self.value[group] - reach), float(self.value[group] + reach)


def total(values: Points) -> PointEstimate:
    """The sum over points. What changes over the stage counts as noise, too: the interval is rather too wide."""
    n = len(values)
    return PointEstimate(values.sum(axis=0), np.sqrt(n) * _sd(values), n)


def average(values: Points) -> PointEstimate:
    """The mean over points; undefined without any."""
    n = len(values)
    if not n:
        undefined = np.full(values.shape[1], np.nan)
        return PointEstimate(undefined, undefined, 0)
    return PointEstimate(values.mean(axis=0), _sd(values) / np.sqrt(n), n)


def jackknife(statistic: Callable[..., Column], *columns: Points) -> PointEstimate:
    """A function of the columns' sums over points, by leaving out one point at a time (Tukey's jackknife).

    Undefined where the function is undefined for one of the replicates: the noise outweighs what it divides by.
    """
    n = len(columns[0])
    sums = [column.sum(axis=0) for column in columns]
    with np.errstate(invalid="ignore", divide="ignore"):
        value = statistic(*sums)
        replicates = statistic(*(one - column for one, column in zip(sums, columns, strict=True)))  # (n_points, groups)
    spread = replicates - replicates.mean(axis=0)
    se = np.sqrt((n - 1) / n * (spread**2).sum(axis=0)) if n > 1 else np.full(len(value), np.nan)
    return PointEstimate(np.where(np.isnan(se) & (n > 1), np.nan, value), se, n)


def _sd(values: Points) -> Column:
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
