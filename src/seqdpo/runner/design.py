"""What a study's design rules out, told before anything is trained."""

from collections.abc import Iterator

import torch

from seqdpo.analysis.recipes import FEWEST_CONTROLS, FEWEST_SEEDS
from seqdpo.errors import ConfigError
from seqdpo.preferences.prepare import Preferences
from seqdpo.study.keys import InputKeys, OptimiserKeys, TreeKeys
from seqdpo.study.variants import with_keys_of
from seqdpo.training.schedule import schedule
from seqdpo.training.stage import n_steps
from seqdpo.wording import reason


def check_learning_rates(keys: InputKeys, preferences: Preferences) -> None:
    """Walks through the schedule of every stage.

    A warm-up begins at a learning rate of 0: with one step, nothing would be trained, and no verdict would say why.
    Raises: ConfigError for a schedule that has no step above 0, or cannot be followed to its end.
    """
    _check_schedules("", keys, preferences)
    for variant, own in keys.variants.items():
        _check_schedules(f"variants.{variant}: ", with_keys_of(keys, own), preferences)


def _check_schedules(of: str, keys: InputKeys, preferences: Preferences) -> None:
    for name, steps in _stages(keys, preferences):
        where = f"{of}lr_scheduler_type = {keys.lr_scheduler_type!r} with {_warmup_key(keys)}: the stage on {name!r}"
        try:
            highest = max(learning_rates(keys, steps))
        except (ArithmeticError, ValueError) as error:
            raise ConfigError(
                f"{where} has {steps} steps, for which it has no values ({reason(error)}); expected a rate for each. "
                "Choose another lr_scheduler_type, or another warm-up."
            ) from error
        if highest == 0:
            raise ConfigError(
                f"{where} has one step, and the first step of a warm-up has learning rate 0; expected a step above 0. "
                f"Set {_warmup_key(keys).split()[0]}: 0, or fewer pairs a step (per_device_train_batch_size x "
                f"gradient_accumulation_steps = {keys.pairs_per_step})."
            )


def design_notes(keys: InputKeys, preferences: Preferences) -> Iterator[str]:
    """What will be as it is designed, and perhaps not as it is meant."""
    for name, steps in _stages(keys, preferences):
        highest = max(learning_rates(keys, steps))
        if highest < keys.learning_rate:
            yield (
                f"{name}: the warm-up does not end within the {steps} steps of its stage, whose learning rate reaches "
                f"{highest:.2g} of {keys.learning_rate:.2g}. Lower {_warmup_key(keys).split()[0]}."
            )
    if max(map(len, keys.all_orders())) > 1 and not can_be_tested(keys):
        yield (
            f"with placebo: {keys.placebo} and {len(keys.seeds)} seed{'s' * (len(keys.seeds) > 1)}, no change can "
            f"be told from run noise: every recipe will be UNTESTED. Set placebo: {FEWEST_CONTROLS}, or give "
            f"{FEWEST_SEEDS} seeds."
        )


def can_be_tested(keys: TreeKeys) -> bool:
    """Whether control stages or seeds are enough to compare a real stage with; as `analyse.recipes.separation`."""
    return len(keys.seeds) * keys.placebo >= 2 if keys.placebo else len(keys.seeds) >= FEWEST_SEEDS


def learning_rates(keys: OptimiserKeys, steps: int) -> list[float]:
    """That of each step of a stage, by the scheduler that trains it."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=keys.learning_rate)
    scheduler = schedule(optimiser, keys, steps)
    rates = []
    for _ in range(steps):
        rates.append(float(optimiser.param_groups[0]["lr"]))
        optimiser.step()
        scheduler.step()
    return rates


def _stages(keys: InputKeys, preferences: Preferences) -> Iterator[tuple[str, int]]:
    """Every trained objective with the steps of its stage."""
    for name in keys.trained_objectives():
        yield name, n_steps(len(preferences.objectives[name].train), keys)


def _warmup_key(keys: OptimiserKeys) -> str:
    return f"warmup_steps = {keys.warmup_steps}" if keys.warmup_steps else f"warmup_ratio = {keys.warmup_ratio}"
