"""Small studies of the lab, from the study file to the run folder."""

import json
import shutil
from contextlib import suppress

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from seqdpo.errors import ConfigError, DataError, RunError
from seqdpo.files import file_hash, read_sealed, write_sealed
from seqdpo.runner import stage as node_stage
from seqdpo.runner.executors import here
from seqdpo.runner.study import run_study
from seqdpo.study.config import Study
from seqdpo.study.settings import LAB
from seqdpo.tables import PATH, SCORES_SCHEMA

pytestmark = pytest.mark.usefixtures("base_logps_cache")

N_PAIRS, EVAL_PAIRS = 120, 64


class SilentBoard:
    """Keeps what it is told."""

    def __init__(self):
        self.started, self.finished, self.units = [], 0, 0.0

    def message(self, text): ...

    def begin(self, tasks):
        self.tasks = tasks

    def start(self, name, where):
        self.started.append(name)

    def advance(self, units, pairs, name=None):
        self.units += units

    def note(self, text, name): ...

    def finish(self, note, name):
        self.finished += 1

    def end(self): ...


def lab_objectives(**values):
    return {
        "first": {"format": "lab", "angle": 0, "n_pairs": N_PAIRS, "overlap": 0.5} | values,
        "second": {"format": "lab", "angle": 120, "n_pairs": N_PAIRS, "overlap": 0.5} | values,
    }


def lab_study(output_dir, **values):
    fixed = LAB | {"objectives": lab_objectives(), "max_eval_pairs": EVAL_PAIRS, "output_dir": str(output_dir)}
    # eight steps a stage have to show, and pay for the mechanism
    fixed |= {"learning_rate": 3e-3, "eval_fraction": 0.6, "mechanism_share": 8.0}
    return Study.model_validate(fixed | values)


def run(output_dir, **values):
    board = SilentBoard()
    return run_study(lab_study(output_dir, **values), board), board


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of both orders with a control stage each."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: root / "cache")
        folder, board = run(root / "run")
    return folder, board


def cells(folder, **values):
    """The records of the score matrix whose keys have these values."""
    found = json.loads(folder.results.read_text())["score_matrix"]
    return [cell for cell in found if all(cell[name] == value for name, value in values.items())]


def test_every_checkpoint_of_every_order_scores_every_pair_of_every_objective(finished):
    folder, _ = finished
    scores = pq.read_table(folder.scores)
    assert scores.schema.equals(SCORES_SCHEMA)
    # two orders, each the base, stage 1, stage 2 and its control; two objectives of EVAL_PAIRS pairs
    assert scores.num_rows == 2 * 4 * 2 * EVAL_PAIRS
    assert {(cell["order"], cell["checkpoint"]) for cell in cells(folder)} == {
        ("first>second", "base"),
        ("first>second", "first"),
        ("first>second", "first>second"),
        ("first>second", "first>second~placebo1"),
        ("second>first", "base"),
        ("second>first", "second"),
        ("second>first", "second>first"),
        ("second>first", "second>first~placebo1"),
    }
    assert all(cell["n"] == EVAL_PAIRS for cell in cells(folder))


def test_the_base_has_margin_zero_and_accuracy_one_half(finished):
    for cell in cells(finished[0], checkpoint="base"):
        assert (cell["margin"]["value"], cell["accuracy"]["value"]) == (0, 0.5)


def test_evaluation_pairs_are_no_training_pairs_of_any_objective(finished):
    pairs = pq.read_table(finished[0].pairs)
    prompts = {
        split: set(pairs.filter(pc.field("split") == split)["prompt_id"].to_pylist()) for split in ("train", "eval")
    }
    assert not prompts["train"] & prompts["eval"]
    scored = set(pq.read_table(finished[0].scores)["pair_id"].to_pylist())
    assert scored == set(pairs.filter(pc.field("split") == "eval")["pair_id"].to_pylist())


def test_a_saved_adapter_loads_with_peft_and_gives_the_logps_in_the_table(finished):
    folder, _ = finished
    config = json.loads((folder.root / "stages/seed0.first.second/adapter/adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    tokenizer = AutoTokenizer.from_pretrained(config["base_model_name_or_path"])
    policy = PeftModel.from_pretrained(base, folder.root / "stages/seed0.first.second/adapter").eval()
    scores = pq.read_table(folder.scores).filter(pc.field("checkpoint") == "first>second").to_pylist()
    texts = {row["pair_id"]: row for row in pq.read_table(folder.pairs).to_pylist() if row["split"] == "eval"}
    for row in scores[:5]:
        pair = texts[row["pair_id"]]
        for side in ("chosen", "rejected"):
            turns = [*pair["prompt"], {"role": "assistant", "content": pair[side]}]
            ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)
            with torch.no_grad():
                logps = policy(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)
            # the two ways add float32 numbers up in another order
            assert logps[pair["prompt_tokens"] - 1 :].sum().item() == pytest.approx(row[f"{side}_logp"], rel=1e-5)


def test_every_written_file_has_its_hash_in_the_manifest_or_its_node(finished):
    folder, _ = finished
    manifest = json.loads(folder.manifest.read_text())
    hashed = {folder.root / name: digest for name, digest in manifest["files"].items()}
    for node_file in folder.root.glob("stages/*/node.json"):
        node = json.loads(node_file.read_text())
        hashed |= {node_file.parent / name: digest for name, digest in node["files"].items()}
    for path, digest in hashed.items():
        assert file_hash(path) == digest
    own = {folder.manifest, folder.events, folder.root / ".lock", *folder.root.glob("stages/*/node.json")}
    own |= set(folder.root.glob("logs/*"))
    assert {path for path in folder.root.rglob("*") if path.is_file()} == own | set(hashed)


def test_a_node_says_what_it_is(finished):
    node = json.loads((finished[0].root / "stages/seed0.first.placebo1-second/node.json").read_text())
    assert (node["checkpoint"], node["objective"], node["placebo"]) == ("first>second~placebo1", "second", 1)
    assert (node["parent"], node["reference"], node["seed"], node["stage"]) == ("first", "base", 0, 2)


def test_the_board_hears_of_all_the_work(finished):
    board = finished[1]
    assert len(board.started) == board.finished == len(board.tasks) == 7
    assert board.units == pytest.approx(sum(task.units for task in board.tasks))


def test_dropped_and_kept_pairs_make_those_read(finished):
    for account in json.loads(finished[0].dropped.read_text()).values():
        assert account["read"] == N_PAIRS
        assert account["train"] + account["eval"] + sum(account["dropped"].values()) == N_PAIRS


def test_the_same_study_gives_the_same_bytes_with_a_cold_and_a_warm_cache(finished, tmp_path):
    cold, _ = run(tmp_path / "cold")
    warm, _ = run(tmp_path / "warm")
    assert cold.scores.read_bytes() == warm.scores.read_bytes() == finished[0].scores.read_bytes()


def test_an_interrupted_run_goes_on_after_the_last_finished_stage(finished, tmp_path, monkeypatch):
    trained = []
    train_stage = node_stage.train_stage

    def interrupted(*args):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(None)
        return train_stage(*args)

    monkeypatch.setattr(node_stage, "train_stage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    done = {path.parent.name for path in (tmp_path / "run").glob("stages/*/node.json")}
    assert done == {"base", "seed0.first", "seed0.first.second"}
    assert not (tmp_path / "run/results.json").exists()
    assert not list((tmp_path / "run").rglob("*.tmp"))
    monkeypatch.setattr(node_stage, "train_stage", train_stage)
    folder, board = run(tmp_path / "run")
    assert board.started == [
        "first>second~placebo1 (seed 0)",
        "second (seed 0)",
        "second>first (seed 0)",
        "second>first~placebo1 (seed 0)",
    ]
    assert folder.scores.read_bytes() == finished[0].scores.read_bytes()
    events = [json.loads(line)["event"] for line in folder.events.read_text().splitlines()]
    assert events.count("interrupted") == 1
    assert events[-1] == "run_done"


def test_a_stage_that_was_trained_but_not_measured_is_not_trained_again(finished, tmp_path, monkeypatch):
    measure = node_stage.measure

    def interrupted(bench, node):
        if node.path == ("first", "second"):
            raise KeyboardInterrupt
        measure(bench, node)

    monkeypatch.setattr(node_stage, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", orders=[["first", "second"]])
    monkeypatch.setattr(node_stage, "measure", measure)
    trained = []
    train = node_stage.train
    monkeypatch.setattr(node_stage, "train", lambda bench, node: (trained.append(node.checkpoint), train(bench, node)))
    folder, _ = run(tmp_path / "run", orders=[["first", "second"]])
    assert trained == ["first>second~placebo1"]
    adapter = "stages/seed0.first.second/adapter/adapter_model.safetensors"
    assert file_hash(folder.root / adapter) == file_hash(finished[0].root / adapter)


def test_a_finished_run_trains_nothing_again_and_may_grow(finished, tmp_path):
    shutil.copytree(finished[0].root, tmp_path / "run")
    _, again = run(tmp_path / "run")
    assert again.started == []
    folder, grown = run(tmp_path / "run", placebo=2)
    assert grown.started == ["first>second~placebo2 (seed 0)", "second>first~placebo2 (seed 0)"]
    old, new = cells(finished[0]), cells(folder)
    assert [cell for cell in new if cell["placebo"] < 2] == old


def test_a_finished_run_loads_no_model(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0].root, tmp_path / "run")
    for name in ("scores.parquet", "results.json", "study.yaml", "data/pairs.parquet"):
        (tmp_path / "run" / name).unlink()
    monkeypatch.delattr("seqdpo.runner.bench.load_model")
    folder, _ = run(tmp_path / "run")
    for name in ("scores.parquet", "results.json", "data/pairs.parquet"):
        assert file_hash(folder.root / name) == file_hash(finished[0].root / name)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"beta": 0.1}, r"beta = 0.1 here; 0.3 there"),
        ({"objectives": lab_objectives(noise=0.0)}, r"objectives.first.noise = 0.0 here; 0.25 there"),
    ],
)
def test_another_study_in_the_same_folder_is_refused(finished, values, expected):
    before = file_hash(finished[0].study)
    with pytest.raises(ConfigError, match=expected):
        run(finished[0].root, **values)
    assert file_hash(finished[0].study) == before


@pytest.mark.parametrize(
    ("spoilt", "trained"),
    [("adapter/adapter_model.safetensors", ["first"]), ("scores.parquet", []), ("node.json", []), (None, ["first"])],
)
def test_what_is_spoilt_of_a_stage_is_set_aside_and_computed_again(finished, tmp_path, spoilt, trained, monkeypatch):
    """Its children stay: trained again, the stage leaves the very bytes that they were trained from."""
    shutil.copytree(finished[0].root, tmp_path / "run")
    stage = tmp_path / "run/stages/seed0.first"
    if spoilt is None:
        shutil.rmtree(stage)
    else:
        (stage / spoilt).write_bytes((stage / spoilt).read_bytes()[:-1] + b"!")
    again = []
    train = node_stage.train
    monkeypatch.setattr(node_stage, "train", lambda bench, node: (again.append(node.checkpoint), train(bench, node)))
    folder, board = run(tmp_path / "run")
    assert board.started == ["first (seed 0)"]
    assert again == trained
    assert folder.scores.read_bytes() == finished[0].scores.read_bytes()
    aside = {path.name for path in folder.root.rglob("*.damaged")}
    assert len(aside) == (0 if spoilt is None else 1)


@pytest.mark.parametrize(
    ("name", "content"), [("manifest.json", '{"identity": '), ("study.yaml", "beta: ["), ("study.yaml", None)]
)
def test_a_spoilt_record_of_the_run_is_written_anew_and_the_stages_stay(finished, tmp_path, name, content):
    shutil.copytree(finished[0].root, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    if content is not None:
        (tmp_path / "run" / name).write_text(content)
    folder, board = run(tmp_path / "run")
    assert board.started == []
    assert folder.scores.read_bytes() == finished[0].scores.read_bytes()
    identity = json.loads(finished[0].manifest.read_text())["identity"]
    assert json.loads(folder.manifest.read_text())["identity"] == identity


def test_a_folder_of_a_stage_without_a_record_is_kept_beside_the_stage(finished, tmp_path):
    shutil.copytree(finished[0].root, tmp_path / "run")
    stage = tmp_path / "run/stages/seed0.second.first"
    (stage / "node.json").unlink()
    (stage / "trained.json").unlink()
    folder, board = run(tmp_path / "run")
    assert board.started == ["second>first (seed 0)"]
    assert (folder.root / "stages/seed0.second.first.damaged/adapter/adapter_model.safetensors").is_file()
    assert folder.scores.read_bytes() == finished[0].scores.read_bytes()


def test_stages_that_changed_places_are_refused_by_name(finished, tmp_path):
    shutil.copytree(finished[0].root, tmp_path / "run")
    stages = tmp_path / "run/stages"
    (stages / "seed0.first.second").rename(stages / "away")
    (stages / "seed0.first.placebo1-second").rename(stages / "seed0.first.second")
    (stages / "away").rename(stages / "seed0.first.placebo1-second")
    with pytest.raises(DataError, match=r"is of 'first>second~placebo1' of seed 0; expected 'first>second' of seed 0"):
        run(tmp_path / "run")


def test_a_stage_of_other_keys_is_refused_by_name(finished, tmp_path):
    other, _ = run(tmp_path / "other", learning_rate=1e-3, orders=[["first"]])
    shutil.copytree(finished[0].root, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/stages/seed0.first")
    shutil.copytree(other.root / "stages/seed0.first", tmp_path / "run/stages/seed0.first")
    with pytest.raises(DataError, match=r"seed0.first/node.json: keys = .*the stage is of another study"):
        run(tmp_path / "run")


def test_a_base_of_another_study_is_refused_by_name(finished, tmp_path):
    shutil.copytree(finished[0].root, tmp_path / "run")
    record = tmp_path / "run/stages/base/node.json"
    values = read_sealed(record)
    write_sealed(record, values | {"identity": values["identity"] | {"keys": "0" * 16}})
    with pytest.raises(DataError, match=r"stages/base/node.json: keys = 0+; .*Move .*stages/base away and run again"):
        run(tmp_path / "run")


def test_a_stage_trained_from_another_checkpoint_is_refused(finished, tmp_path):
    shutil.copytree(finished[0].root, tmp_path / "run")
    record = tmp_path / "run/stages/seed0.first.second/node.json"
    write_sealed(record, read_sealed(record) | {"parent_adapter": "0" * 64})
    with pytest.raises(DataError, match=r"seed0.first.second: was trained from another checkpoint"):
        run(tmp_path / "run")


def test_a_study_corrected_before_its_first_stage_was_done_is_accepted(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0].root, tmp_path / "run")
    for stage in (tmp_path / "run/stages").glob("seed*"):
        shutil.rmtree(stage)
    monkeypatch.setattr(here, "execute", lambda bench, left, board: board.begin(left))
    with suppress(DataError, ConfigError):
        run(tmp_path / "run", learning_rate=1e-3, orders=[["first"]])
    assert "learning_rate: 0.001" in (tmp_path / "run/study.yaml").read_text()
    assert not (tmp_path / "run/stages/base/node.json").exists()


@pytest.mark.parametrize("spoil", [b"[1, 2]", b"", None])
@pytest.mark.parametrize("name", ["study.yaml", "manifest.json"])
def test_a_spoilt_study_or_manifest_is_written_anew_and_the_stages_stay(finished, tmp_path, name, spoil):
    shutil.copytree(finished[0].root, tmp_path / "run")
    path = tmp_path / "run" / name
    if spoil is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(spoil)
    folder, board = run(tmp_path / "run")
    assert board.started == []
    assert folder.results.read_bytes() == finished[0].results.read_bytes()
    kept, before = read_sealed(folder.manifest), read_sealed(finished[0].manifest)
    assert {**kept, "files": {}} == {**before, "files": {}}


def test_a_failed_stage_leaves_no_folder_and_names_the_log(tmp_path):
    with pytest.raises(RunError, match=r"step \d+: loss = nan(.|\n)*events.jsonl"):
        run(tmp_path / "run", learning_rate=1e30, max_grad_norm=0)
    assert [path.name for path in (tmp_path / "run/stages").iterdir()] == ["base"]
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "run_failed"


def test_the_reference_previous_starts_each_stage_at_log_two(tmp_path):
    folder, _ = run(tmp_path / "run", reference="previous", orders=[["first", "second"]], placebo=0)
    for stage in ("seed0.first", "seed0.first.second"):
        first_step = pq.read_table(folder.root / "stages" / stage / "train.parquet").to_pylist()[0]
        assert first_step["loss"] == pytest.approx(np.log(2), abs=1e-5)  # policy and reference are the same
    node = json.loads((folder.root / "stages/seed0.first.second/node.json").read_text())
    assert node["reference"] == "first"


def test_with_the_base_as_reference_a_later_stage_starts_from_what_was_learned(finished):
    steps = pq.read_table(finished[0].root / "stages/seed0.first.second/train.parquet").to_pylist()
    assert abs(steps[0]["loss"] - np.log(2)) > 0.01
    assert steps[0]["reward_margin"] != 0


@pytest.mark.parametrize("adapter_mode", ["new_on_merged", "stack"])
def test_a_new_adapter_on_an_earlier_one_is_saved_as_one_that_stands_on_the_base(tmp_path, adapter_mode, finished):
    folder, _ = run(tmp_path / "run", adapter_mode=adapter_mode, orders=[["first", "second"]], placebo=0)
    config = json.loads((folder.root / "stages/seed0.first.second/adapter/adapter_config.json").read_text())
    assert config["r"] == 2 * LAB["lora_r"]
    [cell] = cells(folder, checkpoint="first>second", objective="first")
    [continued] = cells(finished[0], checkpoint="first>second", objective="first")
    assert cell["margin"] != continued["margin"]


def test_seeds_give_other_adapters_and_the_same_pairs(tmp_path):
    folder, _ = run(tmp_path / "run", seeds=[0, 1], orders=[["first"]])
    first, second = (cells(folder, seed=seed, checkpoint="first", objective="first")[0] for seed in (0, 1))
    assert first["margin"] != second["margin"]
    scores = pq.read_table(folder.scores)
    ids = [scores.filter(pc.field("seed") == seed)["pair_id"].to_pylist() for seed in (0, 1)]
    assert ids[0] == ids[1]


def test_an_objective_outside_all_orders_is_evaluated_all_the_same(tmp_path):
    folder, _ = run(tmp_path / "run", orders=[["first"]])
    assert {cell["objective"] for cell in cells(folder)} == {"first", "second"}


def test_nothing_is_written_when_the_input_is_wrong(tmp_path):
    with suppress(ConfigError):
        run(tmp_path / "run", max_length=100_000)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["lab-conflict", "lab-compatible"])
def test_the_direction_of_the_planted_angle_shows_in_the_earlier_objective(tmp_path, setting):
    values = {"setting": setting, "max_eval_pairs": 300, "placebo": 0, "mechanism_pairs": 0, "gradient_trace_points": 0}
    order = {"lab-conflict": ["helpful", "harmless"], "lab-compatible": ["helpfulness", "honesty"]}[setting]
    study = Study.model_validate(LAB | values | {"orders": [order], "output_dir": str(tmp_path / "run")})
    folder = run_study(study, SilentBoard())
    after_first, after_second = (cells(folder, stage=stage, objective=order[0])[0] for stage in (1, 2))
    assert after_first["accuracy"]["value"] > 0.75
    change = after_second["margin"]["value"] - after_first["margin"]["value"]
    # at 150 degrees the second objective's gradient points against the first's, at 30 degrees along with it
    assert (change < -1) if setting == "lab-conflict" else (change > 0)


TRACED = ((0, ""), (1, "~placebo1"))


def test_mechanism_of_every_stage(finished):
    """Gradients of later stages and of one control stage beside each, KL and forecast of all, the path of real ones."""
    folder = finished[0]
    function = pq.read_table(folder.kl_and_path).to_pylist()
    stages = {(row["checkpoint"], row["placebo"]) for row in pq.read_table(folder.movement).to_pylist()}
    assert {(row["checkpoint"], row["placebo"]) for row in function} == stages
    for row in function:
        assert row["chosen_kl"] >= -1e-6
        assert (row["path_chosen_logp"] is None) == bool(row["placebo"])
    real = next(row for row in function if not row["placebo"] and row["parent"] != "base")
    scores = {
        (row["checkpoint"], row["pair_id"]): row["chosen_logp"] for row in pq.read_table(folder.scores).to_pylist()
    }
    first = next(row for row in function if row["parent"] == "base")
    for row in (first, real):  # both ends of the path are known from the scores
        assert row["path_chosen_logp"][PATH.index(0.0)] == scores[row["parent"], row["pair_id"]]
        assert row["path_chosen_logp"][PATH.index(1.0)] == scores[row["checkpoint"], row["pair_id"]]
    traced = {(row["checkpoint"], row["placebo"]) for row in pq.read_table(folder.gradients).to_pylist()}
    assert traced == {(f"{name}{control}", k) for name in ("first>second", "second>first") for k, control in TRACED}
    found = json.loads(folder.results.read_text())["mechanism"]
    assert {(one["to"], one["placebo"]) for one in found["kl_and_path"]} == stages
    assert len(found["movement"]) == len(stages)


def test_a_study_with_another_loss_that_weighs_tokens(tmp_path):
    """Its gradients are traced against references that weigh tokens; what the account asks for, the scores lack."""
    keys = {"loss_type": "ipo", "ld_alpha": 0.5, "beta": 1.0, "reference": "previous", "orders": [["first", "second"]]}
    folder, _ = run(tmp_path / "run", **keys)
    found = json.loads(folder.results.read_text())
    assert found["study"]["loss_type"] == "ipo"
    real, control = found["mechanism"]["gradients"]
    assert (real["placebo"], control["placebo"]) == (0, 1)
    for record in (real, control):
        assert record["account"]["predicted"]["value"] is not None
        assert record["account"]["actual"]["value"] is None
        assert record["account"]["statement"] == "unresolved"
    notes = [json.loads(path.read_text())["notes"] for path in sorted(folder.root.glob("stages/seed*/node.json"))]
    assert [bool(of) for of in notes] == [False, True, False]  # first, its placebo of second, second
    # the loss of the first step: policy is reference, so log-ratios are 0 and the loss (0 - 1 / (2 beta))^2
    for path in folder.root.glob("stages/seed*/train.parquet"):
        assert pq.read_table(path)["loss"][0].as_py() == pytest.approx(0.25, abs=1e-5)


def test_movement_has_every_stage_once_and_starts_where_the_stage_did(finished):
    rows = pq.read_table(finished[0].movement).to_pylist()
    whole = {row["checkpoint"]: row for row in rows if row["module"] == "(all)"}
    assert set(whole) == {
        *("first", "first>second", "first>second~placebo1", "second", "second>first", "second>first~placebo1"),
    }
    assert whole["first"]["previous_norm"] is None
    for control in ("", "~placebo1"):
        row = whole[f"first>second{control}"]
        assert row["parent"] == "first"
        assert row["previous_norm"] == pytest.approx(whole["first"]["new_norm"])
        assert row["update_norm"] > 0
    modules = [row for row in rows if row["checkpoint"] == "first" and row["module"] != "(all)"]
    assert len(modules) == 4 * 7  # layers of the lab's model, linear layers in each
    assert sum(row["share_of_update"] for row in modules) == pytest.approx(1)
    assert all(row["weight_norm"] > 0 for row in modules)
