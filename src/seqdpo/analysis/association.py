"""How one column of the pairs goes with another: rank correlation, and a straight line."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from seqdpo.analysis.estimates import Clusters, Estimate, defined, mean
from seqdpo.analysis.margins import Column


class Line(NamedTuple):
    """A straight line through the pairs; both undefined where x has no spread."""

    at_zero: Estimate  # the intercept: y expected at x = 0
    slope: Estimate


def varies(values: Column) -> bool:
    """Whether two of the values (n,) differ; not where one is NaN."""
    return len(values) > 0 and bool(np.ptp(values) > 0)


def spearman(first: Column, second: Column) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where either column has no spread or a NaN."""
    if not (varies(first) and varies(second)):
        return None
    from scipy.stats import spearmanr  # the import takes longer than most commands that come without it

    return defined(float(spearmanr(first, second).statistic))


def fit_line(y: Column, x: Column, clusters: Clusters) -> Line:
    """Least squares of y on 1 and x; both (n_pairs,), standard errors clustered by prompt.

    Equals OLS with cov_type='cluster' in statsmodels, whose correction is G/(G-1) * (n-1)/(n-2); no standard error
    with fewer than three pairs.
    """
    n = len(y)
    if not varies(x):
        undefined = mean(np.full(n, math.nan), clusters)
        return Line(undefined, undefined)
    x_mean = float(np.mean(x))
    centred = x - x_mean
    weights = centred * (n / float(centred @ centred))
    slope = float(np.mean(weights * y))
    at_zero = float(np.mean(y)) - slope * x_mean
    residuals = (y - at_zero - slope * x) * (math.sqrt((n - 1) / (n - 2)) if n > 2 else math.nan)
    return Line(
        _from_pulls(at_zero, residuals * (1 - x_mean * weights), clusters),
        _from_pulls(slope, residuals * weights, clusters),
    )


def slope_by_instrument(y: Column, x: Column, instrument: Column, clusters: Clusters, confidence: float) -> Estimate:
    """The slope of y on what x and the instrument have in common; all (n_pairs,), standard error clustered by prompt.

    cov(y, z) / cov(x, z): noise of x that z does not share drops out, whether y holds it or not. Undefined where the
    covariance of x and z is not above 0 with confidence. Source: Durbin 1954, Review of the International Statistical
    Institute 22:23; the error is that of two-stage least squares.
    """
    centred = instrument - np.mean(instrument)
    shared = mean(centred * (x - np.mean(x)), clusters)
    if not shared.interval(confidence)[0] > 0:
        return mean(np.full(len(y), math.nan), clusters)
    weights = centred / shared.value
    slope = float(np.mean(weights * y))
    return _from_pulls(slope, weights * (y - np.mean(y) - slope * (x - np.mean(x))), clusters)


def _from_pulls(value: float, pulls: Column, clusters: Clusters) -> Estimate:
    """The estimate whose error is the mean of the pairs' pulls on it: they have mean 0, and a clustered SE like any."""
    return replace(mean(pulls, clusters), value=value)
