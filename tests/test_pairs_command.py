"""`seqdpo pairs`, from the command line to what is printed or written, on a run folder of hand-chosen margins."""

import csv
import json
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len

from run_folders import BASE_LOGP, pair, write_run
from seqdpo import cli
from seqdpo.screen import Screen

LAST = "helpful>harmless"
OTHER = "harmless>helpful"
#: Margins of the four pairs of `helpful`: -1 kept, -2 lost, +1.5 regained, -1.25 never right.
HELPFUL = {
    (LAST, 1, 0): [2.0, 1.0, -1.0, -2.0],
    (LAST, 2, 0): [1.0, -1.0, 0.5, -3.25],
    (LAST, 2, 1): [2.5, 1.0, -1.0, -2.0],
    (OTHER, 1, 0): [0.5, 0.5, 0.5, 0.5],
    (OTHER, 2, 0): [3.0, 3.0, 3.0, 3.0],
    (OTHER, 2, 1): [0.5, 0.5, 0.5, 0.5],
}
HARMLESS = {at: [1.0, 2.0] for at in HELPFUL} | {(OTHER, 2, 0): [0.0, -1.0]}
#: What a terminal would obey, what rich would, and what other programs trip over.
HOSTILE = 'end\x1b[2J\x1b]0;title\x07 \x9b31m \x00 [red]bold[/red] \u202egnp "quoted", a\u2028b\r\nnew\tline é 😀'


def write_pairs_run(root, seeds=(0,), **first):
    helpful = [
        pair("c0ffee0000000001", slice_category="Privacy", slice_level=1, strength=1.0, **first),
        pair("c0ffee0000000002", slice_category="Violence", slice_level=2, strength=2.0),
        pair("c0ffee0000000003", slice_category="Violence", slice_level=1, truncated=True),
        pair("decaf00000000004", slice_category=None, slice_level=2),
    ]
    harmless = [pair("beef000000000001"), pair("beef000000000002")]
    return write_run(
        root,
        {"helpful": helpful, "harmless": harmless},
        {"helpful": HELPFUL, "harmless": HARMLESS},
        seeds=seeds,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write_pairs_run(tmp_path_factory.mktemp("runs") / "run", seeds=(0, 1))


@pytest.fixture
def listed(seqdpo, finished):
    """The rows of `seqdpo pairs --objective helpful --format jsonl` with more flags."""

    def call(*flags, objective="helpful"):
        code, output, errors = seqdpo("pairs", finished, "--objective", objective, "--format", "jsonl", *flags)
        assert code == 0, errors
        return [json.loads(line) for line in output.splitlines()]

    return call


def numbers(rows):
    """The last digit of each id."""
    return [int(row["pair_id"][-1]) for row in rows]


def test_the_table_shows_the_most_lost_pairs_first(seqdpo, finished):
    code, output, _ = seqdpo("pairs", finished, "--objective", "helpful")
    title, _, *lines = output.splitlines()
    assert code == 0
    assert title == "helpful, from helpful to helpful>harmless (seed 0)"
    # the first eight characters do not tell the ids apart, so they stand in full
    assert [line.split()[:5] for line in lines[:4]] == [
        ["c0ffee0000000002", "+1.00", "-1.00", "-2.00", "lost"],
        ["decaf00000000004", "-2.00", "-3.25", "-1.25", "never"],
        ["c0ffee0000000001", "+2.00", "+1.00", "-1.00", "kept"],
        ["c0ffee0000000003", "-1.00", "+0.50", "+1.50", "regained"],
    ]
    assert "question of" in lines[0]
    # (-2 - 1.25 - 1 + 1.5) / 4
    assert "4 of 4 pairs, mean change -0.69 nats: 1 kept, 1 lost, 1 regained, 1 never." in " ".join(lines)
    assert "4 shown, lowest change first. One in full: --pair ID." in " ".join(lines)


def test_the_footer_counts_what_matched_and_what_is_shown(seqdpo, finished):
    _, output, _ = seqdpo("pairs", finished, "--objective", "helpful", "--where", "category=Violence", "--limit", "1")
    assert "2 of 4 pairs, mean change -0.25 nats: 1 lost, 1 regained." in output  # (-2 + 1.5) / 2
    assert "1 shown, lowest change first. More: --limit N." in output
    assert output.count("question of") == 1


def test_no_pair_is_an_answer(seqdpo, finished):
    where = ["--where", "category=Privacy", "--flips", "lost"]
    code, output, _ = seqdpo("pairs", finished, "--objective", "helpful", *where)
    assert (code, output.splitlines()[1:]) == (0, ["0 of 4 pairs match."])
    for form in ("jsonl", "csv"):
        code, output, _ = seqdpo("pairs", finished, "--objective", "helpful", *where, "--format", form)
        assert (code, output.count("\n")) == (0, int(form == "csv"))  # a header


def test_another_measure_takes_the_margins_place(seqdpo, finished, listed):
    """Of a margin m the length-normalised one is (3/4 m - 10) / 5 - (-m/4 - 10) / 4 = .2125 m + .5: 1 to -1 is .7125 to
    .2875, a pair that stays right; against the base it is .2125 m, and the pair is lost."""
    [lost] = [row for row in listed("--measure", "ln_margin") if row["pair_id"] == "c0ffee0000000002"]
    assert (lost["measure"], lost["flip"]) == ("ln_margin", "kept")
    assert [lost[name] for name in ("margin_before", "margin_after", "change")] == pytest.approx(
        [0.7125, 0.2875, -0.425]
    )
    [lost] = [row for row in listed("--measure", "ln_margin_base_corrected") if row["flip"] == "lost"]
    assert (lost["pair_id"], lost["change"]) == ("c0ffee0000000002", pytest.approx(-0.425))
    _, output, _ = seqdpo("pairs", finished, "--objective", "helpful", "--measure", "ln_margin")
    assert output.splitlines()[0] == "helpful, from helpful to helpful>harmless (seed 0), in ln_margin"
    assert "mean change -0.15 nats a token" in " ".join(output.split())  # -.6875 * .2125
    _, output, _ = seqdpo(
        "pairs", finished, "--objective", "helpful", "--measure", "ln_margin", "--pair", "c0ffee0000000002"
    )
    assert "helpful>harmless +0.29 -2.15 -2.44" in " ".join(output.split())  # -10.75 / 5 and -9.75 / 4


def test_rows_by_hand(listed):
    lost = listed()[0]
    # of a margin m the chosen side has 3/4 and the rejected one -1/4; 5 and 4 tokens
    assert lost == {
        "pair_id": "c0ffee0000000002",
        "seed": 0,
        "objective": "helpful",
        "measure": "margin",
        "split": "eval",
        "from": "helpful",
        "to": LAST,
        "margin_before": 1.0,
        "margin_after": -1.0,
        "change": -2.0,
        "ln_margin_before": pytest.approx((BASE_LOGP + 0.75) / 5 - (BASE_LOGP - 0.25) / 4),
        "ln_margin_after": pytest.approx((BASE_LOGP - 0.75) / 5 - (BASE_LOGP + 0.25) / 4),
        "chosen_logp_change": -1.5,
        "rejected_logp_change": 0.5,
        "flip": "lost",
        "prompt_id": "prompt of c0ffee0000000002",
        "strength": 2.0,
        "prompt_tokens": 3,
        "chosen_tokens": 5,
        "rejected_tokens": 4,
        "truncated": False,
        "slice_category": "Violence",
        "slice_level": 2,
        "prompt": [{"role": "user", "content": "question of c0ffee0000000002"}],
        "chosen": "chosen of c0ffee0000000002",
        "rejected": "rejected of c0ffee0000000002",
    }


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], [2, 4, 1, 3]),
        (["--sort", "margin"], [4, 2, 3, 1]),
        (["--limit", "2"], [2, 4]),
        (["--flips", "kept"], [1]),
        (["--flips", "regained"], [3]),
        (["--where", "category=Violence"], [2, 3]),
        (["--where", "category=Violence", "--where", "level=1.0"], [3]),
        (["--where", "truncated=true"], [3]),
        (["--where", "strength=2"], [2]),
        (["--pair", "deca"], [4]),
        (["--to", f"{LAST}~placebo1"], [2, 3, 4, 1]),  # level pairs by their id
        (["--from", LAST, "--to", OTHER], [1, 3, 2, 4]),
    ],
)
def test_flags_choose_and_sort_the_pairs(listed, flags, expected):
    assert numbers(listed(*flags)) == expected


def test_an_objective_taught_last_in_the_first_order_is_followed_in_another(listed):
    rows = listed(objective="harmless")
    assert {(row["from"], row["to"]) for row in rows} == {("harmless", OTHER)}
    assert [row["change"] for row in rows] == [-3, -1]  # 2 to -1, 1 to 0


def test_seeds_are_kept_apart(listed):
    first, second = listed(), listed("--seed", "1")  # the margins of seed 1 are 1 more
    assert {row["seed"] for row in second} == {1}
    assert [row["margin_after"] for row in second] == [row["margin_after"] + 1 for row in first]


def test_all_formats_hold_the_same(seqdpo, finished, listed, tmp_path):
    names = [tmp_path / f"new/rows.{ending}" for ending in ("jsonl", "csv", "parquet")]
    for name in names:
        code, output, _ = seqdpo("pairs", finished, "--objective", "helpful", "-o", name)
        assert (code, "".join(output.split())) == (0, f"Wrote4pairs:{name}")
    rows = listed()
    assert [json.loads(line) for line in names[0].read_text().splitlines()] == rows
    assert pq.read_table(names[2]).to_pylist() == rows
    with names[1].open(newline="") as file:
        cells = list(csv.DictReader(file))
    for row, cell in zip(rows, cells, strict=True):
        assert json.loads(cell["prompt"]) == row["prompt"]
        assert float(cell["change"]) == row["change"]
        assert cell["slice_category"] == (row["slice_category"] or "")
        assert cell["chosen"] == row["chosen"]


def test_a_chosen_format_outranks_the_ending(seqdpo, finished, tmp_path):
    seqdpo(
        "pairs", finished, "--objective", "helpful", "-o", tmp_path / "rows.txt", "--format", "jsonl", "--limit", "1"
    )
    assert json.loads((tmp_path / "rows.txt").read_text())["flip"] == "lost"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1"])
def test_a_text_that_a_spreadsheet_would_run_is_marked_in_csv_alone(seqdpo, tmp_path, text):
    run = write_pairs_run(tmp_path / "run", chosen=text)
    flags = ["--objective", "helpful", "--pair", "c0ffee0000000001"]
    for ending, expected in (("csv", f"'{text}"), ("jsonl", text)):
        name = tmp_path / f"rows.{ending}"
        assert seqdpo("pairs", run, *flags, "-o", name)[0] == 0
        with name.open(newline="") as file:
            [row] = csv.DictReader(file) if ending == "csv" else map(json.loads, file)
        assert row["chosen"] == expected


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_any_text_comes_through_whole(seqdpo, tmp_path, ending):
    run = write_pairs_run(tmp_path / "run", chosen=HOSTILE, prompt=[{"role": "user", "content": HOSTILE}])
    flags = ["--objective", "helpful", "--pair", "c0ffee0000000001"]
    name = tmp_path / f"rows.{ending}"
    assert seqdpo("pairs", run, *flags, "-o", name)[0] == 0
    if ending == "parquet":
        [row] = pq.read_table(name).to_pylist()
    elif ending == "jsonl":
        row = json.loads(name.read_text())
    else:
        with name.open(newline="") as file:
            [row] = csv.DictReader(file)
        row["prompt"] = json.loads(row["prompt"])
    assert row["chosen"] == row["prompt"][0]["content"] == HOSTILE
    if ending != "parquet":  # standard output, where it is no terminal, holds the same
        assert seqdpo("pairs", run, *flags, "--format", ending)[1].encode() == name.read_bytes()


@pytest.mark.parametrize(
    "flags", [[], ["--pair", "c0ffee0000000001"], ["--format", "csv"], ["--format", "jsonl", "--limit", "4"]]
)
def test_nothing_in_the_data_steers_a_terminal(seqdpo, tmp_path, monkeypatch, flags):
    run = write_pairs_run(
        tmp_path / "run", chosen=HOSTILE, rejected=HOSTILE, prompt=[{"role": HOSTILE, "content": HOSTILE}]
    )
    monkeypatch.setattr(cli, "console", Screen(force_terminal=True, no_color=True, width=80))
    code, output, _ = seqdpo("pairs", run, "--objective", "helpful", *flags)
    assert code == 0
    plain = output.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "").replace("\x1b[1;", "")
    for character in "\x1b\x07\x9b\x00\x08\r\u202e\u2028":
        assert character not in plain
    assert "[red]bold[/red]" in plain or "pair  " in plain  # as it stands, where the line is long enough


def test_a_pair_in_full(seqdpo, tmp_path):
    turns = [
        {"role": "user", "content": "first question"},
        {"role": "assistant", "content": "first answer"},
        {"role": "user", "content": "last question"},
    ]
    run = write_pairs_run(tmp_path / "run", prompt=turns, chosen="word " * 60)
    _, output, _ = seqdpo("pairs", run, "--objective", "helpful", "--pair", "c0ffee0000000001")
    for part in ("helpful, pair c0ffee0000000001", "category=Privacy", "strength=1.0", "truncated=false"):
        assert part in output
    assert output.split().count("word") == 60
    positions = [output.index(part) for part in ("first question", "first answer", "last question", "rejected of")]
    assert positions == sorted(positions)
    lines = [line.split() for line in output.splitlines()]
    # margins of the first pair along the order; chosen 3/4 of it, rejected -1/4
    assert ["base", "+0.00", "+0.00", "+0.00"] in lines
    assert ["helpful", "+2.00", "+1.50", "-0.50"] in lines
    assert [LAST, "+1.00", "+0.75", "-0.25"] in lines
    assert [f"{LAST}~placebo1", "+2.50", "+1.88", "-0.62"] in lines
    assert OTHER not in output
    table = seqdpo("pairs", run, "--objective", "helpful")[1]
    assert "last question" in table
    assert "first" not in table.splitlines()[3]


@pytest.mark.parametrize("columns", [60, 80, 130])
def test_lines_fit_the_screen(finished, tmp_path, monkeypatch, seqdpo, columns):
    run = write_pairs_run(tmp_path / "run", chosen="漢字" * 200, prompt=[{"role": "user", "content": "漢字 " * 200}])
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(cli, "console", Screen())
    for flags in ([], ["--pair", "c0ffee0000000001"]):
        _, output, _ = seqdpo("pairs", run, "--objective", "helpful", *flags)
        assert max(map(cell_len, output.splitlines())) <= columns
    assert ("of chosen" in seqdpo("pairs", run, "--objective", "helpful")[1]) == (columns >= 100)


def test_a_prompt_that_is_plain_text_is_shown(seqdpo, tmp_path):
    run = write_pairs_run(tmp_path / "run", prompt=[{"role": "text", "content": "Once upon a time"}])
    assert "Once upon a time" in seqdpo("pairs", run, "--objective", "helpful")[1]


def test_the_name_of_a_folder_is_no_column(seqdpo, tmp_path):
    run = write_pairs_run(tmp_path / "beta=0.1")
    output = seqdpo("pairs", run, "--objective", "helpful", "--format", "jsonl")[1]
    assert "beta" not in json.loads(output.splitlines()[0])


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--objective", "helpfull"], ["--objective = 'helpfull'", "'helpful', 'harmless'", "Did you mean 'helpful'?"]),
        (["--objective", "helpful", "--to", "helpful<harmless"], ["--to = ", f"Did you mean {LAST!r}?"]),
        (["--objective", "helpful", "--from", "harmful"], ["--from = 'harmful': not in this run", f"{OTHER!r}"]),
        (["--objective", "helpful", "--from", LAST], ["both are", "expected two checkpoints"]),
        (["--objective", "helpful", "--order", "helpful"], ["--order = 'helpful'", f"Did you mean {LAST!r}?"]),
        (["--objective", "helpful", "--seed", "7"], ["--seed = '7'", "expected one of '0', '1'"]),
        (["--objective", "helpful", "--where", "categry=x"], ["column = 'categry'", "Did you mean 'category'?"]),
        (["--objective", "helpful", "--where", "category=Violnce"], ["no pair has it", "Did you mean 'Violence'?"]),
        (["--objective", "helpful", "--where", "category"], ["no '='", "COLUMN=VALUE"]),
        (["--objective", "helpful", "--pair", "c0ffee"], ["3 pairs have an id that begins so", "'c0ffee0000000001'"]),
        (["--objective", "helpful", "--pair", "beef"], ["0 pairs have an id that begins so (none)"]),
        (["--objective", "helpful", "--format", "parquet"], ["--format = 'parquet'", "expected --output FILE"]),
        (["--objective", "helpful", "-o", "rows.txt"], ["--output = 'rows.txt'", "jsonl, csv or parquet"]),
        (["--objective", "helpful", "-o", "file/rows.csv"], ["--output = 'file/rows.csv': cannot be written"]),
        (["--objective", "helpful", "-o", "folder.csv"], ["--output = 'folder.csv': cannot be written"]),
        (["--objective", "helpful", "--flips", "gone"], ["--flips"]),
        ([], ["--objective"]),
    ],
)
def test_what_the_run_does_not_have_is_explained(seqdpo, finished, tmp_path, monkeypatch, flags, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    code, output, errors = seqdpo("pairs", finished, *flags)
    assert (code, output) == (2, "")
    for part in parts:
        assert part in errors
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.csv"]


def _spoil(run, name, content):
    path = run / name
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda run: run.with_name("rum"), ["rum: no such folder; expected a run folder", "Did you mean 'run'?"]),
        (lambda run: run / "study.yaml", ["study.yaml: is a file; expected a run folder"]),
        (lambda run: run.parent, ["no manifest.json; expected a run folder", "Run folders in it: 'run'."]),
        (lambda run: run / "data", ["no manifest.json; expected a run folder"]),
        (lambda run: _spoil(run, "scores.parquet", None), ["the run is not finished", "`seqdpo run` again"]),
        (lambda run: _spoil(run, "scores.parquet", b"PAR1"), ["scores.parquet: cannot be read", "Run the study again"]),
        (lambda run: _spoil(run, "data/pairs.parquet", None), ["data/pairs.parquet: no such file"]),
        (lambda run: _spoil(run, "data/pairs.parquet", b""), ["data/pairs.parquet: cannot be read"]),
        (lambda run: _spoil(run, "study.yaml", b"beta: ["), ["study.yaml: cannot be read"]),
        (lambda run: _spoil(run, "study.yaml", b"- beta"), ["study.yaml: holds \"['beta']\"; expected keys"]),
        (lambda run: _spoil(run, "manifest.json", b"{"), ["manifest.json: cannot be read"]),
    ],
)
def test_a_folder_without_a_finished_run_is_explained(seqdpo, tmp_path, finished, make, parts):
    run = shutil.copytree(finished, tmp_path / "run")
    code, output, errors = seqdpo("pairs", make(run) or run, "--objective", "helpful")
    assert (code, output) == (2, "")
    for part in parts:
        assert part in errors


@pytest.mark.parametrize(
    ("name", "column", "part"),
    [
        ("scores.parquet", "base_chosen_logp", "no column 'base_chosen_logp'"),
        ("scores.parquet", "objective", "objective"),
        ("data/pairs.parquet", "chosen", "data/pairs.parquet: no column 'chosen'"),
    ],
)
def test_a_table_without_a_column_is_explained(seqdpo, tmp_path, finished, name, column, part):
    run = shutil.copytree(finished, tmp_path / "run")
    pq.write_table(pq.read_table(run / name).drop_columns(column), run / name)
    code, _, errors = seqdpo("pairs", run, "--objective", "helpful")
    assert code == 2
    assert part in errors


def test_a_reader_that_has_gone_ends_the_rows_quietly(finished):
    command = [sys.executable, "-m", "seqdpo", "pairs", str(finished), "--objective", "helpful", "--format", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.wait() == 141  # 1 would be a failed gate
        assert process.stderr.read() == ""


def test_neither_command_needs_torch(finished):
    program = f"""
import sys
from seqdpo import cli
from seqdpo.screen import Screen
cli.app(["pairs", {str(finished)!r}, "--objective", "helpful"], standalone_mode=False)
cli.app(["compare", {str(finished)!r}, {str(finished)!r}], standalone_mode=False)
sys.exit(bool({{"torch", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 pairs in both" in done.stdout
