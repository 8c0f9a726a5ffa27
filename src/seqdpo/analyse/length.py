"""Does the margin only follow the length of the responses? And does its change?"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from seqdpo.analyse.changes import all_or_nothing, flipped, spearman, varies
from seqdpo.analyse.estimates import Clusters, Estimate, mean
from seqdpo.analyse.margins import Column, PairScores, share_above_zero


class Line(NamedTuple):
    """A straight line through the pairs; both undefined where x has no spread."""

    at_zero: Estimate  # the intercept: y expected at x = 0
    slope: Estimate


def length_record(scores: PairScores, clusters: Clusters, confidence: float) -> dict[str, Any]:
    """How the margins of one checkpoint hang on length, for results.json; docs/results.md describes the keys.

    The length difference is that of the chosen response less that of the rejected one, in tokens. Undefined numbers are
    None; a NaN in any pair leaves only the n defined.
    """
    groups = _by_length(_difference(scores))  # of the tokens as they are: a NaN elsewhere leaves their n known
    (scores,) = all_or_nothing(scores)
    difference, margin, ln_margin = _difference(scores), scores.margin, scores.ln_margin
    line = fit_line(margin, difference, clusters)
    disagreement = {name: flipped(margin, getattr(scores, name)) for name in ("ln_margin", "ln_margin_base_corrected")}
    accuracy = scores.accuracy
    estimates = {
        "chosen_tokens": mean(scores.chosen_tokens, clusters),
        "rejected_tokens": mean(scores.rejected_tokens, clusters),
        "length_difference": mean(difference, clusters),
        "longer_wins_accuracy": mean(share_above_zero(difference), clusters),
        "margin_at_same_length": line.at_zero,
        "margin_length_slope": line.slope,
    }
    return {
        "n": len(clusters),
        **{name: estimate.record(confidence) for name, estimate in estimates.items()},
        "accuracy_by_length": {
            name: mean(accuracy[pairs], clusters[pairs]).record(confidence) for name, pairs in groups.items()
        },
        "spearman_margin_length": spearman(margin, difference),
        "spearman_ln_margin_length": spearman(ln_margin, difference),
        "sign_disagreement": {name: mean(column, clusters).record(confidence) for name, column in disagreement.items()},
    }


def length_change_record(
    before: PairScores, after: PairScores, clusters: Clusters, confidence: float
) -> dict[str, Any]:
    """How the change of the margin between two checkpoints of a panel hangs on length; as `length_record`."""
    change, difference = after.margin - before.margin, _difference(before)
    line = fit_line(change, difference, clusters)
    return {
        "n": len(clusters),
        "spearman_margin_change_length": spearman(change, difference),
        "margin_change_at_same_length": line.at_zero.record(confidence),
        "margin_change_length_slope": line.slope.record(confidence),
    }


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


def _from_pulls(value: float, pulls: Column, clusters: Clusters) -> Estimate:
    """The estimate whose error is the mean of the pairs' pulls on it: they have mean 0, and a clustered SE like any."""
    return replace(mean(pulls, clusters), value=value)


def _difference(scores: PairScores) -> Column:
    return scores.chosen_tokens - scores.rejected_tokens


def _by_length(difference: Column) -> dict[str, Any]:
    """Which pairs (n_pairs,) are of each kind."""
    return {"chosen_longer": difference > 0, "rejected_longer": difference < 0, "same_length": difference == 0}
