"""A finished run gets more pairs, objectives, seeds and control stages; nothing that was trained is trained again."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqdpo.errors import ConfigError
from seqdpo.files import file_hash, write_table
from seqdpo.measure.scores import PairLogps
from seqdpo.preferences.pairs import Message, Pair
from seqdpo.preferences.prepare import Preferences, PreparedObjective, PreparedPair
from seqdpo.runner import stage as node_stage
from seqdpo.runner.board import PlainBoard
from seqdpo.runner.extension import _new_pairs, _score, _take_over
from seqdpo.runner.rescore import rescore
from seqdpo.runner.stage import scores_of
from seqdpo.runner.study import run_study
from seqdpo.screen import Screen
from seqdpo.study.config import Study
from seqdpo.study.growth import grown, with_more_pairs
from seqdpo.study.settings import LAB

pytestmark = pytest.mark.usefixtures("base_logps_cache")

OBJECTIVES = {
    "first": {"format": "lab", "angle": 0, "n_pairs": 60, "overlap": 0.0},
    "second": {"format": "lab", "angle": 120, "n_pairs": 60, "overlap": 0.0},
}
THIRD = {"third": {"format": "lab", "angle": 60, "n_pairs": 60, "overlap": 0.0}}


def study(output_dir, **values):
    fixed = {"objectives": OBJECTIVES, "max_eval_pairs": 10, "output_dir": str(output_dir), "mechanism_pairs": 0}
    fixed |= {"orders": [["first", "second"]], "placebo": 1, "eval_fraction": 0.5, "gradient_trace_points": 0}
    return Study.model_validate(LAB | fixed | values)


@pytest.fixture
def board():
    return PlainBoard(Screen())


@pytest.fixture
def trained(monkeypatch):
    """The checkpoints that were trained since."""
    names, train = [], node_stage.train
    monkeypatch.setattr(node_stage, "train", lambda bench, node: (names.append(node.checkpoint), train(bench, node)))
    return names


def weights(folder):
    return {path.parent.parent.name: file_hash(path) for path in folder.root.glob("stages/*/adapter/*.safetensors")}


def scores(folder):
    rows = pq.read_table(folder.scores).to_pylist()
    return {(row["order"], row["checkpoint"], row["objective"], row["pair_id"]): row["chosen_logp"] for row in rows}


def test_a_run_grows_without_training_anything_again(tmp_path, board, trained):
    folder = run_study(study(tmp_path / "run"), board)
    before, old = weights(folder), scores(folder)
    assert trained == ["first", "first>second", "first>second~placebo1"]

    rescore(folder.root, 16, board)
    more = scores(folder)
    assert len(more) == 4 * 2 * 16  # base, two stages and a control stage; two objectives
    assert {key: more[key] for key in old} == old  # what was scored stays to the last bit
    whole = run_study(study(tmp_path / "whole", max_eval_pairs=16), board)
    fresh = scores(whole)
    assert fresh.keys() == more.keys()
    assert [more[key] for key in fresh] == pytest.approx(list(fresh.values()), rel=1e-4)  # sums in another order
    assert not list(folder.root.glob("stages/*/scores-*"))
    del trained[3:]

    run_study(study(tmp_path / "run"), board)  # as it was first asked for: 10 pairs
    assert scores(folder) == more
    assert trained == ["first", "first>second", "first>second~placebo1"]

    keys = {"objectives": OBJECTIVES | THIRD, "orders": [["first", "third"]], "placebo": 0}
    run_study(study(tmp_path / "run", **keys), board)
    assert trained[3:] == ["first>third", "first>third~placebo1"]  # a control stage as beside all others
    assert {key: value for key, value in weights(folder).items() if key in before} == before
    found = scores(folder)
    assert {key: found[key] for key in more} == more
    objectives = {(checkpoint, objective) for _, checkpoint, objective, _ in found}
    assert ("first>second~placebo1", "third") in objectives  # scored where no order had trained it
    cells = json.loads(folder.results.read_text())["cells"]
    assert {(cell["objective"], cell["to"]) for cell in cells} == {("first", "first>second"), ("first", "first>third")}
    assert {cell["n"] for cell in cells} == {16}


def test_an_interrupted_extension_leaves_the_run_and_goes_on(tmp_path, board, trained, monkeypatch):
    folder = run_study(study(tmp_path / "run"), board)
    kept = {path: path.read_bytes() for path in folder.root.glob("stages/*/*.*")}
    calls = []

    def killed(bench, node):
        calls.append(node)
        raise KeyboardInterrupt

    monkeypatch.setattr("seqdpo.runner.extension._take_over", killed)
    with pytest.raises(KeyboardInterrupt):
        rescore(folder.root, 14, board)
    assert {path: path.read_bytes() for path in kept} == kept
    run_study(study(tmp_path / "run"), board)  # it is still the run that it was

    def half(bench, node):
        _take_over(bench, node)
        raise KeyboardInterrupt

    monkeypatch.setattr("seqdpo.runner.extension._take_over", half)
    with pytest.raises(KeyboardInterrupt):
        rescore(folder.root, 14, board)
    monkeypatch.setattr("seqdpo.runner.extension._take_over", _take_over)
    rescore(folder.root, 14, board)
    assert len(scores(folder)) == 4 * 2 * 14
    assert len(trained) == 3
    assert np.isfinite(list(scores(folder).values())).all()


def prepared(text):
    return PreparedPair(Pair((Message("user", text),), "yes", "no"), None)


def test_responses_that_are_scored_are_not_scored_again(tmp_path, random_pairs):
    """A second objective labels the run's pairs the other way round, and compares a new response with one of them."""
    pairs = random_pairs(3, seed=1)
    again = [one._replace(chosen=one.rejected, rejected=one.chosen) for one in pairs[:2]]
    again.append(pairs[0]._replace(rejected=pairs[2].rejected))

    def objective(tokens, word):
        of = [PreparedPair(prepared(f"{word} {i}").pair, one) for i, one in enumerate(tokens)]
        return PreparedObjective([], of, 0, {})

    first, second = objective(pairs[:2], "first"), objective(again, "second")
    known = {"first": PairLogps(np.array([-1.0, -2.0]), np.array([-3.0, -4.0]))}
    write_table(tmp_path / "scores.parquet", scores_of(known, Preferences({"first": first}, {}, None)))
    asked = []

    def scored_by_base(objectives):
        asked.append({name: [one.tokens for one in of] for name, of in objectives.items()})
        return {"second": PairLogps(np.array([-1.1]), np.array([-5.0]))}

    bench = SimpleNamespace(
        folder=SimpleNamespace(stage=lambda node: tmp_path, adapter=lambda node: None),
        preferences=Preferences({"first": first, "second": second}, {}, None),
        identity={"data": "0123456789abcdef0123"},
        scored_by_base=scored_by_base,
    )
    _score(bench, None)
    assert asked == [{"second": [again[2]]}]
    found = pq.read_table(tmp_path / "scores-0123456789abcdef.parquet")
    assert found["objective"].to_pylist() == ["first"] * 2 + ["second"] * 3
    # -1.1 was scored once more, for its partner, and is the -1 that it was
    assert found["chosen_logp"].to_pylist() == [-1, -2, -3, -4, -1]
    assert found["rejected_logp"].to_pylist() == [-3, -4, -1, -2, -5]


def test_a_changed_training_pair_or_a_held_out_pair_that_goes_is_refused():
    """One more held-out pair is gained; another training pair, another order of them, or a pair less is refused."""
    train, held_out = [prepared("a"), prepared("b")], [prepared("c"), prepared("d")]

    def gained(now_train, now_eval):
        rows = [("train", one) for one in train] + [("eval", one) for one in held_out]
        before = pa.table(
            {
                "objective": ["first"] * 4,
                "split": [split for split, _ in rows],
                "pair_id": [one.pair.pair_id for _, one in rows],
            }
        )
        return _new_pairs(before, Preferences({"first": PreparedObjective(now_train, now_eval, 0, {})}, {}, None))

    assert gained(train, [prepared("e"), *held_out]) == {"first": 1}
    assert gained(train, held_out) == {}
    for other in ([*train, prepared("e")], train[::-1], [prepared("e"), train[1]]):
        with pytest.raises(ConfigError, match="its training pairs would be others"):
            gained(other, held_out)
    with pytest.raises(ConfigError, match="1 of its 2 held-out pairs would go"):
        gained(train, [held_out[0], prepared("e")])


def test_fewer_is_never_less(tmp_path):
    earlier = study(tmp_path, orders="all", seeds=[0, 3], placebo=4, max_eval_pairs=500)
    asked = study(
        tmp_path, orders=[["second", "first"]], seeds=[1], placebo=2, max_eval_pairs=20, objectives=OBJECTIVES
    )
    found = grown(asked, earlier)
    assert (found.orders, found.seeds, found.placebo, found.max_eval_pairs) == ("all", [0, 3, 1], 4, 500)
    more = grown(study(tmp_path, objectives=OBJECTIVES | THIRD, orders=[["third"]], max_eval_pairs=None), earlier)
    assert more.all_orders() == [("first", "second"), ("second", "first"), ("third",)]
    assert more.max_eval_pairs is None


def test_a_rescore_that_would_score_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="was allowed 10 of every objective"):
        with_more_pairs(study(tmp_path), 10)
    limited = study(tmp_path, objectives=OBJECTIVES | {"second": OBJECTIVES["second"] | {"max_eval_pairs": 5}})
    found = with_more_pairs(limited, 8)
    assert (found.eval_limit("first"), found.eval_limit("second")) == (10, 8)
