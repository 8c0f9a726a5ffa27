"""The losses by TRL's names, each written once: torch trains with it, numpy analyses with it.

A loss is a function of rewards, beta times log-ratios of policy and reference. To add one: a function of rewards, the
probability by which a control stage keeps a label, and a line in LOSSES. No torch here: its functions come as `Ops`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from seqdpo.study.keys import LossKeys

Column: TypeAlias = NDArray[np.float64]
#: (n_pairs,) of numpy or of torch.
Array: TypeAlias = Any


class Ops(NamedTuple):
    """What is no operator and has other names in numpy and torch."""

    logsigmoid: Callable[[Array], Array]
    sigmoid: Callable[[Array], Array]
    relu: Callable[[Array], Array]


def _expit(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -x))


NUMPY = Ops(lambda x: -np.logaddexp(0, -x), _expit, lambda x: np.maximum(x, 0))


class Rewards(NamedTuple):
    """beta times what a policy, or its difference from the reference, makes of each response; (n_pairs,) arrays."""

    chosen: Array
    rejected: Array
    margin: Array  # chosen less rejected: the log-odds that the loss gives to the chosen response

    def less(self, other: "Rewards") -> "Rewards":
        return Rewards(*(one - two for one, two in zip(self, other, strict=True)))


class Loss(NamedTuple):
    """One loss; `Rewards` are those against the reference."""

    losses: Callable[[Rewards, "LossKeys", Ops], Array]  # (n_pairs,)
    #: By which a control stage keeps a pair's label, so that p * (gradient) + (1 - p) * (gradient of the turned pair)
    #: is 0, as far as it can be; (n_pairs,).
    keep_probability: Callable[[Rewards, "LossKeys"], Column]
    null_note: str | None = None  # where that expected gradient is not 0; None: it is 0 everywhere
    per_token: bool = False  # log-ratios are divided by the tokens of their response
    smooths: bool = False  # reads label_smoothing


def loss_of(keys: "LossKeys") -> Loss:
    """The study's loss."""
    return LOSSES[keys.loss_type]


def rewards(chosen: Array, rejected: Array, tokens: tuple[Array, Array], keys: "LossKeys") -> Rewards:
    """Of the log-probabilities of a policy, or of its reference; the loss sees `policy.less(reference)`.

    `tokens` are those of the chosen and of the rejected responses; all (n_pairs,).
    """
    beta = keys.beta
    if not loss_of(keys).per_token:
        return Rewards(beta * chosen, beta * rejected, beta * (chosen - rejected))
    chosen, rejected = beta * chosen / tokens[0], beta * rejected / tokens[1]
    return Rewards(chosen, rejected, chosen - rejected)


def _sigmoid(r: Rewards, keys: "LossKeys", ops: Ops) -> Array:
    """Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; of rewards a token: length-normalised, as in TRL."""
    return -ops.logsigmoid(r.margin)


def _keep_sigmoid(r: Rewards, keys: "LossKeys") -> Column:
    """-(1 - p) of a label that is kept, +p of one that is turned: 0 with p = sigmoid(margin)."""
    return _expit(r.margin)


def _hinge(r: Rewards, keys: "LossKeys", ops: Ops) -> Array:
    """Zhao et al. 2023 (arXiv 2305.10425)."""
    return ops.relu(1 - r.margin)


def _keep_hinge(r: Rewards, keys: "LossKeys") -> Column:
    """Within the margin both labels pull with the same force; beyond it one of them does not pull at all."""
    return np.where(np.abs(r.margin) < 1, 0.5, r.margin > 0)


def _ipo(r: Rewards, keys: "LossKeys", ops: Ops) -> Array:
    """Azar et al. 2023 (arXiv 2310.12036), eq. 17: (log-ratios' difference a token - 1 / (2 beta))^2."""
    return ((r.margin - 0.5) / keys.beta) ** 2


def _keep_ipo(r: Rewards, keys: "LossKeys") -> Column:
    """The pulls are margin - 1/2 and margin + 1/2: p = 1/2 + margin, which is a probability up to margins of 1/2."""
    return np.clip(0.5 + r.margin, 0, 1)


def _robust(r: Rewards, keys: "LossKeys", ops: Ops) -> Array:
    """Chowdhury et al. 2024 (arXiv 2403.00409): unbiased where a share label_smoothing of the labels is turned."""
    e = keys.label_smoothing
    return (-(1 - e) * ops.logsigmoid(r.margin) + e * ops.logsigmoid(-r.margin)) / (1 - 2 * e)


def _keep_robust(r: Rewards, keys: "LossKeys") -> Column:
    """The policy's label, turned as often as the loss believes that labels are."""
    e = keys.label_smoothing
    return e + (1 - 2 * e) * _expit(r.margin)


def _apo_zero(r: Rewards, keys: "LossKeys", ops: Ops) -> Array:
    """D'Oosterlinck et al. 2024 (arXiv 2408.06266), eq. 7."""
    return 1 - ops.sigmoid(r.chosen) + ops.sigmoid(r.rejected)


def _keep_apo_zero(r: Rewards, keys: "LossKeys") -> Column:
    """The losses of both labels add up to 2 whatever the policy: coin flips do not pull."""
    return np.full_like(r.margin, 0.5)


def _apo_down(r: Rewards, keys: "LossKeys", ops: Ops) -> Array:
    """D'Oosterlinck et al. 2024 (arXiv 2408.06266), eq. 8."""
    return ops.sigmoid(r.chosen) + 1 - ops.sigmoid(r.margin)


def _keep_apo_down(r: Rewards, keys: "LossKeys") -> Column:
    """So that nothing pulls on the margin; what pulls both responses down is there with either label.

    With s the slope of the sigmoid, a label pulls the margin by s(chosen) - 2 s(margin), the other one by
    2 s(margin) - s(rejected). Where both have one sign, the weaker pull.
    """
    chosen, rejected, margin = (_expit(x) * _expit(-x) for x in r)
    kept, turned = chosen - 2 * margin, 2 * margin - rejected
    pull = turned - kept
    return np.clip(np.divide(turned, pull, out=np.full_like(pull, 0.5), where=pull != 0), 0, 1)


#: By TRL's names (1.16).
LOSSES: dict[str, Loss] = {
    "sigmoid": Loss(_sigmoid, _keep_sigmoid),
    "hinge": Loss(_hinge, _keep_hinge),
    "ipo": Loss(
        _ipo,
        _keep_ipo,
        "beyond a log-ratio difference of 1 / (2 beta) nats a token both labels of ipo pull back to it",
        per_token=True,
    ),
    "robust": Loss(_robust, _keep_robust, smooths=True),
    "apo_zero": Loss(_apo_zero, _keep_apo_zero),
    "apo_down": Loss(
        _apo_down, _keep_apo_down, "apo_down lowers both responses' log-probabilities, whatever the label"
    ),
    "sigmoid_norm": Loss(_sigmoid, _keep_sigmoid, per_token=True),
}
