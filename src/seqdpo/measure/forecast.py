"""Which pairs will a stage change? One mean gradient of the stage and two forward passes say so before it trains.

With v the direction of steepest descent of the stage's loss, the change of a log-probability h along a short step s v
is [h(theta + s v) - h(theta - s v)] / 2: a directional derivative without a backward pass for each pair.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor

from seqdpo.measure.kl_and_path import HeldOut
from seqdpo.measure.scores import PairLogps, objective_logps
from seqdpo.study.keys import StageKeys
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.stage import mean_vector

#: The step's length as a share of that of an Adam step, learning_rate * sqrt(parameters): short enough that the
#: curve does not count, long enough that float32 rounding does not.
SHARE_OF_ADAM_STEP = 0.1


def forecast(
    policy: PeftModel,
    training: TrainingPairs,
    held_out: Mapping[str, HeldOut],
    keys: StageKeys,
    on_batch: Callable[[int], None] = lambda n_pairs: None,
    on_gradient: Callable[[int], None] = lambda n_pairs: None,
) -> dict[str, PairLogps]:
    """The change of each held-out log-probability along a short step down the stage's mean gradient, nats.

    `policy` is what the stage will train, at its start, and is left as it was; `training` some pairs of the stage.
    Empty where that gradient is zero or not finite: it points nowhere. The callables hear the pairs that were read.
    """
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    step = _step(policy, parameters, training, keys)
    on_gradient(training.n_pairs)
    if step is None:
        return {}
    with _moved(parameters, step, 1):
        ahead = _scores(policy, held_out, keys, on_batch)
    with _moved(parameters, step, -1):
        back = _scores(policy, held_out, keys, on_batch)
    return {
        name: PairLogps(*((one - other) / 2 for one, other in zip(ahead[name], back[name], strict=True)))
        for name in held_out
    }


def _step(
    policy: PeftModel, parameters: Sequence[Tensor], training: TrainingPairs, keys: StageKeys
) -> list[Tensor] | None:
    """A step down the mean gradient of the loss, one tensor for each parameter."""
    gradients = mean_vector(policy, training, keys)
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients))
    if not (math.isfinite(norm) and norm > 0):
        return None
    length = SHARE_OF_ADAM_STEP * keys.learning_rate * math.sqrt(sum(p.numel() for p in parameters))
    return [gradient.mul_(-length / norm) for gradient in gradients]


@contextmanager
def _moved(parameters: Sequence[Tensor], step: Sequence[Tensor], sign: int) -> Iterator[None]:
    """The parameters moved along the step; the very same bits are put back, which subtracting would not do."""
    originals = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, move in zip(parameters, step, strict=True):
                parameter.add_(move, alpha=sign)
        yield
    finally:
        with torch.no_grad():
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.copy_(original)


def _scores(
    policy: PeftModel, held_out: Mapping[str, HeldOut], keys: StageKeys, on_batch: Callable[[int], None]
) -> dict[str, PairLogps]:
    tokens = {name: pairs.tokens for name, pairs in held_out.items()}
    return objective_logps(policy, tokens, keys.tokens_per_batch, on_batch)
