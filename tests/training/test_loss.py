"""The losses by hand and by their properties, in torch and in numpy; tests/training/test_trl_parity.py has TRL's."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from seqdpo.policy.logps import ResponseLogps
from seqdpo.preferences.tokens import PairTokens
from seqdpo.study.keys import LossKeys
from seqdpo.study.losses import LOSSES, NUMPY, Rewards, loss_of, rewards
from seqdpo.training.loss import pair_losses, pair_rewards
from seqdpo.training.pairs import TrainingPairs

SMOOTHING = {name: 0.1 if loss.smooths else 0.0 for name, loss in LOSSES.items()}
EVERY_LOSS = pytest.mark.parametrize("name", LOSSES)


def keys_of(name: str, beta: float = 0.3) -> LossKeys:
    return LossKeys(loss_type=name, beta=beta, label_smoothing=SMOOTHING[name])


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def make_pairs(reference_chosen, reference_rejected, chosen_tokens=(1,), rejected_tokens=(1,)) -> TrainingPairs:
    n = len(reference_chosen)
    ids = [np.zeros(1, dtype=np.int32)] * n
    responses = [
        [np.zeros(length, dtype=np.int32) for length in np.resize(lengths, n)]
        for lengths in (chosen_tokens, rejected_tokens)
    ]
    tokens = [PairTokens(*one, truncated=False) for one in zip(ids, *responses, strict=True)]
    return TrainingPairs([str(i) for i in range(n)], tokens, *map(np.asarray, (reference_chosen, reference_rejected)))


def random_logps(seed: int, n: int = 50) -> np.ndarray:
    """Of policy and reference, chosen and rejected each: (4, n)."""
    return np.random.default_rng(seed).normal(0, 8, (4, n)) - 40


def losses_of(policy, pairs: TrainingPairs, keys: LossKeys) -> Tensor:
    return pair_losses(pair_rewards(ResponseLogps(*map(torch.as_tensor, policy)), pairs, keys), keys)


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def nll(z: float) -> float:
    return math.log(1 + math.exp(-z))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sigmoid", (0.3711007, 1.4632825)),  # log(1 + exp(-0.8)), log(1 + exp(1.2))
        ("hinge", (1 - 0.8, 1 + 1.2)),
        # a token: -3.4 / 2 + 5 / 4 = -0.45 and -5.4 / 2 + 3 / 4 = -1.95, to be 1 / (2 * 0.5) = 1
        ("ipo", (1.45**2, 2.95**2)),
        ("robust", ((0.9 * nll(0.8) - 0.1 * nll(-0.8)) / 0.8, (0.9 * nll(-1.2) - 0.1 * nll(1.2)) / 0.8)),
        ("apo_zero", (1 - s(-1.7) + s(-2.5), 1 - s(-2.7) + s(-1.5))),
        ("apo_down", (s(-1.7) + 1 - s(0.8), s(-2.7) + 1 - s(-1.2))),
        ("sigmoid_norm", (nll(0.5 * -0.45), nll(0.5 * -1.95))),
    ],
)
def test_losses_by_hand(name, expected):
    """beta 0.5, policy -3, -5 and -5, -3, reference 0.4, 0 of responses of 2 and 4 tokens.

    Log-ratios -3.4, -5 and -5.4, -3; rewards -1.7, -2.5 and -2.7, -1.5; their margins 0.8 and -1.2.
    """
    pairs = make_pairs([0.4, 0.4], [0.0, 0.0], (2, 2), (4, 4))
    losses = losses_of((f64(-3, -5), f64(-5, -3)), pairs, keys_of(name, 0.5))
    torch.testing.assert_close(losses, f64(*expected), rtol=0, atol=5e-8)  # the digits above


def test_loss_where_policy_equals_reference_is_log_two():
    chosen, rejected, *_ = random_logps(0)
    losses = losses_of((chosen, rejected), make_pairs(chosen, rejected), LossKeys())
    torch.testing.assert_close(losses, torch.full((50,), math.log(2), dtype=torch.float64))


@pytest.mark.parametrize("seed", range(3))
def test_turning_a_pair_turns_the_margin_and_changes_the_loss_by_it(seed):
    """log sigmoid(z) - log sigmoid(-z) = z, so the loss of the other label is larger by z."""
    chosen, rejected, *reference = random_logps(seed)
    pairs, turned = make_pairs(*reference), make_pairs(*reversed(reference))
    of = pair_rewards(ResponseLogps(torch.as_tensor(chosen), torch.as_tensor(rejected)), pairs, LossKeys())
    difference = losses_of((rejected, chosen), turned, LossKeys()) - losses_of((chosen, rejected), pairs, LossKeys())
    torch.testing.assert_close(difference, of.margin)


def test_default_loss_is_equation_7_with_the_log_ratio_of_each_response():
    chosen, rejected, reference_chosen, reference_rejected = random_logps(1)
    inner = 0.3 * (chosen - reference_chosen) - 0.3 * (rejected - reference_rejected)
    losses = losses_of((chosen, rejected), make_pairs(reference_chosen, reference_rejected), LossKeys(beta=0.3))
    np.testing.assert_allclose(losses.numpy(), -np.log(1 / (1 + np.exp(-inner))), rtol=1e-9)


def test_reference_is_rounded_once_to_float32():
    """beta * (chosen - rejected) of the reference in float64, then float32: what a study's bytes have rested on."""
    reference = 0.3 * (-40.123456789 + 55.987654321)
    policy = ResponseLogps(torch.tensor([-41.7]), torch.tensor([-50.3]))
    of = pair_rewards(policy, make_pairs([-40.123456789], [-55.987654321]), LossKeys(beta=0.3))
    assert of.margin.item() == (0.3 * (policy.chosen - policy.rejected) - torch.tensor([reference])).item()


@EVERY_LOSS
def test_numpy_has_the_losses_of_torch(name):
    """1e-12 of the larger part: float64, one formula, two libraries' exp and log."""
    *policy, reference_chosen, reference_rejected = random_logps(2)
    tokens = (np.arange(1, 51), np.arange(60, 10, -1))
    pairs, keys = make_pairs(reference_chosen, reference_rejected, *tokens), keys_of(name)
    of = rewards(*policy, tokens, keys).less(rewards(reference_chosen, reference_rejected, tokens, keys))
    analysed = loss_of(keys).losses(of, keys, NUMPY)
    np.testing.assert_allclose(analysed, losses_of(policy, pairs, keys).numpy(), rtol=1e-12, atol=1e-12)
    assert np.std(analysed) > 0


@EVERY_LOSS
def test_losses_are_finite_far_out(name):
    """Where exp overflows."""
    pairs, keys = make_pairs([0.0, 0.0], [0.0, 0.0]), keys_of(name, 1.0)
    logps = np.array([[0.0, -5000.0], [-5000.0, 0.0]])
    assert torch.isfinite(losses_of(logps.astype(np.float32), pairs, keys)).all()
    of = rewards(*logps, pairs.response_tokens, keys)
    assert np.isfinite(loss_of(keys).losses(of, keys, NUMPY)).all()
    assert np.isfinite(loss_of(keys).keep_probability(of, keys)).all()


def test_gradient_by_hand():
    """d/d chosen = -beta sigmoid(-z), d/d rejected = +beta sigmoid(-z), with beta 0.4 here.

    z = 0.4 * 0 - 0 = 0: sigmoid(0) = 1/2, so -0.2 and 0.2. z = 0 + log 3: sigmoid(-log 3) = 1/4, so -0.1 and 0.1.
    z = -log 3: sigmoid(log 3) = 3/4, so -0.3 and 0.3.
    """
    chosen, rejected = f64(-2, -2, -2).requires_grad_(), f64(-2, -2, -2).requires_grad_()
    pairs = make_pairs([0, -math.log(3) / 0.4, math.log(3) / 0.4], [0, 0, 0])
    losses_of((chosen, rejected), pairs, LossKeys(beta=0.4)).sum().backward()
    torch.testing.assert_close(chosen.grad, f64(-0.2, -0.1, -0.3))
    torch.testing.assert_close(rejected.grad, f64(0.2, 0.1, 0.3))


# labels of control stages


def expected_gradient(name: str, logps: np.ndarray, tokens) -> tuple[np.ndarray, np.ndarray]:
    """Towards the log-probabilities of the two responses, with either label at its probability; and the pull of one.

    Each (2, n_pairs). By autograd on the pairs as they are and on the turned ones, the responses keeping their places.
    """
    keys, (first, second) = keys_of(name), torch.as_tensor(logps[:2]).requires_grad_().unbind()
    reference = logps[2:]
    pairs, turned = make_pairs(*reference, *tokens), make_pairs(*reference[::-1], *tokens[::-1])
    gradients = [
        torch.stack(torch.autograd.grad(losses_of(policy, of, keys).sum(), (first, second))).numpy()
        for policy, of in (((first, second), pairs), ((second, first), turned))
    ]
    at_start = rewards(*logps[:2], tokens, keys).less(rewards(*reference, tokens, keys))
    keep = loss_of(keys).keep_probability(at_start, keys)
    assert ((keep >= 0) & (keep <= 1)).all()
    return keep * gradients[0] + (1 - keep) * gradients[1], np.abs(gradients).max(axis=0)


EXACT = [name for name, loss in LOSSES.items() if loss.null_note is None]
TOKENS = np.arange(1, 51), np.arange(50, 0, -1)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("spread", [0.3, 8.0])
def test_own_labels_do_not_pull_at_the_start(name, spread):
    """Exactly: both labels forced, each weighted with its probability."""
    logps = np.random.default_rng(4).normal(0, spread, (4, 50))
    pull, of_one_label = expected_gradient(name, logps, TOKENS)
    assert np.mean(of_one_label > 1e-4) > 0.5  # each alone does pull
    np.testing.assert_allclose(pull, 0, atol=1e-12)


def test_ipo_does_not_pull_up_to_its_own_target_and_says_so():
    """Policy and reference differ by 1 / (2 beta) = 1.67 nats a token at most; beyond, both labels pull back."""
    per_token = np.linspace(-3, 3, 50)
    tokens = np.full(50, 4), np.full(50, 4)
    logps = np.stack([4 * per_token, *np.zeros((3, 50))])
    pull, _ = expected_gradient("ipo", logps, tokens)
    within = np.abs(per_token) <= 1 / (2 * 0.3)
    assert 10 < within.sum() < 40
    np.testing.assert_allclose(pull[:, within], 0, atol=1e-12)
    assert (np.sign(pull[0, ~within]) == np.sign(per_token[~within])).all()  # descent brings the margin back
    assert "1 / (2 beta)" in LOSSES["ipo"].null_note


def test_apo_down_does_not_pull_on_the_margin_but_on_both_responses_and_says_so():
    """Near the reference, where one of the labels raises the margin and the other lowers it."""
    logps = np.random.default_rng(5).normal(0, 0.5, (4, 50))
    pull, _ = expected_gradient("apo_down", logps, TOKENS)
    np.testing.assert_allclose(pull[0] - pull[1], 0, atol=1e-12)
    assert (pull.sum(axis=0) > 0).all()  # descent lowers both
    assert "lowers both" in LOSSES["apo_down"].null_note


def test_probabilities_by_hand():
    """z = log 3: sigmoid 3/4; robust believes a tenth of all labels turned: 0.1 + 0.8 * 3/4; ipo at z = 0.2: 0.7."""
    of = Rewards(*np.full((3, 1), math.log(3)))
    assert LOSSES["sigmoid"].keep_probability(of, keys_of("sigmoid")) == pytest.approx(0.75)
    assert LOSSES["robust"].keep_probability(of, keys_of("robust")) == pytest.approx(0.7)
    assert LOSSES["hinge"].keep_probability(of, keys_of("hinge")) == 1
    assert LOSSES["apo_zero"].keep_probability(of, keys_of("apo_zero")) == 0.5
    small = Rewards(*np.full((3, 1), 0.2))
    assert LOSSES["hinge"].keep_probability(small, keys_of("hinge")) == 0.5
    assert LOSSES["ipo"].keep_probability(small, keys_of("ipo")) == pytest.approx(0.7)
