"""What is said of a stage before it is trained: sizes by hand, signals against plain scoring, and no trace left."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from seqdpo.analysis.preflight import came
from seqdpo.errors import ConfigError
from seqdpo.files import read_sealed
from seqdpo.measure.scores import pair_logps
from seqdpo.policy.adapters import loaded_adapter
from seqdpo.report.finished import read_run
from seqdpo.report.page import page
from seqdpo.runner.board import PlainBoard
from seqdpo.runner.preflight import run_preflight
from seqdpo.runner.preflight_signals import preflight_size, signals
from seqdpo.runner.study import prepared, run_study, study_bench
from seqdpo.screen import Screen
from seqdpo.study.checkpoints import Node

SMALL = {
    "objectives": {
        name: {"format": "lab", "angle": angle, "n_pairs": 80, "overlap": 1.0, "noise": 0.0}
        for name, angle in (("helpful", 0), ("harmless", 150))
    },
    "eval_fraction": 0.5,
    "max_length": 512,
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-3,
    "mechanism_pairs": 0,
    "gradient_trace_points": 0,
    "placebo": 1,
}
BOARD = PlainBoard(Screen())
BOTH = {"orders": [["helpful", "harmless"]]}


@pytest.fixture(autouse=True)
def own_cache_of_base_logps(tmp_path, monkeypatch):
    monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: tmp_path / "cache")


def test_the_sizes_are_what_the_share_pays_for(make_study):
    """6,000 pairs of 2 passes: 15% are 1,800. A tenth for labels of 2 passes: 90. 15% for gradients of 3: 90. A
    quarter for held-out pairs of 5 passes: 90. So far 180 + 270 + 180; 1,170 are left, 270 of them to score the
    probe's three short stages, and a step of 8 pairs takes 8 (3 x 2 + 2) = 64: 14 steps."""
    size = preflight_size(6000, 1, 2000, make_study(), share=0.15)
    assert (size.labels, size.gradient, size.held_out, size.steps) == (90, 90, 90, 14)
    assert size.units == 180 + 270 + 180 + 270 + 14 * 64
    assert size.share == pytest.approx(1796 / 12_000)


def test_of_a_short_stage_the_fewest_of_each_are_read_and_no_probe_is_made(make_study):
    size = preflight_size(40, 1, 40, make_study(), share=0.15)
    assert (size.labels, size.gradient, size.held_out, size.steps) == (16, 8, 10, 0)
    assert size.units == 16 * 2 + 8 * 3 + 2 * 10


def test_before_anything_is_trained_labels_and_power_are_told(make_study):
    found = run_preflight(make_study(**SMALL, **BOTH), BOARD)
    assert found.stages == () and found.waiting == ("helpful>harmless",)
    [conflict] = found.conflicts
    assert conflict.differing.n == 80
    # planted: angle / 180 of the labels; over 80 pairs that has an SE of 0.042
    assert conflict.differing.value == pytest.approx(150 / 180, abs=3 * 0.042)
    [power] = found.power
    assert (power.objective, power.n) == ("helpful", 40)


def test_a_stage_is_looked_at_before_it_trains_and_trains_as_if_nobody_had(make_study, tmp_path):
    plain = run_study(make_study(**SMALL, **BOTH, output_dir=str(tmp_path / "plain")), BOARD)
    run_study(make_study(**SMALL, orders=[["helpful"]]), BOARD)
    study = make_study(**SMALL, **BOTH)
    found = run_preflight(study, BOARD, share=1.0)
    [stage] = found.stages
    [helpful] = stage.earlier
    assert (stage.from_, stage.checkpoint, helpful.objective) == ("helpful", "helpful>harmless", "helpful")
    assert stage.cost.probe_steps == 1  # of 10 steps at most a tenth, and three short stages share them: 1 in all
    assert helpful.gradient is not None
    folder = run_study(study, BOARD)
    for name in ("seed0.helpful.harmless", "seed0.helpful.placebo1-harmless"):
        one, other = (
            load_file(run.root / "stages" / name / "adapter/adapter_model.safetensors") for run in (plain, folder)
        )
        assert all((one[key] == other[key]).all() for key in one)
    run = read_run(folder.root)
    assert run.preflight == found
    [row] = came(run.preflight, run.findings)
    matrix = {one.checkpoint: one.margin.value for one in run.findings.score_matrix if one.objective == "helpful"}
    kept = matrix["helpful>harmless"] / matrix["helpful"]
    assert row.kept == (kept if helpful.margin.low > 0 else None)
    assert "came: " in page(run)


def test_the_signals_are_margins_of_the_pairs_they_are_said_to_be_of(make_study):
    """Against scoring of the same pairs, by the base and by the parent, as anybody would do it."""
    run_study(make_study(**SMALL, orders=[["helpful"]]), BOARD)
    folder, inputs = prepared(make_study(**SMALL, **BOTH), BOARD)
    bench = study_bench(inputs, folder, lambda units, pairs: None, lambda text: None)
    node = Node(0, ("helpful", "harmless"))
    found = signals(bench, node, preflight_size(40, 1, 40, bench.keys, share=1.0))
    pairs = {one.pair.pair_id: one.tokens for one in inputs.preferences.objectives["harmless"].train}
    tokens = [pairs[pair_id] for pair_id in found.new.metadata["pair_id"].to_pylist()]
    held_out = inputs.preferences.objectives["helpful"].eval
    base = pair_logps(bench.base, tokens, None).difference
    base_held_out = pair_logps(bench.base, [one.tokens for one in held_out], None).difference
    with loaded_adapter(bench.base, folder.adapter(node.parent)) as policy:
        margins = pair_logps(policy, tokens, None).difference - base
        before = pair_logps(policy, [one.tokens for one in held_out], None).difference - base_held_out
    helpful = found.earlier["helpful"]
    np.testing.assert_allclose(found.new.margins, margins, atol=1e-4)  # other batches: float32's last bits
    np.testing.assert_allclose(helpful.margins, before, atol=1e-4)
    assert len(helpful.read) == len(helpful.forecast)
    for probe in helpful.probes:
        assert probe.shape == helpful.read.shape


def test_a_spoilt_file_is_set_aside_and_written_anew(make_study):
    study = make_study(**SMALL, **BOTH)
    run_preflight(study, BOARD)
    path = Path(study.output_dir, "preflight.json")
    assert read_sealed(path)["schema_version"] == 1
    path.write_text('{"schema_version": 1}')
    run_preflight(study, BOARD)
    assert read_sealed(path)["waiting"] == ["helpful>harmless"]
    assert path.with_name("preflight.json.damaged").is_file()


def test_stages_that_no_preflight_is_made_of_are_refused(make_study):
    study = make_study(**SMALL, **BOTH)
    run_preflight(study, BOARD)
    with pytest.raises(ConfigError, match="starts from 'helpful', which is not trained"):
        run_preflight(study, BOARD, ["helpful/harmless"])
    with pytest.raises(ConfigError, match="expected a later stage"):
        run_preflight(study, BOARD, ["helpful"])
    run_study(study, BOARD)
    with pytest.raises(ConfigError, match="every later stage is trained"):
        run_preflight(study, BOARD)
    assert run_preflight(study, BOARD, ["helpful/harmless"]).stages[0].objective == "harmless"
