"""What a plan measures, and what it makes of that; no test looks at a clock."""

import pytest
from test_run_study import lab_study

from seqdpo.policy.load import ParameterCount, base_bytes
from seqdpo.runner import plan as planning
from seqdpo.runner import probe as probing
from seqdpo.runner.inputs import read_preferences, with_model_path
from seqdpo.runner.plan import plan_study
from seqdpo.runner.probe import ROUNDS, Rates, best_seconds, probe

PARAMETERS = ParameterCount(1, 1000)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return with_model_path(lab_study(tmp_path_factory.mktemp("plan") / "run", orders=[["first"]]))


@pytest.fixture(scope="module")
def preferences(study):
    return read_preferences(study, lambda text: None)[0]


def test_a_node_takes_the_tokens_of_its_passes_times_the_rates(study, preferences, monkeypatch):
    monkeypatch.setattr(planning, "probe", lambda *given: Rates(0.25, 2.0, "by hand"))
    base, first = plan_study(study, preferences).stages
    held_out = [pair for one in preferences.objectives.values() for pair in one.eval]
    train = preferences.objectives["first"].train
    assert base.seconds == pytest.approx(0.25 * (n_distinct(held_out) + n_distinct(train)))
    mean = sum(pair.tokens.n_tokens for pair in train) / len(train)
    own = first.work.scored - len(held_out)
    scores = 0.25 * n_distinct(held_out)
    assert first.seconds == pytest.approx(scores + mean * (2.0 * first.work.trained + 0.25 * own))
    assert first.scoring_seconds == pytest.approx(scores)


def n_distinct(pairs):
    """Tokens, each prompt once and each of its responses once."""
    responses = {}
    for pair in pairs:
        prompt, *both = (tuple(part.tolist()) for part in pair.tokens[:3])
        responses.setdefault(prompt, set()).update(both)
    return sum(len(prompt) + sum(map(len, own)) for prompt, own in responses.items())


def test_the_pairs_of_a_probe_are_of_all_lengths_and_no_more_than_there_is_time_for(study, preferences):
    lengths = sorted(p.tokens.n_tokens for one in preferences.objectives.values() for p in (*one.train, *one.eval))
    mean = sum(lengths) / len(lengths)
    of = study.model_copy(update={"per_device_train_batch_size": 8, "tokens_per_batch": 16})
    found = [pair.tokens.n_tokens for pair in probing._sample(of, preferences, 1e9)]
    assert len(found) == 16  # two steps' worth
    assert found == sorted(found)
    assert sum(found) / 16 == pytest.approx(mean, rel=0.05)
    assert len(probing._sample(of, preferences, 3.5 * mean)) == 3
    assert probing._sample(of, preferences, 0.5 * mean) == []


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("has_weights", lambda keys: False, "weights are not on this machine"),
        ("_free_bytes", lambda: 10.0, "is too large for a trial"),
        ("MOST_SECONDS", 0.0, "is too slow for a trial"),
    ],
)
def test_where_the_model_cannot_be_tried_a_matrix_multiplication_tells(
    name, value, why, study, preferences, monkeypatch
):
    monkeypatch.setattr(probing, "matmul_rate", lambda keys: 1e6)
    monkeypatch.setattr(probing, name, value)
    rates = probe(study, preferences, PARAMETERS)
    # 2 x 1000 operations a token, at 40% of a million a second; backward as much again
    assert rates[:2] == pytest.approx((0.005, 0.01))
    assert why in rates.how
    checkpointed = study.model_copy(update={"gradient_checkpointing": True})
    assert probe(checkpointed, preferences, PARAMETERS).trained == pytest.approx(0.015)


def test_the_probe_itself_goes_through_the_engine(study, preferences):
    rates = probe(study, preferences, ParameterCount(1, 1_000_000))
    assert 0 < rates.scored < rates.trained
    assert f"of the study's pairs, scored and trained on just now, best of {ROUNDS}" in rates.how


def test_of_several_times_the_best_counts_and_never_more_than_the_processor_worked(monkeypatch):
    """Work by hand: each call takes what the list says on the clock and of the processor."""
    took, clock, used = iter([(99, 99), (7, 3), (5, 4), (6, 9)]), [0.0], [0.0]

    def work():
        seconds, processor = next(took)
        clock[0] += seconds
        used[0] += processor

    monkeypatch.setattr(probing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(probing.time, "process_time", lambda: used[0])
    assert best_seconds(work) == 3  # the first call sets up; then 3 of 7, 4 of 5, and 6 (two threads worked)


def test_memory_of_a_base_in_fewer_bits(make_study):
    """The tiny model by hand: 300 x 64 embeddings and head, norms of 64 x 5, and two layers of linear weights."""
    linear = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 128)
    others = 2 * 300 * 64 + 5 * 64
    assert base_bytes(make_study()) == 4 * (linear + others)
    assert base_bytes(make_study(load_in_4bit=True)) == round(linear * (4 + 1 / 8 + 1 / 512) / 8 + 4 * others)
    assert base_bytes(make_study(load_in_8bit=True, dtype="bfloat16")) == linear + 2 * others
