"""Is a change the recipe's doing? Only if it lies outside what control stages and seeds produce."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from seqdpo.analysis.cells import Cell
from seqdpo.analysis.changes import flipped
from seqdpo.analysis.estimates import defined, t_above, t_quantile
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
#: Control stages at which `--until-separable` looks; each look has an equal part of the risk (Bonferroni).
LOOKS = (4, 8, 16)
MOST_SEEDS = 30

ONE_SEED = "one seed: the real stage is taken to vary from run to run as its control stages do; seeds would show it"

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
    basis: RecipeBasis | None  # None: nothing to compare with


def separation(runs: Runs) -> Separation:
    """A two-sided t test of "the real stages are further runs like their control stages".

    With one seed that has control stages it is the prediction interval: is the real run a likely further draw of the
    control runs? It takes the real stage to vary from run to run as those do. With more, each seed gives one number,
    real less the mean of its control stages, and the test is over seeds: what a stage does differs from seed to seed,
    which no number of control stages in one seed can show. Without control stages, FEWEST_SEEDS or more are tested
    against no change.
    """
    with_controls = [s for s, controls in enumerate(runs.controls) if controls]
    excesses = np.array([runs.real[s] - np.mean(runs.controls[s]) for s in with_controls])
    if len(with_controls) > 1:
        noise = _pooled_sd([runs.controls[s] for s in with_controls])
        return _t_test(excesses, noise, "control stages in every seed")
    if with_controls:
        return _prediction(float(excesses[0]), runs.controls[with_controls[0]])
    if len(runs.real) >= FEWEST_SEEDS:
        return _t_test(np.array(runs.real), math.nan, "seeds")
    return Separation(math.nan, math.nan, 0, math.nan, math.nan, None)


def _prediction(excess: float, controls: Sequence[float]) -> Separation:
    n, noise = len(controls), _pooled_sd([controls])
    if n < 2 or math.isnan(noise):
        return Separation(excess, math.nan, 0, math.nan, math.nan, None)
    return _tested(excess, noise * math.sqrt(1 + 1 / n), n - 1, noise, "control stages")


def _t_test(values: Column, noise: float, basis: RecipeBasis) -> Separation:
    """Of the mean of the values, one a seed, against 0."""
    spread, n = float(np.std(values, ddof=1)), len(values)
    return _tested(float(values.mean()), spread / math.sqrt(n), n - 1, spread if math.isnan(noise) else noise, basis)


def _tested(excess: float, se: float, df: int, noise: float, basis: RecipeBasis) -> Separation:
    if math.isnan(excess) or math.isnan(se):
        return Separation(math.nan, math.nan, 0, math.nan, math.nan, None)
    if not se > 1e-12 * max(1.0, abs(excess)):  # runs that do not differ at all
        return Separation(excess, 0.0, df, 0.0, float(abs(excess) <= 1e-12), basis)
    return Separation(excess, se, df, noise, 2 * t_above(abs(excess) / se, df), basis)


def _pooled_sd(groups: Sequence[Sequence[float]]) -> float:
    """SD around the groups' own means; NaN where no group has two."""
    squares = sum(float(np.sum((np.array(group) - np.mean(group)) ** 2)) for group in groups)
    df = sum(len(group) - 1 for group in groups)
    return math.sqrt(squares / df) if df else math.nan


def draws_needed(runs: Runs, found: Separation, level: float) -> int | None:
    """Control stages, more than there are, at which this excess of one seed would stand out at the two-sided level.

    FEWEST_CONTROLS where nothing was tested; None where MOST_CONTROLS would not be enough, and with several seeds,
    where more of those are what counts.
    """
    if found.basis is None:
        return FEWEST_CONTROLS
    if found.basis != "control stages":
        return None
    for n_controls in range(max(FEWEST_CONTROLS, 1 + max(map(len, runs.controls))), MOST_CONTROLS + 1):
        reach = -t_quantile(level / 2, n_controls - 1) * found.run_noise
        if abs(found.excess) > reach * math.sqrt(1 + 1 / n_controls):
            return n_controls
    return None


def seeds_needed(runs: Runs, found: Separation, level: float) -> int | None:
    """Seeds, each with control stages as now, at which this excess would stand out; None where MOST_SEEDS would not."""
    if found.basis is None:
        return FEWEST_SEEDS
    spread = found.se * (math.sqrt(found.df + 1) if found.basis != "control stages" else 1.0)  # of one seed's excess
    for n_seeds in range(max(FEWEST_SEEDS, 1 + len(runs.real)), MOST_SEEDS + 1):
        if abs(found.excess) > -t_quantile(level / 2, n_seeds - 1) * spread / math.sqrt(n_seeds):
            return n_seeds
    return None


def next_run(runs: Runs, found: Separation, confidence: float) -> tuple[float, float]:
    """Where the change of another run of the recipe is to be expected: the prediction interval; NaN where unknown.

    With one seed it is around that run, whose own noise counts as well, by the SD of the control stages.
    """
    n = len(runs.real)
    if n > 1:
        spread, df, times = float(np.std(runs.real, ddof=1)), n - 1, math.sqrt(1 + 1 / n)
    else:
        spread, df, times = found.run_noise, found.df, math.sqrt(2)
    reach = t_quantile((1 + confidence) / 2, df) * spread * times if df else math.nan
    centre = float(np.mean(runs.real))
    return centre - reach, centre + reach


def seeds_alike(runs: Runs, found: Separation) -> int | None:
    """In how many seeds the excess has the sign of their mean; None with one seed, or nothing to compare with."""
    if len(runs.real) < 2 or found.basis is None:
        return None
    excesses = [real - (np.mean(own) if own else 0.0) for real, own in zip(runs.real, runs.controls, strict=True)]
    return sum(bool(excess * found.excess > 0) for excess in excesses)


def recipes(cells: Sequence[Cell], confidence: float, looks: int = 1) -> list[dict[Quantity, OfRecipe]]:
    """For each cell, over its seeds, what can be said of the recipe: one record a quantity of QUANTITIES.

    Cells that differ in the seed alone get the same record. The p values are Holm-adjusted over cells and quantities:
    the verdict picks the quantity that is read, so all of them share the risk, and with several `looks` (at growing
    numbers of control stages) each has its part of it. NaN margins leave a cell UNTESTED.
    """
    grouped: dict[_Recipe, list[Cell]] = defaultdict(list)
    for cell in cells:
        grouped[_recipe(cell)].append(cell)
    runs = {(recipe, name): _runs(alike, name) for recipe, alike in grouped.items() for name in QUANTITIES}
    separations = {key: separation(these) for key, these in runs.items()}
    adjusted = holm([defined(found.p) for found in separations.values()])
    adjusted = [None if p is None else min(1.0, looks * p) for p in adjusted]
    n_tested = looks * sum(p is not None for p in adjusted)
    records = {
        key: _record(runs[key], found, p_holm, confidence, n_tested)
        for (key, found), p_holm in zip(separations.items(), adjusted, strict=True)
    }
    # control stages begin at the checkpoint before theirs: over several stages there are none
    records = {key: replace(of, draws_needed=None) if key[0].several else of for key, of in records.items()}
    return [{name: records[_recipe(cell), name] for name in QUANTITIES} for cell in cells]


class _Recipe(NamedTuple):
    """What cells have in common that differ in the seed alone."""

    objective: str
    split: str
    order: str
    start: int
    end: int

    @property
    def several(self) -> bool:
        """Whether it spans several stages."""
        return self.end - self.start > 1


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
    alike = seeds_alike(runs, found)
    statement = UNTESTED
    if p_holm is not None:
        # a seed that went the other way is no noise around an effect of the recipe
        statement = ATTRIBUTABLE if p_holm <= level and alike in (None, len(runs.real)) else NOT_SEPARABLE
    reach = -t_quantile(level / 2, found.df) * found.se if found.df else math.nan
    low, high = next_run(runs, found, confidence)
    is_open, asked = statement != ATTRIBUTABLE, level / max(n_tested, 1)
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
        next_run_low=defined(low),
        next_run_high=defined(high),
        n_seeds=len(runs.real),
        n_seeds_alike=alike,
        n_controls=sum(len(controls) for controls in runs.controls),
        draws_needed=draws_needed(runs, found, asked) if is_open else None,
        seeds_needed=seeds_needed(runs, found, asked) if is_open else None,
        assumes=ONE_SEED if found.basis == "control stages" else None,
    )


def strongest(recipe: Mapping[Quantity, OfRecipe]) -> Quantity:
    """The quantity that stands out most from the runs: the lowest p."""
    return min(recipe, key=lambda name: math.inf if (p := recipe[name].p) is None else p)
