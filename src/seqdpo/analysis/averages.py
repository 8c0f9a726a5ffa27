"""Averages over objectives: every objective counts the same, however many pairs it has."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from seqdpo.analysis.estimates import Clusters, Estimate, Measured, cr2_weights, defined, mean
from seqdpo.analysis.margins import Column
from seqdpo.analysis.panel import Panel
from seqdpo.analysis.schema import Bounds, WorstObjective, extended


def by_split(panels: Iterable[Panel]) -> dict[str, list[Panel]]:
    """The panels of each split; those of one split hold an objective each."""
    grouped: dict[str, list[Panel]] = {}
    for panel in panels:
        grouped.setdefault(panel.split, []).append(panel)
    return grouped


def joint_clusters(panels: Sequence[Panel]) -> list[Clusters]:
    """`Panel.clusters` numbered across panels: objectives may ask for the same prompts.

    Where no prompts are known, pairs of the same id are taken together.
    """
    names = ["prompt_id" if "prompt_id" in panel.metadata.column_names else "pair_id" for panel in panels]
    columns = [panel.metadata[name].cast(pa.large_string()) for panel, name in zip(panels, names, strict=True)]
    joined = pa.chunked_array([chunk for column in columns for chunk in column.chunks], type=pa.large_string())
    codes = joined.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return np.split(codes, np.cumsum([len(column) for column in columns])[:-1])


def average(values: Sequence[Column], clusters: Sequence[Clusters]) -> Estimate:
    """The mean of the objectives' means: `values` holds a column (n_pairs,) for each, `clusters` their joint prompts.

    The residuals of pairs that share a prompt are summed across objectives before they are squared. Without shared
    prompts the variance is therefore the sum of the objectives' variances / m^2; with all prompts shared, that of the
    prompts' own averages. `n_prompts` is that of the objective with the fewest, the degrees of freedom those of the
    objective with the fewest of them, so that they are never too many.
    """
    means = [mean(column, own) for column, own in zip(values, clusters, strict=True)]
    value = float(np.mean([one.value for one in means]))
    n, fewest = sum(one.n for one in means), min(one.n_prompts for one in means)
    if fewest < 2 or math.isnan(value):
        return Estimate(value, math.nan, n, fewest)
    shares = [_share(column, own, one) / len(means) for column, own, one in zip(values, clusters, means, strict=True)]
    sums = np.bincount(np.concatenate(clusters), weights=np.concatenate(shares))
    df = min(one.df for one in means if one.df is not None)
    return Estimate(value, math.sqrt(float(sums @ sums)), n, fewest, df)


def _share(values: Column, clusters: Clusters, found: Estimate) -> Column:
    """What each pair adds to the error of its objective's mean; CR2 as in `estimates.mean`."""
    sizes = np.bincount(clusters).astype(np.float64)
    share: Column = (values - found.value) * cr2_weights(sizes)[clusters] / found.n
    return share


def bounds(estimate: Measured, confidence: float) -> Bounds:
    """For a record that says n and the confidence elsewhere."""
    low, high = estimate.interval(confidence)
    return Bounds(value=defined(estimate.value), low=defined(low), high=defined(high))


def worst_objective(scores: Mapping[str, Measured], confidence: float) -> WorstObjective | None:
    """The objective with the lowest score and that score; None where one of them is undefined.

    The interval is that objective's own: the lowest of several is biased downwards, which it does not know.
    """
    if not scores or any(math.isnan(one.value) for one in scores.values()):
        return None
    name = min(scores, key=lambda objective: scores[objective].value)
    lowest = scores[name]
    own = bounds(lowest, confidence)
    return extended(own, WorstObjective, objective=name, n=lowest.n, n_prompts=lowest.n_prompts)
