"""What can be said of the recipe of a cell, in a line or two: every quantity, the one that stands out most first."""

import math
from collections.abc import Iterator
from itertools import groupby

from seqdpo.analysis.schema import OfRecipe, Quantity, Recipe
from seqdpo.report.numbers import number

QUANTITIES: tuple[Quantity, ...] = ("margin", "accuracy", "flips")
_FORMS: dict[Quantity, str] = {"margin": "+.2f", "accuracy": "+.3f", "flips": "+.3f"}


def recipe_line(recipe: Recipe) -> str:
    """`Recipe, by 4 control stages in 1 seed: ATTRIBUTABLE: flips (...); UNTESTED: margin.`

    The numbers are what the real stage did beyond its control stages.
    """
    if recipe.read is None:
        return ""
    in_order = sorted(QUANTITIES, key=lambda name: _p(getattr(recipe, name)))
    said = [
        f"{statement}: {', '.join(_of_quantity(name, getattr(recipe, name)) for name in group)}"
        for statement, group in groupby(in_order, key=lambda name: getattr(recipe, name).statement)
    ]
    return " ".join([f"Recipe, by {_basis(recipe.margin)}: {'; '.join(said)}.", *_of_runs(recipe.margin)])


def _of_quantity(name: Quantity, found: OfRecipe) -> str:
    if found.excess is None or found.low is None:
        return name
    form = _FORMS[name]
    interval = f"{found.excess:{form}} [{number(found.low, form)}, {number(found.high, form)}]"
    return f"{name} ({interval}, p = {found.p_holm:.2g})"


def _basis(found: OfRecipe) -> str:
    seeds = f"{found.n_seeds} seed{'s' if found.n_seeds > 1 else ''}"
    if not found.n_controls:
        return seeds
    controls = f"{found.n_controls} control stage{'s' if found.n_controls > 1 else ''}"
    alike = "" if found.n_seeds_alike is None else f", {found.n_seeds_alike} of them with the sign of the mean"
    return f"{controls} in {seeds}{alike}"


def _of_runs(found: OfRecipe) -> Iterator[str]:
    """What the intervals over pairs do not see."""
    if found.run_noise is None or found.next_run_low is None:
        return
    yield (
        f"From run to run the change of the mean margin varies by an SD of {found.run_noise:.2f}; the next run of this "
        f"recipe is expected between {number(found.next_run_low)} and {number(found.next_run_high)} "
        f"({found.confidence:.0%})."
    )
    if found.assumes:
        yield f"This is with {found.assumes}."


def _p(found: OfRecipe) -> float:
    return math.inf if found.p is None else found.p
