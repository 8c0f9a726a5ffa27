"""A small study with variants, from the study file to the run folder: what each stage was made of."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from peft import PeftModel
from test_run_study import EVAL_PAIRS, SilentBoard, lab_study

from seqdpo.errors import ArgumentError, ConfigError, DataError
from seqdpo.files import file_hash, read_sealed
from seqdpo.runner import remedies
from seqdpo.runner.bench import Bench
from seqdpo.runner.export import export
from seqdpo.runner.plan_formats import plan_make
from seqdpo.runner.schedule import Frontier
from seqdpo.runner.study import read_inputs, run_study, study_bench
from seqdpo.runner.work import Work, learning_work
from seqdpo.study.checkpoints import Node
from seqdpo.study.tree import stage_tree

VARIANTS = {
    "nothing": {"replay": 0.0, "ewc": 0.0, "l2_to_previous": 0.0, "project": False},
    "spo": {"reference": "spo", "spo_weight": 0.5},
    "all": {"replay": 0.3, "ewc": 50, "ewc_pairs": 8, "l2_to_previous": 0.1, "project": True},
    "half": {"interpolate": 0.5},
    "joint": {"joint": True},
}
FIRST, LATER = Node(0, ("first",)), Node(0, ("first", "second"))


def study(output_dir, **values):
    fixed = {"orders": [["first", "second"]], "variants": VARIANTS, "gradient_trace_points": 0, "mechanism_pairs": 0}
    return lab_study(output_dir, **fixed | values)


def of(name, placebo=0):
    return Node(0, LATER.path, placebo, name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: root / "cache")
        yield run_study(study(root / "run"), SilentBoard())


@pytest.fixture
def bench(finished) -> Bench:
    inputs = read_inputs(study(finished.root), lambda text: None)
    return study_bench(inputs, finished, lambda units, pairs: None, lambda text: None)


def record(folder, node):
    return read_sealed(folder.stage(node) / "node.json")


def weights(folder, node):
    return file_hash(folder.adapter(node) / "adapter_model.safetensors")


def test_every_variant_scores_every_pair_under_an_order_of_its_own(finished):
    scores = pq.read_table(finished.scores)
    counts = {name: scores["order"].to_pylist().count(name) for name in dict.fromkeys(scores["order"].to_pylist())}
    # base, first stage, later stage and its control, both objectives; of the joint stage the base and itself
    of_order = 4 * 2 * EVAL_PAIRS
    assert counts == {
        "first>second": of_order,
        "first+second": 2 * 2 * EVAL_PAIRS,
        **{f"first>second@{name}": of_order for name in ("nothing", "spo", "all", "half")},
    }


def test_remedies_of_no_strength_leave_the_stage_and_its_control_bit_for_bit(finished):
    for placebo in (0, 1):
        assert weights(finished, of("nothing", placebo)) == weights(finished, Node(0, LATER.path, placebo))
    assert len({weights(finished, of(name)) for name in ("", "spo", "all", "half")}) == 4


def test_spo_adds_the_way_that_the_previous_checkpoint_went(finished, bench):
    """Nats of each response: previous + 0.5 * (previous - base)."""
    pairs = remedies.own_pairs(bench, of("spo"))
    previous, base = bench.train_logps(FIRST, "second"), bench.train_logps(None, "second")
    for found, at_previous, at_base in zip(pairs.reference, previous, base, strict=True):
        np.testing.assert_allclose(found, 1.5 * at_previous - 0.5 * at_base, rtol=1e-12)
    assert np.abs(previous.chosen - base.chosen).max() > 0.1
    assert (
        remedies.own_pairs(bench, FIRST).reference_chosen.tolist() == bench.train_logps(None, "first").chosen.tolist()
    )


def test_a_joint_stage_trains_on_all_pairs_once(finished, bench):
    joint = Node(0, ("first+second",))
    n = [len(bench.preferences.objectives[name].train) for name in LATER.path]
    assert remedies.own_pairs(bench, joint).n_pairs == sum(n)
    steps = pq.read_table(finished.stage(joint) / "train.parquet")
    assert sum(steps["n_pairs"].to_pylist()) == sum(n)


def test_passes_by_hand(finished, bench):
    """n pairs a stage and an epoch; the reference of spo reads them under the previous checkpoint, as a control stage
    does for its labels; projecting reads as many again, the Fisher information eight; nothing is read for a mean."""
    n = len(bench.preferences.objectives["second"].train)
    expected = {
        LATER: Work(n, 0),
        Node(0, LATER.path, 1): Work(n, n),
        of("spo"): Work(n, n),
        of("spo", 1): Work(n, n),
        of("all"): Work(2 * n + 8, 0),
        of("half"): Work(0, 0),
    }
    for node, work in expected.items():
        assert learning_work(node, bench.preferences, bench.keys, bench.variants) == work
        assert record(finished, node)["passes"] == work._asdict()


def test_a_record_names_its_variant_and_what_it_was_made_of(finished):
    found = record(finished, of("half", 1))
    assert (found["variant"], found["checkpoint"]) == ("half", "first>second@half~placebo1")
    assert found["parent_adapter"] == weights(finished, FIRST)
    assert found["plain_adapter"] == weights(finished, Node(0, LATER.path, 1))
    assert "variant" not in record(finished, LATER)
    assert "variant" not in record(finished, LATER)["identity"]
    assert "variants" not in found["identity"]


def test_results_have_the_variants_beside_each_other(finished):
    (found,) = json.loads(finished.results.read_text())["variants"]
    assert [one["variant"] for one in found["outcomes"]] == ["plain", *VARIANTS]
    by_name = {one["variant"]: one for one in found["outcomes"]}
    nothing = by_name["nothing"]
    assert nothing["kept"][0]["minus_plain"]["value"] == nothing["learned"]["minus_plain"]["value"] == 0
    assert by_name["plain"]["learned"]["value"] == 1
    first, later = (record(finished, node)["passes"]["trained"] for node in (FIRST, LATER))
    trained = {name: one["cost"]["trained_pairs"] for name, one in by_name.items()}
    assert trained["plain"] == trained["half"] == trained["joint"] == first + later
    assert trained["all"] == first + 2 * later + 8


def test_a_run_gets_a_variant_more_without_training_again(finished, monkeypatch):
    before = weights(finished, LATER)
    board = SilentBoard()
    monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: finished.root / "cache")
    run_study(study(finished.root, variants={"quarter": {"interpolate": 0.25}}), board)
    assert board.started == ["first>second@quarter (seed 0)", "first>second@quarter~placebo1 (seed 0)"]
    assert weights(finished, LATER) == before
    orders = set(pq.read_table(finished.scores)["order"].to_pylist())
    assert {"first>second@quarter", "first>second@spo"} < orders


def test_other_keys_under_a_variants_name_are_refused(finished):
    with pytest.raises(ConfigError, match=r"variants.spo.spo_weight = 0.7 here; 0.5 there"):
        run_study(study(finished.root, variants={"spo": {"reference": "spo", "spo_weight": 0.7}}), SilentBoard())


def test_nothing_runs_before_all_that_it_is_made_of():
    some = study("x")
    left = stage_tree(some)
    frontier = Frontier(left, some.variants)
    assert frontier.take(99) == [FIRST, Node(0, ("first+second",))]
    frontier.done(FIRST)
    ready = frontier.take(99)
    assert of("half") not in ready and of("spo") in ready and LATER in ready
    frontier.done(LATER)
    assert frontier.take(99) == [of("half")]  # its control stage waits for the plain one


def test_make_knows_what_a_stage_is_made_of():
    lines = plan_make(study("x"), "x", ["study.yaml"]).splitlines()
    assert "seed0.first.second@half: seed0.first seed0.first.second" in lines
    assert "seed0.first.second@spo: seed0.first" in lines


# export


@pytest.mark.parametrize(
    ("variant", "order", "node"),
    [
        ("plain", None, LATER),
        ("spo", "first>second", of("spo")),
        ("half", "first>second@half", of("half")),
        ("joint", "first>second", Node(0, ("first+second",))),
    ],
)
def test_the_end_of_the_order_is_written(variant, order, node, finished, tmp_path):
    written = export(finished.root, tmp_path / "out" / "adapter", variant, order)
    assert written.node == node
    assert file_hash(tmp_path / "out" / "adapter" / "adapter_model.safetensors") == weights(finished, node)
    assert f"# {node.checkpoint}, seed 0" in (tmp_path / "out" / "adapter" / "README.md").read_text()


def test_it_loads_as_its_readme_says_and_is_the_interpolated_policy(finished, tmp_path):
    lines = export(finished.root, tmp_path / "half", "half").lines
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    assert isinstance(names["policy"], PeftModel)
    assert names["policy"].peft_config["default"].r == 2 * 16  # both checkpoints along the rank


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"variant": "hafl"},
            "expected one of 'plain', 'nothing', 'spo', 'all', 'half', 'joint'.* Did you mean 'half'?",
        ),
        ({"variant": "half", "order": "second>first"}, "'second>first': expected one of 'first>second@half'"),
        ({"variant": "half", "seed": 3}, "seed = 3: not in this run; expected one of 0"),
    ],
)
def test_what_the_run_does_not_have_is_refused(arguments, expected, finished, tmp_path):
    with pytest.raises(ArgumentError, match=expected):
        export(finished.root, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_touched(finished, tmp_path):
    with pytest.raises(ArgumentError, match="is there already; expected a new folder"):
        export(finished.root, tmp_path, "half")


def test_a_spoilt_adapter_is_not_handed_on(finished, tmp_path):
    file = finished.stage(of("half", 1)).parent / of("half").folder / "adapter" / "adapter_config.json"
    kept = file.read_bytes()
    try:
        file.write_bytes(kept + b" ")
        with pytest.raises(DataError, match="checksum"):
            export(finished.root, tmp_path / "out", "half")
    finally:
        file.write_bytes(kept)
    assert not (tmp_path / "out").exists()
