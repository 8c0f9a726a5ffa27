"""Shift, scale and scatter: did a stage move all margins, stretch them, or shuffle them, beyond what control stages do?

    margin after = shift + scale x margin in the control stages + scatter

Least squares of the margin after on that before would not tell: run noise in the margins before flattens the line, in
every control stage as well (regression to the mean). So the control stages' mean stands on the right side, with the
margins before as the instrument: their covariance with it holds no noise of the later stage.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from seqdpo.analysis.association import varies
from seqdpo.analysis.cells import Cell
from seqdpo.analysis.estimates import Clusters, Estimate, defined, mean, two_sided
from seqdpo.analysis.margins import Column
from seqdpo.analysis.recipes import Runs, separation
from seqdpo.analysis.schema import Component, Shape, Tested, extended

#: Of the changes, at each end, that a trimmed mean leaves out.
TRIMMED = 0.1


@dataclass(frozen=True, slots=True)
class Decomposition:
    """What became of the margins of a cell as a line and what scatters around it."""

    shift: Estimate
    scale: Estimate
    scatter: float  # spread of what is left of each pair's margin, nats
    of_runs: "OfRuns"


@dataclass(frozen=True, slots=True)
class OfRuns:
    """The real stage beside its control stages, each by least squares of the margins after it on those before."""

    shift: Runs
    scale: Runs
    scatter: Runs

    def p(self, name: str) -> float:
        """Two-sided for shift and scale; of scatter that it is more than in the control stages. NaN below two."""
        found = separation(getattr(self, name))
        if name != "scatter" or math.isnan(found.p):
            return found.p
        return found.p / 2 if found.excess > 0 else 1 - found.p / 2


def decomposition(cell: Cell) -> Decomposition:
    before, after = cell.before.margin, cell.after.margin
    in_controls = np.mean([one.margin for one in cell.controls], axis=0) if cell.controls else before
    shift, scale = instrumented_line(after, in_controls, before, cell.panel.clusters)
    own = _least_squares(before, after)
    others = [_least_squares(before, one.margin) for one in cell.controls]
    runs = [Runs([own[i]], [[one[i] for one in others]]) for i in range(3)]
    return Decomposition(shift, scale, own[2], OfRuns(*runs))


def instrumented_line(y: Column, x: Column, instrument: Column, clusters: Clusters) -> tuple[Estimate, Estimate]:
    """Intercept and slope of y on x by the instrument's covariances; all (n_pairs,), errors clustered by prompt.

    Slope: cov(instrument, y) / cov(instrument, x). Undefined where the instrument does not vary.
    Source: Wald 1940 to Fuller 1987, Measurement Error Models, 1.4.
    """
    n = len(y)
    if n < 3 or not varies(instrument):
        undefined = Estimate(math.nan, math.nan, n, len(np.unique(clusters)))
        return undefined, undefined
    centred = instrument - instrument.mean()
    weights = centred / (float(centred @ x) / n)
    slope = float(np.mean(weights * y))
    intercept = float(y.mean() - slope * x.mean())
    residuals = (y - intercept - slope * x) * math.sqrt((n - 1) / (n - 2))
    pulls = (residuals * (1 - x.mean() * weights), residuals * weights)
    at_zero, of_slope = (mean(one, clusters) for one in pulls)
    return replace(at_zero, value=intercept), replace(of_slope, value=slope)


def _least_squares(x: Column, y: Column) -> tuple[float, float, float]:
    """Intercept, slope, and spread of the residuals; NaN where x does not vary.

    The spread is the mean absolute residual times sqrt(pi / 2), the SD of normal ones: a few far pairs of one run would
    make its SD stand out.
    """
    if len(x) < 3 or not varies(x):
        return math.nan, math.nan, math.nan
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    residuals = y - y.mean() - slope * centred
    return float(y.mean() - slope * x.mean()), slope, float(np.abs(residuals).mean()) * math.sqrt(math.pi / 2)


def trimmed_mean(values: Column, clusters: Clusters) -> Estimate:
    """The mean without the TRIMMED lowest and highest values, clustered by prompt.

    Its error is that of the mean of the winsorised values, over 1 - 2 TRIMMED.
    Source: Tukey & McLaughlin 1963, Sankhya A 25:331; Yuen 1974, Biometrika 61:165.
    """
    if len(values) < 3 or np.isnan(values).any():
        return mean(np.full(len(values), math.nan), clusters)
    in_order, cut = np.sort(values), int(TRIMMED * len(values))
    kept = in_order[cut : len(values) - cut]
    of_winsorised = mean(np.clip(values, kept[0], kept[-1]), clusters)
    return replace(of_winsorised, value=float(kept.mean()), se=of_winsorised.se / (1 - 2 * TRIMMED))


def shape_record(cell: Cell, found: Decomposition, confidence: float) -> Shape:
    """`shape` of results.json."""
    change, clusters = cell.after.margin - cell.before.margin, cell.panel.clusters
    fell = mean((change < 0) + 0.5 * (change == 0), clusters)
    test = two_sided(replace(fell, value=fell.value - 0.5)) if fell.se > 0 else None
    runs, n_controls = found.of_runs, len(cell.controls)
    scatter = Estimate(found.scatter, math.nan, found.scale.n, found.scale.n_prompts)
    return Shape(
        confidence=confidence,
        n_controls=n_controls,
        shift=_component(found.shift, runs.shift, runs.p("shift"), confidence),
        scale=_component(found.scale, runs.scale, runs.p("scale"), confidence),
        scatter=_component(scatter, runs.scatter, runs.p("scatter"), confidence),
        trimmed_change=trimmed_mean(change, clusters).record(confidence),
        share_fell=extended(fell.record(confidence), Tested, p=test),
    )


def _component(found: Estimate, runs: Runs, p: float, confidence: float) -> Component:
    low, high = found.interval(confidence)
    return Component(
        value=defined(found.value),
        low=defined(low),
        high=defined(high),
        in_controls=_mean(runs.controls[0]),
        run_noise=defined(separation(runs).run_noise),
        p=defined(p),
    )


def _mean(values: Sequence[float]) -> float | None:
    return defined(float(np.mean(values))) if values else None
