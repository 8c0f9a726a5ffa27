"""The labels of a control stage: drawn with the checkpoint's own probability, so that nothing pulls on average."""

import numpy as np
import pytest

from seqdpo.measure.scores import pair_logps
from seqdpo.policy.adapters import save_adapter, trainable_policy
from seqdpo.policy.load import load_model
from seqdpo.study.keys import LossKeys
from seqdpo.study.losses import LOSSES, rewards
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.placebo import with_own_labels
from seqdpo.training.stage import train_stage

BETA = 0.3
KEYS = LossKeys(beta=BETA)


@pytest.fixture
def make_pairs(random_pairs):
    def make(offsets) -> TrainingPairs:
        """Pairs whose reference takes these from the reward margins."""
        n, chosen = len(offsets), np.asarray(offsets, dtype=np.float64) / BETA
        return TrainingPairs([f"pair{i}" for i in range(n)], random_pairs(n, seed=0), chosen, np.zeros(n))

    return make


def own_labels(pairs: TrainingPairs, margins, generator, keys=KEYS) -> TrainingPairs:
    """Of a checkpoint with these chosen less rejected log-probabilities."""
    return with_own_labels(pairs, (np.asarray(margins), np.zeros(len(margins))), keys, generator)


def kept(before: TrainingPairs, after: TrainingPairs) -> np.ndarray:
    """Whether each pair came out as it went in; each must be that or exactly the other way round."""
    flags = []
    for old, new in zip(before.tokens, after.tokens, strict=True):
        assert np.array_equal(new.prompt, old.prompt)
        same = np.array_equal(new.chosen, old.chosen) and np.array_equal(new.rejected, old.rejected)
        turned = np.array_equal(new.chosen, old.rejected) and np.array_equal(new.rejected, old.chosen)
        assert same != turned
        flags.append(same)
    return np.array(flags)


@pytest.mark.parametrize(("margin", "all_kept"), [(1e3, True), (1e6, True), (-1e3, False), (-1e6, False)])
def test_a_sure_checkpoint_keeps_its_own_labels(margin, all_kept, make_pairs):
    """At beta * margin = 300 the other label has a probability of 1e-130; far out nothing overflows."""
    before = make_pairs(np.zeros(100))
    after = own_labels(before, np.full(100, margin), np.random.default_rng(0))
    assert (kept(before, after) == all_kept).all()


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("offset", [-2.0, 0.0, 3.0])
def test_share_of_kept_labels_is_the_sigmoid(probability, offset, make_pairs):
    """margin = (offset + log(p / (1 - p))) / beta makes sigmoid(beta * margin - offset) = p.

    Tolerance: 5 standard deviations of a binomial share, passed by chance once in 1.7 million draws.
    """
    n = 10_000
    margins = np.full(n, (offset + np.log(probability / (1 - probability))) / BETA)
    before = make_pairs(np.full(n, offset))
    share = kept(before, own_labels(before, margins, np.random.default_rng(1))).mean()
    assert abs(share - probability) < 5 * np.sqrt(probability * (1 - probability) / n)


def test_reference_that_agrees_with_the_checkpoint_makes_labels_a_coin_flip(make_pairs):
    """offset = beta * margin for each pair's own margin, as with `reference: previous`; tolerance as above."""
    n = 10_000
    margins = np.random.default_rng(2).normal(0, 20, n)
    before = make_pairs(BETA * margins)
    flags = kept(before, own_labels(before, margins, np.random.default_rng(3)))
    assert abs(flags.mean() - 0.5) < 5 * 0.5 / np.sqrt(n)
    assert abs(np.corrcoef(flags, margins)[0, 1]) < 5 / np.sqrt(n)  # SD of a correlation of nothing: 1 / sqrt(n)


@pytest.mark.parametrize("name", LOSSES)
def test_share_of_kept_labels_is_the_probability_of_the_loss(name, make_pairs):
    """One pair many times over: equal rewards, so one probability; tolerance as above."""
    n, keys = 10_000, LossKeys(loss_type=name, beta=BETA, label_smoothing=0.2 if LOSSES[name].smooths else 0)
    pair = make_pairs([0.4])
    pairs = pair.take([0] * n)
    tokens = pair.response_tokens
    at_start = rewards(np.array([1.0]), np.array([0.0]), tokens, keys).less(rewards(*pair.reference, tokens, keys))
    (probability,) = LOSSES[name].keep_probability(at_start, keys)
    share = kept(pairs, own_labels(pairs, np.ones(n), np.random.default_rng(6), keys)).mean()
    assert 0.3 < probability < 0.7
    assert abs(share - probability) < 5 * np.sqrt(probability * (1 - probability) / n)


def test_reference_turns_with_its_label(make_pairs):
    before = make_pairs(np.linspace(-2, 2, 200))
    after = own_labels(before, np.zeros(200), np.random.default_rng(4))
    flags = kept(before, after)
    assert 0 < flags.sum() < 200
    np.testing.assert_array_equal(after.reference_chosen, np.where(flags, before.reference_chosen, 0))
    np.testing.assert_array_equal(after.reference_rejected, np.where(flags, 0, before.reference_chosen))
    assert after.pair_ids == before.pair_ids


def test_labels_depend_on_the_generator_alone(make_pairs):
    before = make_pairs(np.zeros(200))
    first, again, other = (
        kept(before, own_labels(before, np.zeros(200), np.random.default_rng(seed))) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_coin_flip_labels_erase_what_was_learned_and_own_labels_do_not(make_study, random_pairs, tmp_path):
    """Two control stages from one checkpoint that knows its pairs by heart, on the same pairs in as many steps.

    With the base as reference, labels of coin flips have their optimum at a margin of 0; the checkpoint's own labels
    have it where the checkpoint is.
    """
    study = make_study(beta=BETA, learning_rate=5e-3, num_train_epochs=15, lr_scheduler_type="constant")
    base = load_model(study)
    tokens = random_pairs(24, seed=3)
    at_base = pair_logps(base, tokens, 4096)
    pairs = TrainingPairs([f"pair-{i}" for i in range(24)], tokens, *at_base)

    def trained(pairs, parent, epochs):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        with trainable_policy(base, study, parent, seed=1) as policy:
            train_stage(policy, pairs, study.model_copy(update={"num_train_epochs": epochs}), 1, lambda step: None)
            save_adapter(policy, study, parent, folder)
            return folder, pair_logps(policy, tokens, 4096)

    start, learned = trained(pairs, None, epochs=15)
    own = with_own_labels(pairs, learned, KEYS, np.random.default_rng(0))
    # a checkpoint that prefers nothing beyond the reference draws its labels by coin
    coin_flips = with_own_labels(pairs, at_base, KEYS, np.random.default_rng(0))
    after_own, after_flips = (trained(each, start, epochs=4)[1] for each in (own, coin_flips))

    gain, own, flips = (np.mean(each.difference - at_base.difference) for each in (learned, after_own, after_flips))
    assert gain > 5
    assert own > 0.8 * gain
    assert flips < 0.5 * gain
