"""Estimates over the points of a stage, whose noise is that of their held-out pairs.

Points of one block read the same pairs, and points of different blocks share none: blocks are what varies, however many
points there are.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqdpo.analysis.estimates import defined, t_quantile
from seqdpo.analysis.margins import Column
from seqdpo.analysis.schema import PointInterval

#: One column of a table: a row for each point, a column for each module, layer or the whole.
Points = NDArray[np.float64]  # (n_points, n_groups)
Blocks = NDArray[np.int64]  # (n_points,) the number of each point's block, from 0 without gaps; none of length 0
#: Of points whose blocks are not known, as those of older releases.
UNKNOWN: Blocks = np.empty(0, dtype=np.int64)


class PointEstimate(NamedTuple):
    """A number over the points of a stage for each of n_groups, NaN where undefined."""

    value: Column  # (n_groups,)
    se: Column  # (n_groups,)
    n_points: int
    n_blocks: int

    def record(self, group: int, confidence: float) -> PointInterval:
        """One group's, as it stands in results.json."""
        return _record(float(self.value[group]), self.interval(group, confidence), confidence, self)

    def interval(self, group: int, confidence: float) -> tuple[float, float]:
        """The two-sided t interval with n_blocks - 1 degrees of freedom; NaN where undefined."""
        reach = _reach(self.n_blocks, confidence) * self.se[group]
        return float(self.value[group] - reach), float(self.value[group] + reach)


class Cosine(NamedTuple):
    """dot / norm over the points of a stage, where the norm is an estimate, too; every column (n_groups,)."""

    dot: Column
    norm: Column  # 0 where the noise outweighs what it is made of
    dot_variance: Column
    covariance: Column
    norm_variance: Column
    n_points: int
    n_blocks: int

    @property
    def value(self) -> Column:
        """No further out than a cosine can be; NaN where there is no norm."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.norm > 0, np.clip(self.dot / self.norm, -1, 1), np.nan)

    def record(self, group: int, confidence: float) -> PointInterval:
        """One group's, as it stands in results.json."""
        return _record(float(self.value[group]), self.interval(group, confidence), confidence, self)

    def interval(self, group: int, confidence: float) -> tuple[float, float]:
        """All cosines in [-1, 1] that dot - cosine * norm does not rule out (Fieller 1954, JRSS B 16:175).

        All of them where the norm itself is not told from 0; NaN where nothing is known of the spread. The t has
        n_blocks - 1 degrees of freedom.
        """
        dot, norm, dd, dn, nn = (float(column[group]) for column in self[:5])
        t2 = _reach(self.n_blocks, confidence) ** 2
        square, middle, rest = norm**2 - t2 * nn, dot * norm - t2 * dn, dot**2 - t2 * dd
        if np.isnan(square):
            return np.nan, np.nan
        if square <= 0:
            return -1.0, 1.0
        reach = np.sqrt(max(0.0, middle**2 - square * rest))
        low, high = np.clip([(middle - reach) / square, (middle + reach) / square], -1, 1)
        return float(low), float(high)


def total(values: Points, blocks: Blocks) -> PointEstimate:
    """The sum over points. What changes over the stage counts as noise, too: the interval is rather too wide."""
    mean = average(values, blocks)
    n = len(values)
    return mean._replace(value=values.sum(axis=0), se=n * mean.se)


def average(values: Points, blocks: Blocks) -> PointEstimate:
    """The mean over points, its error clustered by block; undefined without any."""
    n, n_groups = values.shape
    if not n:
        undefined = np.full(n_groups, np.nan)
        return PointEstimate(undefined, undefined, 0, 0)
    mean = values.mean(axis=0)
    sums = _sums(values - mean, blocks)
    n_blocks = len(sums)
    spread = (sums**2).sum(axis=0) * n_blocks / (n_blocks - 1) if n_blocks > 1 else np.full(n_groups, np.nan)
    return PointEstimate(mean, np.sqrt(spread) / n, n, n_blocks)


def cosine(norm: Callable[..., Column], blocks: Blocks, dot: Points, *columns: Points) -> Cosine:
    """The sum of `dot` over `norm` of the columns' sums, with errors by leaving out one block at a time (jackknife)."""
    sums = [column.sum(axis=0) for column in columns]
    without = [one - _sums(column, blocks) for one, column in zip(sums, columns, strict=True)]
    dots, norms = dot.sum(axis=0) - _sums(dot, blocks), norm(*without)  # (n_blocks, n_groups)
    return Cosine(
        dot=dot.sum(axis=0),
        norm=norm(*sums),
        dot_variance=_jackknife(dots, dots),
        covariance=_jackknife(dots, norms),
        norm_variance=_jackknife(norms, norms),
        n_points=len(dot),
        n_blocks=len(dots),
    )


def _jackknife(one: Points, other: Points) -> Column:
    """The covariance of two sums from what they are without each of the blocks; NaN with fewer than two.

    A sum over all but one of n blocks is (n - 1) / n of the whole, hence n / (n - 1) in place of the usual inverse.
    """
    n = len(one)
    if n < 2:
        return np.full(one.shape[1], np.nan)
    products: Points = (one - one.mean(axis=0)) * (other - other.mean(axis=0))
    return n / (n - 1) * products.sum(axis=0)


def _sums(values: Points, blocks: Blocks) -> Points:
    """(n_blocks, n_groups)"""
    sums = np.zeros((int(blocks.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, blocks, values[: len(blocks)])
    return sums


def _reach(n_blocks: int, confidence: float) -> float:
    return t_quantile((1 + confidence) / 2, n_blocks - 1) if n_blocks > 1 else float("nan")


def _record(
    value: float, interval: tuple[float, float], confidence: float, of: PointEstimate | Cosine
) -> PointInterval:
    low, high = interval
    return PointInterval(
        value=defined(value),
        low=defined(low),
        high=defined(high),
        confidence=confidence,
        n_points=of.n_points,
        n_blocks=of.n_blocks,
    )
