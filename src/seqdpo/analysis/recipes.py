"""Is a change the recipe's doing? Only if it lies outside what control stages and seeds produce."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import statsmodels.api as sm
from scipy import stats

from seqdpo.analysis.cells import Cell
from seqdpo.analysis.changes import flipped
from seqdpo.analysis.estimates import defined
from seqdpo.analysis.margins import Column, PairScores
from seqdpo.analysis.multiplicity import holm
from seqdpo.analysis.schema import OfRecipe, Quantity, RecipeBasis, RecipeStatement

ATTRIBUTABLE: RecipeStatement = "ATTRIBUTABLE"
NOT_SEPARABLE: RecipeStatement = "NOT SEPARABLE FROM RUN NOISE"
UNTESTED: RecipeStatement = "UNTESTED"

#: The fewest control stages worth running: with four, a change 7 SDs of run noise away from them stands out in a study
#: of two cells; with three it would have to be 13 away.
FEWEST_CONTROLS = 4
#: Without control stages, seeds alone: fewer than three say next to nothing of their spread.
FEWEST_SEEDS = 3
MOST_CONTROLS = 100

#: The numbers of a run that are compared with those of its control stages: (n_pairs,) each, averaged over the pairs.
QUANTITIES: dict[Quantity, Callable[[PairScores, PairScores], Column]] = {
    "margin": lambda before, after: after.margin - before.margin,
    "accuracy": lambda before, after: after.accuracy - before.accuracy,
    "flips": lambda before, after: flipped(before.margin, after.margin),
}


class Runs(NamedTuple):
    """One number of each run: of the real stage in each seed, and of the control stages beside it."""

    real: Sequence[float]  # (n_seeds,)
    controls: Sequence[Sequence[float]]  # for each seed, those of its control stages


class Separation(NamedTuple):
    """How far the real stages lie from their controls; NaN where undefined."""

    excess: float  # mean of the real stages less the control stages of their seed; the change itself without controls
    se: float
    df: int
    run_noise: float  # SD of one run around its seed's mean
    p: float  # two-sided
    basis: RecipeBasis | None  # control stages, seeds, or None: nothing to compare with


def separation(runs: Runs) -> Separation:
    """Least squares of the runs' numbers on their seed and on being real: a two-sided t test of the latter.

    With one seed this is the prediction interval: is the real run a likely further draw of the control runs? With one
    control stage for each of several seeds it is the paired t test. Without control stages, three or more seeds are
    tested against no change.
    """
    seeds = [s for s in range(len(runs.real)) if runs.controls[s]]
    n_runs = sum(1 + len(runs.controls[s]) for s in seeds)
    if seeds and n_runs - len(seeds) - 1 >= 1:
        values = np.array([v for s in seeds for v in (runs.real[s], *runs.controls[s])])
        is_real = [float(i == 0) for s in seeds for i in range(1 + len(runs.controls[s]))]
        of_seed = [[float(t == s) for t in seeds] for s in seeds for _ in range(1 + len(runs.controls[s]))]
        return _fit(values, np.column_stack([is_real, of_seed]), "control stages")
    if not seeds and len(runs.real) >= FEWEST_SEEDS:
        return _fit(np.array(runs.real), np.ones((len(runs.real), 1)), "seeds")
    excess = float(np.mean([runs.real[s] - np.mean(runs.controls[s]) for s in seeds])) if seeds else math.nan
    return Separation(excess, math.nan, 0, math.nan, math.nan, None)


def _fit(values: np.ndarray, design: np.ndarray, basis: RecipeBasis) -> Separation:
    """`design` (n_runs, n_columns): its first column is the effect that is tested."""
    fit = sm.OLS(values, design).fit()
    excess, se, df = float(fit.params[0]), float(fit.bse[0]), int(fit.df_resid)
    if not se > 1e-12 * max(1.0, abs(excess)):  # runs that do not differ at all
        return Separation(excess, 0.0, df, 0.0, float(abs(excess) <= 1e-12), basis)
    return Separation(excess, se, df, math.sqrt(float(fit.mse_resid)), float(fit.pvalues[0]), basis)


def draws_needed(runs: Runs, found: Separation, level: float) -> int | None:
    """Control stages a seed at which this excess, with this run noise, would stand out at the two-sided level.

    FEWEST_CONTROLS where nothing was tested; None where MOST_CONTROLS would not be enough.
    """
    if found.basis is None:
        return FEWEST_CONTROLS
    n_seeds = len(runs.real)
    for n_controls in range(2, MOST_CONTROLS + 1):
        reach = stats.t.isf(level / 2, n_seeds * n_controls - 1) * found.run_noise
        if abs(found.excess) > reach * math.sqrt((1 + 1 / n_controls) / n_seeds):
            return max(n_controls, FEWEST_CONTROLS)
    return None


def recipes(cells: Sequence[Cell], confidence: float) -> list[dict[Quantity, OfRecipe]]:
    """For each cell, over its seeds, what can be said of the recipe: one record a quantity of QUANTITIES.

    Cells that differ in the seed alone get the same record. The p values are Holm-adjusted over cells and quantities:
    the verdict picks the quantity that is read, so all of them share the risk. NaN margins leave a cell UNTESTED.
    """
    grouped: dict[_Recipe, list[Cell]] = defaultdict(list)
    for cell in cells:
        grouped[_recipe(cell)].append(cell)
    runs = {(recipe, name): _runs(alike, name) for recipe, alike in grouped.items() for name in QUANTITIES}
    separations = {key: separation(these) for key, these in runs.items()}
    adjusted = holm([defined(found.p) for found in separations.values()])
    n_tested = sum(p is not None for p in adjusted)
    records = {
        key: _record(runs[key], found, p_holm, confidence, n_tested)
        for (key, found), p_holm in zip(separations.items(), adjusted, strict=True)
    }
    return [{name: records[_recipe(cell), name] for name in QUANTITIES} for cell in cells]


class _Recipe(NamedTuple):
    """What cells have in common that differ in the seed alone."""

    objective: str
    split: str
    order: str
    start: int
    end: int


def _recipe(cell: Cell) -> _Recipe:
    return _Recipe(cell.objective, cell.panel.split, cell.order, cell.start, cell.end)


def _runs(cells: Sequence[Cell], quantity: Quantity) -> Runs:
    number = QUANTITIES[quantity]
    return Runs(
        [float(np.mean(number(cell.before, cell.after))) for cell in cells],
        [[float(np.mean(number(cell.before, control))) for control in cell.controls] for cell in cells],
    )


def _record(runs: Runs, found: Separation, p_holm: float | None, confidence: float, n_tested: int) -> OfRecipe:
    level = 1 - confidence
    statement = UNTESTED if p_holm is None else ATTRIBUTABLE if p_holm <= level else NOT_SEPARABLE
    reach = float(stats.t.isf(level / 2, found.df)) * found.se if found.df else math.nan
    return OfRecipe(
        statement=statement,
        basis=found.basis,
        excess=defined(found.excess),
        low=defined(found.excess - reach),
        high=defined(found.excess + reach),
        confidence=confidence,
        p=defined(found.p),
        p_holm=p_holm,
        run_noise=defined(found.run_noise),
        n_seeds=len(runs.real),
        n_controls=sum(len(controls) for controls in runs.controls),
        draws_needed=None if statement == ATTRIBUTABLE else draws_needed(runs, found, level / max(n_tested, 1)),
    )
