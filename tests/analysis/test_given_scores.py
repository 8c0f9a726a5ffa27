"""Scores from elsewhere: the same findings as of a run, and one clear error for a row that is wrong."""

import json

import pyarrow.parquet as pq
import pytest

from run_folders import pair, write_run
from seqdpo.analysis.given_scores import given_scores
from seqdpo.analysis.results import results
from seqdpo.errors import DataError
from seqdpo.report.finished import read_run

ORDERS = ("helpful>harmless", "harmless>helpful")
N = 12
MARGINS = {
    (order, stage, control): [base + 0.1 * i for i in range(N)]
    for order in ORDERS
    for stage, control, base in ((1, 0, 2.0), (2, 0, 0.5), (2, 1, 1.5))
}


def row(checkpoint, pair_id="a", chosen=-1.0, rejected=-2.0, **more):
    return {
        "objective": "helpful",
        "checkpoint": checkpoint,
        "pair_id": pair_id,
        "chosen_logp": chosen,
        "rejected_logp": rejected,
        "chosen_tokens": 3,
        "rejected_tokens": 2,
        **more,
    }


@pytest.fixture
def run(tmp_path):
    pairs = {name: [pair(f"{name}{i}", f"prompt {i // 2}") for i in range(N)] for name in ("helpful", "harmless")}
    return write_run(tmp_path / "run", pairs, dict.fromkeys(pairs, MARGINS))


def test_scores_of_a_run_give_the_findings_of_that_run(run):
    scores, pairs = pq.read_table(run / "scores.parquet"), pq.read_table(run / "data/pairs.parquet")
    prompts = dict(zip(pairs["pair_id"].to_pylist(), pairs["prompt_id"].to_pylist(), strict=True))
    rows = [one | {"prompt_id": prompts[one["pair_id"]]} for one in scores.to_pylist()]
    given = given_scores(rows, "s.jsonl")
    ours, theirs = results(scores, pairs, 0.3), results(given.scores, given.pairs, 0.3)
    assert theirs.cells == ours.cells
    assert theirs.score_matrix == ours.score_matrix
    assert theirs.orders == ours.orders
    assert theirs.transfer == ours.transfer


def test_a_checkpoint_that_two_orders_share_stands_under_both():
    given = given_scores([row(name) for name in ("base", "a", "a/b", "a>c", "a>c~placebo1")], "s")
    found = list(zip(*(given.scores[name].to_pylist() for name in ("order", "stage", "placebo")), strict=True))
    assert found == [("a>b", 0, 0), ("a>b", 1, 0), ("a>b", 2, 0)] + [
        ("a>c", stage, placebo) for stage, placebo in ((0, 0), (1, 0), (2, 0), (2, 1))
    ]


def test_the_base_in_columns_is_the_base_in_rows():
    rows = [row("base", chosen=-3.0, rejected=-4.0), row("helpful", prompt="why?", topic="tea")]
    columns = [row("helpful", base_chosen_logp=-3.0, base_rejected_logp=-4.0)]
    of_rows, of_columns = given_scores(rows, "s"), given_scores(columns, "s")
    names = ["checkpoint", "base_chosen_logp", "base_rejected_logp", "chosen_logp"]
    assert of_rows.scores.select(names).equals(of_columns.scores.select(names))
    assert of_columns.scores["base_rejected_logp"].to_pylist() == [-4.0, -4.0]


def test_texts_and_slices_of_a_pair_are_kept_wherever_they_stand():
    bare = row("base")
    rows = [bare, row("helpful", prompt="why?", topic="tea") | {"chosen": "yes"}]
    [found] = given_scores(rows, "s").pairs.to_pylist()
    assert found["prompt"] == [{"role": "user", "content": "why?"}]
    assert (found["chosen"], found["slice_topic"], found["prompt_id"]) == ("yes", "tea", "a")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"objective": "x"}], "row 1: no checkpoint; expected objective, checkpoint, pair_id"),
        (
            [{"chosen_lp": 1, **row("base")} | {}, {**row("a"), "chosen_logp": None}],
            "row 2: chosen_logp = None; expected",
        ),
        ([row("base"), row("a", chosen=0.5)], "row 2: chosen_logp = 0.5; expected a sum of log-probabilities in nats"),
        ([row("base"), row("a", chosen=float("nan"))], "row 2: chosen_logp = nan"),
        ([row("base"), row("a"), row("a", chosen=-9)], "row 3: pair 'a' stands twice at 'a', with other numbers"),
        ([row("base"), row("a", "b")], "nothing of the base on pair 'b'"),
        ([row("base"), row("base", "b"), row("a")], "checkpoint 'a' .* has 1 of 2 pairs, not 'b'"),
        ([row("base"), row("a>b")], "checkpoint 'a>b' .* is there, 'a' is not; expected every checkpoint on the way"),
        ([row("base"), row("a"), row("a>b~placebo1")], "'a>b' is not"),
        ([row("base"), row("a~placebox")], "row 2: 'a~placebox' is no name of a checkpoint"),
        ([row("base"), row("a>>b")], "row 2: checkpoint = 'a>>b'; expected 'base', or objectives"),
        ([row("base")], "no checkpoint but the base"),
        ([row("base"), row("a", base_chosen_logp=-1)], "base_chosen_logp without the other"),
        ([row("base"), row("a", seed=0.5)], "seed = 0.5; expected a whole number from 0"),
        ([row("base"), row("a", chosen_tokens=4)], "row 2: the tokens of 'a' are not those of an earlier row"),
        ([row("base", chosen_tokens=None)], "row 1: chosen_tokens = None; expected a whole number from 1"),
        ([row("base", prompt=[1])], r"prompt = \[1\]; expected text, or messages"),
    ],
)
def test_a_row_that_is_wrong_is_named(rows, message):
    with pytest.raises(DataError, match=message) as raised:
        given_scores(rows, "s")
    assert str(raised.value).startswith("s")


# The command


def test_analyse_scores_makes_a_run_that_the_other_commands_read(tmp_path, run, seqdpo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = pq.read_table(run / "scores.parquet").to_pylist()
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    code, out, err = seqdpo("analyse", "--scores", "mine.jsonl")
    assert code == 0, err
    assert "Wrote runs/mine/report.html" in out
    assert read_run("runs/mine").findings.cells[0].n == N
    assert not (tmp_path / "runs/mine/report.md").exists()
    assert seqdpo("gate", "runs/mine", "--max-loss", 0.05)[0] == 1  # 1.5 of 2 nats are gone
    assert seqdpo("pairs", "runs/mine", "--objective", "helpful")[0] == 0
    assert seqdpo("report", "runs/mine")[0] == 0
    code, _, err = seqdpo("analyse", "runs/mine")
    assert (code, "Analyse them again: seqdpo analyse --scores FILE" in err) == (2, True)
    code, _, err = seqdpo("generate", "runs/mine")
    assert (code, "Analyse them again: seqdpo analyse --scores FILE" in err) == (2, True)
    code, _, err = seqdpo("analyse", "--scores", "mine.jsonl")
    assert (code, "runs/mine: exists already" in err) == (2, True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.jsonl", "{no json", "s.jsonl"),
        ("s.jsonl", "", "s.jsonl: 0 rows"),
        ("s.csv", "a,b\n", "expected a file named .jsonl, .jsonl.gz, .parquet"),
        ("s.parquet", "no parquet", "not Parquet, or damaged"),
        ("s.jsonl", json.dumps(row("base")), "no checkpoint but the base"),
    ],
)
def test_a_file_that_is_wrong_leaves_nothing_behind(tmp_path, seqdpo, name, content, message):
    (tmp_path / name).write_text(content)
    code, out, err = seqdpo("analyse", "--scores", tmp_path / name, "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == [name]
