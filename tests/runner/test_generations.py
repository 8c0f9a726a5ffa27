"""What checkpoints answer, by a loop over plain transformers; and a judge's verdicts, counted by hand."""

import json
import shutil
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import seqdpo as package
from seqdpo.analysis.generations import Answers, count_answers, looks_like_refusal, win_rate
from seqdpo.errors import ArgumentError, ConfigError, DataError
from seqdpo.report.finished import read_run
from seqdpo.runner import judge
from seqdpo.runner.generations import generate
from seqdpo.study.config import Study
from seqdpo.study.settings import LAB
from seqdpo.tables import GENERATIONS_SCHEMA

N = 3


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A small run of the lab with a control stage; its study asks for the answers."""
    root = tmp_path_factory.mktemp("answers")
    objectives = {name: {"format": "lab", "angle": angle, "n_pairs": 40} for name, angle in (("one", 0), ("two", 90))}
    given = {"objectives": objectives, "orders": [["one", "two"]], "placebo": 1, "output_dir": str(root / "run")}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: root / "cache")
        study = Study.model_validate(LAB | given | {"mechanism_share": 0.01, "learning_rate": 3e-3, "generate": N})
        return package.run(study)


def greedy(model, ids, limit, end):
    """The likeliest next token of the whole text so far, read anew each time."""
    text = list(ids)
    while len(text) < len(ids) + limit:
        with torch.no_grad():
            best = int(model(torch.tensor([text]), use_cache=False).logits[0, -1].argmax())
        if best == end:
            break
        text.append(best)
    return text[len(ids) :]


def test_answers_are_those_of_a_loop_over_plain_transformers(answered):
    config = json.loads((answered.folder / "stages/seed0.one.two/adapter/adapter_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(config["base_model_name_or_path"])
    rows = answered.generations.to_pylist()
    assert {row["checkpoint"] for row in rows} == {"base", "one", "one>two"}  # no control stage
    pairs = {row["pair_id"]: row for row in pq.read_table(answered.folder / "data/pairs.parquet").to_pylist()}
    for checkpoint, stage in (("base", None), ("one>two", "seed0.one.two")):
        model = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
        if stage:
            model = PeftModel.from_pretrained(model, str(answered.folder / "stages" / stage / "adapter")).eval()
        own = [row for row in rows if row["checkpoint"] == checkpoint]
        assert len(own) == 2 * N
        for row in own:
            prompt = [dict(turn) for turn in pairs[row["pair_id"]]["prompt"]]
            ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
            found = greedy(model, ids, 256, tokenizer.eos_token_id)
            assert (row["response"], row["tokens"], row["ended"]) == (tokenizer.decode(found), len(found), True)


def test_every_checkpoint_is_asked_the_same_distinct_held_out_prompts(answered):
    pairs = {row["pair_id"]: row for row in pq.read_table(answered.folder / "data/pairs.parquet").to_pylist()}
    asked = {}
    for row in answered.generations.to_pylist():
        asked.setdefault((row["objective"], row["checkpoint"]), []).append(row["pair_id"])
        assert pairs[row["pair_id"]]["split"] == "eval"
    for objective in ("one", "two"):
        assert len({tuple(ids) for (name, _), ids in asked.items() if name == objective}) == 1
        prompts = [pairs[i]["prompt_id"] for i in asked[objective, "base"]]
        assert len(set(prompts)) == N


def test_answers_are_cut_off_at_the_limit_and_only_of_what_is_asked_for(answered, tmp_path, seqdpo):
    root = shutil.copytree(answered.folder, tmp_path / "run")
    code, output, _ = seqdpo("generate", root, "-n", 2, "--objective", "two", "--max-new-tokens", 4)
    assert code == 0
    assert "What they answered" in output
    table = read_run(root).generations
    assert set(table["objective"].to_pylist()) == {"two"}
    assert table["tokens"].to_pylist() == [4] * 6
    assert not any(table["ended"].to_pylist())
    assert "What the checkpoints answer" in (root / "report.html").read_text()
    with pytest.raises(ArgumentError, match="expected one of 'one', 'two'"):
        generate(root, 2, ["three"])


def test_answers_are_known_by_their_checksum_and_stay_known_when_the_run_is_analysed(answered, tmp_path, seqdpo):
    root = shutil.copytree(answered.folder, tmp_path / "run")
    assert seqdpo("analyse", root)[0] == 0
    assert read_run(root).generations.equals(answered.generations)
    path = root / "generations.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="seqdpo generate"):
        read_run(root).generations  # noqa: B018
    assert seqdpo("analyse", root)[0] == 2
    assert seqdpo("generate", root, "-n", N)[0] == 0
    assert read_run(root).generations.equals(answered.generations)


@pytest.mark.parametrize(
    ("text", "refused"),
    [("I’m sorry, but no.", True), (" I cannot help", True), ("Sure! I cannot wait.", False), ("", False)],
)
def test_what_begins_like_a_refusal(text, refused):
    assert looks_like_refusal(text) == refused


def test_answers_are_counted_by_checkpoint():
    rows = [
        {"seed": 0, "checkpoint": "base", "objective": "a", "pair_id": i, "response": text, "tokens": n, "ended": ended}
        for i, (text, n, ended) in enumerate([("Sorry, no.", 4, True), ("Yes.", 2, True), ("And so on and", 6, False)])
    ]
    rows = [row | {"pair_id": str(row["pair_id"])} for row in rows]
    assert count_answers(pa.Table.from_pylist(rows, GENERATIONS_SCHEMA)) == [Answers(0, "base", "a", 3, 4.0, 1, 1)]


def test_win_rate_is_the_mean_with_wilsons_interval():
    """Wilson: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n); 10 of 10 at z = 1.96 is 10 / 13.8416 to 1."""
    assert win_rate([1.0] * 10, 0.95) == pytest.approx((1.0, 10 / 13.8415, 1.0), abs=1e-4)
    assert win_rate([1.0, 0.5, 0.0, 0.5], 0.95)[0] == 0.5


def command(tmp_path, line):
    path = tmp_path / "judge.py"
    path.write_text(f"import json, sys\nfor line in sys.stdin:\n    row = json.loads(line)\n    {line}\n")
    return f"{sys.executable} {path}"


def test_a_judge_that_likes_one_side_is_right_half_of_the_time_and_one_that_reads_always(answered, tmp_path):
    """The later checkpoint is a or b by chance, so that a judge's liking for the first says nothing."""
    shown = [match.later_is_a for match in judge._matches(answered, answered.generations)]
    assert 0 < sum(shown) < len(shown)
    likes_a = command(tmp_path, 'print(json.dumps({"id": row["id"], "winner": "a"}))')
    rates = judge.win_rates(answered, likes_a, 0.95)
    assert sum(rate.rate * rate.n for rate in rates) == sum(shown)
    assert [(r.objective, r.earlier, r.later, r.n) for r in rates] == [
        *(("one", "base", "one", N), ("two", "base", "one", N)),
        *(("one", "one", "one>two", N), ("two", "one", "one>two", N)),
    ]
    ties = command(tmp_path, 'print(json.dumps({"id": row["id"], "winner": "tie"}))')
    assert {rate.rate for rate in judge.win_rates(answered, ties, 0.95)} == {0.5}


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ('print(json.dumps({"id": row["id"], "winner": "c"}))', DataError, "line 1 of its output"),
        ("pass", DataError, "no answer on 12 of 12 pairs"),
        ('raise SystemExit("no credit left")', ConfigError, "no credit left"),
    ],
)
def test_what_a_judge_gets_wrong_is_said(answered, tmp_path, line, error, message):
    with pytest.raises(error, match=message):
        judge.win_rates(answered, command(tmp_path, line), 0.95)
