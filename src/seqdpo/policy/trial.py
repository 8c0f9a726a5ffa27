"""The adapter is tried before a run: a step, saved, loaded, built upon, moved along the line, on made-up pairs.

What a family of models, a release of PEFT or a choice of layers cannot do is found out before a stage is trained.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from seqdpo.errors import ConfigError, SeqdpoError
from seqdpo.policy.adapters import WEIGHTS_FILE, line_between, loaded_adapter, save_adapter, trainable_policy
from seqdpo.policy.attention import own_attention
from seqdpo.policy.engine import TOLERANCE, probe_pairs
from seqdpo.policy.library import can_checkpoint, checkpointing
from seqdpo.policy.load import outline
from seqdpo.policy.logps import base_of, tree_logps
from seqdpo.policy.singles import single_logps
from seqdpo.policy.targets import kinds, lora_targets
from seqdpo.preferences.tokens import PairTokens
from seqdpo.study.keys import OptimiserKeys, PolicyKeys
from seqdpo.wording import reason

#: How far the trial moves adapter weights: enough to be seen in every score, not enough to break a model.
STEP = 0.02
_OTHERS = "Set another adapter_mode or lora_target_modules, or choose another model."
_DRAWS = "Choose another model: one that draws experts or noise at random while it trains has no one score."


class Trial(NamedTuple):
    """What the trial found beside that everything works."""

    idle: int  # adapter weights that get no gradient, though they count as trainable
    notes: list[str]


def foresee_adapter(keys: PolicyKeys, optimiser: OptimiserKeys) -> list[str]:
    """What of the trial needs no weights: notes on the layers that the adapter leaves out.

    Raises: ConfigError as `try_adapter`.
    """
    model = outline(keys)
    _check_checkpointing(model, optimiser)
    return lora_targets(model, keys).notes


def try_adapter(base: PreTrainedModel, keys: PolicyKeys, optimiser: OptimiserKeys) -> Trial:
    """Takes the study's adapter through all that a run will do with it, on a loaded base whose engine is chosen.

    The base is left as it was.
    Raises: ConfigError that names the key or the model, and what cannot be done with it.
    """
    _check_checkpointing(base, optimiser)
    pairs = probe_pairs(base, longest=0)[:2]
    before = _scores(base, pairs)
    with TemporaryDirectory(prefix="seqdpo-trial-") as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        idle = _stage(base, keys, optimiser, None, first, pairs)
        _stage(base, keys, optimiser, first, second, pairs)
        ends = [_of_file(base, adapter, pairs) for adapter in (first, second)]
        with _doing(base, "moved along the line between two checkpoints"), line_between(base, first, second) as line:
            for a, expected in enumerate(ends):
                line.move_to(a)
                _compare(base, _scores(line.policy, pairs), expected, "on the line", exact=False)
    _compare(base, _scores(base, pairs), before, "after an adapter was taken off", exact=True)
    return Trial(sum(idle.values()), [*lora_targets(base, keys).notes, *_idle_note(idle)])


def _check_checkpointing(model: PreTrainedModel, keys: OptimiserKeys) -> None:
    if keys.gradient_checkpointing and not can_checkpoint(model):
        raise ConfigError(
            f"gradient_checkpointing = True: {type(model).__name__} has none in transformers; expected false for this "
            "model. Set gradient_checkpointing: false."
        )


def _stage(
    base: PreTrainedModel,
    keys: PolicyKeys,
    optimiser: OptimiserKeys,
    parent: Path | None,
    folder: Path,
    pairs: list[PairTokens],
) -> dict[str, int]:
    """Trains a step, saves, and reads the file again; returns the adapter weights without gradient, by name."""
    mode = "" if parent is None else f" (adapter_mode: {keys.adapter_mode})"
    start = None if parent is None else _of_file(base, parent, pairs)
    with trainable_policy(base, keys, parent, seed=0) as policy:
        now = _scores(policy.eval(), pairs)
        if start is not None:
            _compare(base, now, start, f"when a stage begins{mode}", exact=False)
        with _doing(base, f"trained{mode}"):
            training, idle = _step(policy, optimiser, pairs)
        if not keys.lora_dropout:
            _compare(base, training, now, "in training mode", exact=False, advice=_DRAWS)
        live = _scores(policy.eval(), pairs)
        with _doing(base, f"saved{mode}"):
            save_adapter(policy, keys, parent, folder)
    _check_file(base, folder)
    _compare(base, _of_file(base, folder, pairs), live, f"once it is saved and loaded{mode}", exact=False)
    return idle


def _step(policy: PeftModel, optimiser: OptimiserKeys, pairs: list[PairTokens]) -> tuple[Tensor, dict[str, int]]:
    """(scores in training mode, adapter weights without gradient by name), after one backward pass.

    Weights that got a gradient move at random, since that of A is 0 while B is 0.
    """
    trainable = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    hidden = checkpointing(base_of(policy)) if optimiser.gradient_checkpointing else nullcontext()
    with hidden, torch.random.fork_rng():
        logps = tree_logps(policy.train(), pairs)
        chosen, rejected = logps.view(-1, 2).unbind(dim=1)
        loss = (chosen - rejected).sum()
        gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
    generator = torch.Generator().manual_seed(1)
    idle: dict[str, int] = {}
    with torch.no_grad():
        for (name, parameter), gradient in zip(trainable.items(), gradients, strict=True):
            if gradient is None:
                idle[name] = parameter.numel()
            else:
                parameter += STEP * torch.randn(parameter.shape, generator=generator).to(parameter.device)
    if len(idle) == len(trainable):
        raise ConfigError(
            f"lora_target_modules: no layer of {type(base_of(policy)).__name__} that it names gets a gradient from "
            "text; expected layers that the text passes through. Change it."
        )
    return logps.detach(), idle


def _scores(model: torch.nn.Module, pairs: list[PairTokens]) -> Tensor:
    with torch.inference_mode():
        return tree_logps(model, pairs)


def _of_file(base: PreTrainedModel, adapter: Path, pairs: list[PairTokens]) -> Tensor:
    """By a plain pass for each sequence, whatever the engine."""
    with loaded_adapter(base, adapter), own_attention(base), torch.inference_mode():
        return single_logps(base, pairs)


def _check_file(base: PreTrainedModel, folder: Path) -> None:
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        others = [
            name
            for name in file.keys()  # noqa: SIM118 - no mapping
            if not name.endswith((".lora_A.weight", ".lora_B.weight")) or file.get_slice(name).get_shape()[2:]
        ]
    if others:
        raise ConfigError(
            f"lora_target_modules: PEFT makes {others[0]!r} for {type(base).__name__}; expected two matrices a linear "
            "layer, and nothing else. Name linear layers."
        )


def _compare(
    base: PreTrainedModel, found: Tensor, expected: Tensor, when: str, exact: bool, advice: str = _OTHERS
) -> None:
    tolerance = 0.0 if exact else 2 * TOLERANCE[base.dtype]
    difference = ((found - expected).abs() / expected.abs()).max().item()
    if not difference <= tolerance:
        raise ConfigError(
            f"model_name_or_path: an adapter on {type(base).__name__} scores otherwise {when}, by {difference:.1e}; "
            f"expected the same numbers. {advice}"
        )


@contextmanager
def _doing(base: PreTrainedModel, what: str) -> Iterator[None]:
    try:
        yield
    except (SeqdpoError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of every kind: code of a family or of PEFT, on a model it was not tried with
        raise ConfigError(
            f"model_name_or_path: an adapter on {type(base).__name__} cannot be {what}; expected a model that LoRA "
            f"fits. Set other lora_target_modules, or choose another model. It says: {type(error).__name__}: "
            f"{reason(error)}"
        ) from error


def _idle_note(idle: dict[str, int]) -> list[str]:
    if not idle:
        return []
    layers = sorted({name.partition(".lora_")[0].removeprefix("base_model.model.") for name in idle})
    return [
        f"{sum(idle.values()):,} of the adapter's weights got no gradient from the trial pairs: {kinds(layers)}. They "
        "count as trainable, but where no text reaches them they stay 0."
    ]
