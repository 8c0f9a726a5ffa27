"""What the labels of a new objective ask of the policy as it is, before it trains on them."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from seqdpo.analysis.estimates import Clusters, Estimate, Measured, mean, t_quantile
from seqdpo.analysis.margins import Column, share_above_zero
from seqdpo.analysis.schema import Interval
from seqdpo.analysis.shares import share_change
from seqdpo.analysis.slices import metadata_slices

#: Beyond this a slope says that nearly all labels agree, or nearly none, and its size nothing.
STEEPEST = 10.0
#: Newton steps; the likelihood is concave, and each step is halved until it helps.
MOST_STEPS = 100


class SliceOpposed(NamedTuple):
    """The share of a slice's labels that the policy opposes."""

    column: str
    value: str
    opposed: Interval


def opposed(margins: Column, clusters: Clusters, confidence: float) -> Interval:
    """The share of labels against which the policy holds: margin against the base below 0, a tie one half.

    `margins` (n_pairs,) are of the new pairs, signed by their labels, in nats.
    """
    return share(1 - share_above_zero(margins), clusters, margins, confidence)


def share(column: Column, clusters: Clusters, companion: Column, confidence: float) -> Interval:
    """The mean of a column in [0, 1] with an interval that stays in it, of `2 share - 1` by a score test.

    `companion` as in `seqdpo.analysis.shares.share_change`.
    """
    found = share_change(2 * column - 1, clusters, companion).record(confidence)
    value, low, high = (None if one is None else (1 + one) / 2 for one in (found.value, found.low, found.high))
    return Interval(value=value, low=low, high=high, confidence=confidence, n=found.n, n_prompts=found.n_prompts)


def opposition_strength(margins: Column, clusters: Clusters) -> Estimate:
    """By how many nats it holds against those labels, the mean over the opposed pairs; NaN without one."""
    against = margins < 0
    return mean(-margins[against], renumbered(clusters[against]))


class Slope(Measured):
    """`label_slope`; NaN where undefined."""

    __slots__ = ("_df", "n", "n_prompts", "se", "value")

    def __init__(self, value: float, se: float, n: int, n_prompts: int) -> None:
        self.value, self.se, self.n, self.n_prompts = value, se, n, n_prompts

    def interval(self, confidence: float) -> tuple[float, float]:
        """The two-sided t interval."""
        if not (math.isfinite(self.value) and self.n_prompts > 1):
            return math.nan, math.nan
        reach = t_quantile((1 + confidence) / 2, self.n_prompts - 1) * self.se
        return self.value - reach, self.value + reach


def label_slope(margins: Column, beta: float, clusters: Clusters) -> Slope:
    """By what factor the new labels would multiply the present margins: argmax over a of sum log sigmoid(a beta m).

    1: the labels agree with the margins as often as these claim, and do not pull at them; 0: they do not know them, and
    DPO draws them to 0; below 0: they turn them round; above 1: they let them grow. It is DPO's own loss with the base
    as reference, minimised over one number in place of the weights; the standard error is a sandwich, clustered.

    `margins` (n_pairs,), nats against the base, signed by the labels. NaN where all of them agree or all disagree
    (no finite maximum), or the slope lies beyond STEEPEST.
    """
    x = beta * margins
    n, n_prompts = len(x), len(np.unique(clusters))
    if n == 0 or not (x.min() < 0 < x.max()):
        return Slope(math.nan, math.nan, n, n_prompts)
    a = 0.0
    for _ in range(MOST_STEPS):
        keep = _sigmoid(-a * x)
        score, information = float(x @ keep), float((x**2) @ (keep * (1 - keep)))
        step = score / information if information > 0 else math.nan
        while _likelihood(a + step, x) < _likelihood(a, x) and abs(step) > 1e-12:
            step /= 2
        a += step
        if not abs(step) > 1e-10 or not abs(a) <= STEEPEST:
            break
    if not abs(a) <= STEEPEST:
        return Slope(math.nan, math.nan, n, n_prompts)
    keep = _sigmoid(-a * x)
    pulls = np.bincount(clusters, weights=x * keep)
    information = float((x**2) @ (keep * (1 - keep)))
    correction = n_prompts / (n_prompts - 1) if n_prompts > 1 else math.nan
    return Slope(a, math.sqrt(float(pulls @ pulls) * correction) / information, n, n_prompts)


def opposed_by_slice(
    metadata: pa.Table, margins: Column, clusters: Clusters, fewest: int, confidence: float
) -> list[SliceOpposed]:
    """Of every slice with at least so many prompts, the most opposed first; `metadata` as in data/pairs.parquet."""
    lengths = metadata["chosen_tokens"].to_numpy() - metadata["rejected_tokens"].to_numpy()
    found = [
        SliceOpposed(column, label, opposed(margins[own], renumbered(clusters[own]), confidence))
        for column, label, own in metadata_slices(metadata, lengths.astype(np.float64))
        if len(np.unique(clusters[own])) >= fewest
    ]
    return sorted(found, key=lambda one: (-(one.opposed.value or 0), one.column, one.value))


class Judged(NamedTuple):
    """Two responses to a prompt, whichever is preferred, and a prompt as the cluster."""

    responses: frozenset[str]
    chosen: str
    prompt: Hashable


def label_conflicts(new: Sequence[Judged], earlier: Sequence[Judged]) -> tuple[Column, list[Hashable]]:
    """For each new pair whose two responses the earlier objective judges, too: 1 where it prefers the other one.

    Labels that the earlier objective gives both ways count by their share. Returns the column and the prompts.
    """
    known = _preferred(earlier)
    conflicts, prompts = [], []
    for one in new:
        labels = known.get((one.prompt, one.responses))
        if labels is not None:
            conflicts.append(1 - labels.get(one.chosen, 0) / sum(labels.values()))
            prompts.append(one.prompt)
    return np.array(conflicts, dtype=np.float64), prompts


def _preferred(pairs: Sequence[Judged]) -> Mapping[tuple[Hashable, frozenset[str]], dict[str, int]]:
    found: dict[tuple[Hashable, frozenset[str]], dict[str, int]] = {}
    for one in pairs:
        labels = found.setdefault((one.prompt, one.responses), {})
        labels[one.chosen] = labels.get(one.chosen, 0) + 1
    return found


def _likelihood(a: float, x: Column) -> float:
    return float(-np.logaddexp(0, -a * x).sum())


def _sigmoid(x: Column) -> Column:
    found: Column = np.exp(-np.logaddexp(0, -x))
    return found


def renumbered(clusters: Clusters) -> Clusters:
    """The clusters of some pairs, without gaps."""
    found: Clusters = np.unique(clusters, return_inverse=True)[1].astype(np.int64)
    return found


def numbered(prompts: Sequence[Hashable]) -> Clusters:
    """Prompts as clusters."""
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(prompt, len(places)) for prompt in prompts], dtype=np.int64)
