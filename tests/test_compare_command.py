"""`seqdpo compare`, from the command line to what is printed, on run folders of hand-chosen margins."""

import json
from functools import partial

import pytest
from rich.cells import cell_len

from run_folders import pair, write_run

ORDER = "helpful>harmless"
IDS = ["p0", "p1", "p2", "p3"]
KEYS = {"seed", "objective", "split", "checkpoint", "n", "right_only_in_a", "right_only_in_b"} | {
    f"{measure}_{what}" for measure in ("margin", "accuracy") for what in ("a", "b", "difference")
}


def one_order(taught, last, order=ORDER):
    return {(order, 1, 0): taught, (order, 2, 0): last, (order, 2, 1): taught}


def write(root, ids, taught, last, seeds=(0,), order=ORDER, text="", **facts):
    """A run of the objective `helpful`, pairs and margins as given."""
    pairs = [pair(name, chosen=f"chosen{text} of {name}") for name in ids]
    return write_run(root, {"helpful": pairs}, {"helpful": one_order(taught, last, order)}, seeds=seeds, **facts)


@pytest.fixture
def run_a(tmp_path):
    return write(tmp_path / "a", IDS, [2.0, 1.0, -1.0, 5.0], [1.0, -1.0, 0.5, 5.0])


@pytest.fixture
def run_b(tmp_path):
    """Three of the same pairs in another order, and two others; another beta and base."""
    study = {"beta": 0.1, "seeds": [0, 1], "objectives": {"helpful": {"format": "lab", "noise": 0.5}}}
    ids = ["p2", "p9", "p1", "p0", "p8"]
    margins = [[1.0, 9.0, 1.0, 2.0, 9.0], [0.5, 9.0, 2.0, 1.0, 9.0]]
    return write(tmp_path / "b", ids, *margins, study=study, identity={"model": "other"})


@pytest.fixture
def compare(seqdpo):
    return partial(seqdpo, "compare")


def test_the_table_by_hand(compare, run_a, run_b):
    code, output, _ = compare(run_a, run_b)
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert code == 0
    assert lines[:2] == [f"A: {run_a}", f"B: {run_b}"]
    assert "helpful: 3 pairs in both; 1 only in A, 2 only in B" in lines
    # taught: A says 2, 1, -1 of p0, p1, p2 and B 2, 1, 1; the differences 0, 0, 2 have mean 2/3 and SD 2/sqrt(3), so
    # the interval reaches t(2, .975) = 4.303 times 2/3 either way
    start = lines.index("checkpoint A B B - A 95% interval")
    assert lines[start + 1 : start + 4] == [
        "helpful margin +0.67 +1.33 +0.67 [-2.20, +3.54]",
        "accuracy 0.667 1.000 +0.333 [-1.101, +1.768]",
        "right alone 0 1",
    ]
    # at the end: A 1, -1, 0.5 and B 1, 2, 0.5; the differences 0, 3, 0
    assert lines[start + 4] == "helpful>harmless margin +0.17 +1.17 +1.00 [-3.30, +5.30]"
    assert "placebo" not in output
    assert max(map(cell_len, output.splitlines())) <= 80 or len(str(run_a)) > 77


def test_what_differs_is_said_in_one_line(compare, run_a, run_b):
    _, output, _ = compare(run_a, run_b)
    [line] = [line for line in " ".join(output.split()).split("B: ")[1:] if "Not the same" in line]
    expected = "Not the same: the base model, beta (0.3, 0.1), objectives.helpful.noise (None, 0.5). "
    assert expected + "Each margin is against its own base." in line


def test_runs_of_the_same_study_have_no_warning(compare, run_a):
    code, output, _ = compare(run_a, run_a)
    assert code == 0
    assert "Not the same" not in output
    assert "4 pairs in both; 0 only in A, 0 only in B" in output


def test_many_different_keys_are_counted(compare, run_a, tmp_path):
    other = write(tmp_path / "c", IDS, [1.0] * 4, [1.0] * 4, study=dict.fromkeys("abcdefghijk", 7))
    assert "g (None, 7), h (None, 7) and 3 more" in " ".join(compare(run_a, other)[1].split())


def test_json_has_its_keys_and_all_that_differs(compare, run_a, run_b):
    code, output, _ = compare(run_a, run_b, "--format", "json")
    found = json.loads(output)
    assert code == 0
    assert set(found) == {"schema_version", "a", "b", "method", "differences", "pairs", "checkpoints"}
    assert (found["a"], found["b"]) == (str(run_a), str(run_b))
    assert found["differences"] == [
        {"key": "identity.model", "a": "m", "b": "other"},
        {"key": "beta", "a": 0.3, "b": 0.1},
        {"key": "objectives.helpful.noise", "a": None, "b": 0.5},
    ]
    assert found["pairs"] == [{"objective": "helpful", "split": "eval", "n_common": 3, "n_only_a": 1, "n_only_b": 2}]
    assert [record["checkpoint"] for record in found["checkpoints"]] == ["helpful", ORDER]
    for record in found["checkpoints"]:
        assert set(record) == KEYS
        assert record["n"] == record["margin_difference"]["n"] == 3


def test_seeds_have_lines_of_their_own(compare, tmp_path):
    a, b = (write(tmp_path / name, IDS, [1.0] * 4, [2.0] * 4, seeds=(0, 1)) for name in "ab")
    output = compare(a, b)[1]
    assert "helpful (seed 0)" in output
    assert "helpful>harmless (seed 1)" in output


def test_a_long_order_fits_the_screen(compare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"{'objective' * 3}-{i}" for i in range(3)]
    order = ">".join(names)
    pairs, margins = {names[0]: [pair("p0"), pair("p1")]}, {names[0]: one_order([1e4, -2e4], [3e4, 5e4], order)}
    a, b = ("a", "b")
    for name in (a, b):
        write_run(tmp_path / name, pairs, margins)
    code, output, _ = compare(a, b)
    assert code == 0
    assert max(map(cell_len, output.splitlines())) <= 80
    assert "".join(names[0].split()) in "".join(output.split())


def test_runs_without_a_common_pair_are_refused(compare, run_a, tmp_path):
    other = write(tmp_path / "c", ["x0", "x1"], [1.0, 2.0], [1.0, 2.0])
    code, output, errors = compare(run_a, other)
    assert (code, output) == (2, "")
    for part in ("no held-out pair in common", "'helpful' and 'helpful'", "same objectives, data and eval_fraction"):
        assert part in errors


@pytest.mark.parametrize(
    ("facts", "part"),
    [({"seeds": (7,)}, "'helpful>harmless (seed 7)'"), ({"order": "brief>helpful"}, "'brief>helpful (seed 0)'")],
)
def test_runs_without_a_common_checkpoint_are_refused(compare, run_a, tmp_path, facts, part):
    other = write(tmp_path / "c", IDS, [1.0] * 4, [2.0] * 4, **facts)
    code, output, errors = compare(run_a, other)
    assert (code, output) == (2, "")
    for expected in ("no checkpoint in common", "'helpful>harmless (seed 0)'", part, "Run one of them again"):
        assert expected in errors


def test_one_id_for_two_texts_is_refused(compare, run_a, tmp_path):
    other = write(tmp_path / "c", IDS[2:], [1.0] * 2, [2.0] * 2, text=" another")
    code, output, errors = compare(run_a, other)
    assert (code, output) == (2, "")
    for part in ("objective 'helpful': pair 'p2' has one text in", "Leave pair_id out of the data"):
        assert part in errors


def test_either_folder_may_be_the_wrong_one(compare, run_a, tmp_path):
    for arguments in ([run_a, tmp_path / "none"], [tmp_path / "none", run_a]):
        code, output, errors = compare(*arguments)
        assert (code, output) == (2, "")
        assert "none: no such folder; expected a run folder" in errors
