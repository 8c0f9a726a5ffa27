"""What a study can show if it is run as it stands, and what each way to show more would cost."""

from collections.abc import Iterator
from typing import NamedTuple

from seqdpo.analysis.power import ASSUMED, recipe_reach, smallest_accuracy_loss, smallest_loss
from seqdpo.analysis.recipes import FEWEST_CONTROLS, FEWEST_SEEDS, QUANTITIES
from seqdpo.preferences.prepare import Preferences
from seqdpo.runner.plan import Plan
from seqdpo.runner.terminal import duration
from seqdpo.study.keys import DesignKeys

#: margin, accuracy, base, flips, scale, scatter: what is claimed of a cell, the last three beside control stages.
CLAIMS_OF_A_CELL = 6
CLAIMS_WITHOUT_CONTROLS = 3


class _Design(NamedTuple):
    n_seeds: int
    n_controls: int
    level: float  # of a claim on a checkpoint, one-sided
    recipe_level: float  # two-sided


def can_show(keys: DesignKeys, preferences: Preferences, plan: Plan) -> Iterator[str]:
    """Lines of text; none where no order has a later stage."""
    if max(map(len, keys.all_orders())) < 2:
        return
    levels = claim_levels(keys)
    design = _Design(len(keys.seeds), keys.placebo, levels.checkpoint, levels.recipe)
    yield f"What it can show with a chance of 80% ({ASSUMED}):"
    for name in sorted({name for order in keys.all_orders() for name in order[:-1]}):
        yield f"  {_of_checkpoint(name, keys, preferences, design)}"
    yield f"  recipe: {_of_recipe(design.n_seeds, design.n_controls, design.recipe_level)}"
    yield "  to show more:"
    for line in _ways(keys, preferences, plan, design):
        yield f"  - {line}"


class ClaimLevels(NamedTuple):
    checkpoint: float  # one-sided
    recipe: float  # two-sided


def claim_levels(keys: DesignKeys) -> ClaimLevels:
    """The levels at which Holm begins: the smallest."""
    n_cells = sum(len(order) * (len(order) - 1) // 2 + max(len(order) - 2, 0) for order in keys.all_orders())
    claims = CLAIMS_OF_A_CELL if keys.placebo > 1 else CLAIMS_WITHOUT_CONTROLS + keys.placebo
    risk = 1 - keys.confidence
    return ClaimLevels(risk / (claims * n_cells * len(keys.seeds)), risk / (len(QUANTITIES) * n_cells))


def _of_checkpoint(name: str, keys: DesignKeys, preferences: Preferences, design: _Design, times: int = 1) -> str:
    sizes: dict[str, int] = {}
    for prepared in preferences.objectives[name].eval:
        sizes[prepared.pair.prompt_id] = sizes.get(prepared.pair.prompt_id, 0) + 1
    if not sizes:
        return f"{name}: no held-out pairs, so nothing"
    n, n_prompts = times * sum(sizes.values()), times * len(sizes)
    n_effective = n**2 / (times * sum(size**2 for size in sizes.values()))
    loss = smallest_loss(n_effective, keys.margin_tolerance, design.level)
    accuracy = smallest_accuracy_loss(n_effective, keys.accuracy_tolerance, design.level)
    return (
        f"{name}: {n:,} held-out pairs of {n_prompts:,} prompts: a loss of {loss:.0%} of what was learned, or of "
        f"{100 * accuracy:.1f} points of accuracy"
    )


def _of_recipe(n_seeds: int, n_controls: int, level: float) -> str:
    reach = recipe_reach(n_seeds, n_controls, level)
    seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}"
    by = f"by {n_controls} control stages beside each later one, {seeds}" if n_controls else f"by {seeds}"
    if reach is None:
        return f"nothing, {by}: every recipe will be UNTESTED"
    return f"a change of {reach:.1f} SDs of run noise, {by}; in the lab an SD was 2% to 12% of what was learned"


def _ways(keys: DesignKeys, preferences: Preferences, plan: Plan, design: _Design) -> Iterator[str]:
    name = next(order[0] for order in keys.all_orders() if len(order) > 1)
    more = _of_checkpoint(name, keys, preferences, design, times=2).split(": ", 2)[2]
    yield f"twice the held-out pairs (max_eval_pairs), +{duration(plan.scoring_seconds)}: of {name} {more}"
    n_controls = max(2 * keys.placebo, FEWEST_CONTROLS)
    # one more of each: a control stage costs about as much as the stage it stands beside
    later = [stage for stage in plan.stages if stage.node is not None and stage.node.stage > 1]
    each = sum(stage.seconds for stage in later if stage.node and stage.node.placebo == min(1, keys.placebo))
    if design.n_seeds == 1:
        reach = recipe_reach(1, n_controls, design.recipe_level)
        yield f"placebo: {n_controls}, +{duration((n_controls - keys.placebo) * each)}: {reach:.1f} SDs of run noise"
    n_seeds = max(FEWEST_SEEDS, design.n_seeds + 2)
    reach = recipe_reach(n_seeds, keys.placebo, design.recipe_level)
    a_seed = (plan.seconds - plan.stages[0].seconds) / design.n_seeds
    yield (
        f"{n_seeds} seeds, +{duration((n_seeds - design.n_seeds) * a_seed)}: {reach:.1f} SDs, of the recipe from the "
        "base on, whatever the noise of the real stages"
    )
