"""A finished run as a notebook sees it: findings, pairs, pictures and small tables."""

import json
import subprocess
import sys

import pytest
from hostile import HOSTILE

from seqdpo.analysis.pair_query import PairQuery, trajectory
from seqdpo.analysis.schema import to_json
from seqdpo.errors import ArgumentError, DataError
from seqdpo.report.compared import compare
from seqdpo.report.finished import read_run
from seqdpo.report.notebook import verdicts_html
from seqdpo.report.pictures import pair_rows


def test_findings_are_those_of_results_json(make_run):
    run = make_run(n=9)
    assert to_json(run.findings) == json.loads((run.folder / "results.json").read_text())
    assert run.findings is run.findings  # read once


def test_a_file_that_is_not_asked_for_is_not_read(make_run):
    run = make_run(n=9)
    for name in ("results.json", "data/pairs.parquet", "movement.parquet"):
        (run.folder / name).write_bytes(b"")
    again = read_run(run.folder)
    assert again.scores(["pair_id"]).num_rows == run.scores().num_rows
    for name in ("findings", "pairs", "movement"):
        with pytest.raises(DataError, match="cannot be read"):
            getattr(again, name)


def test_the_pair_table_by_hand(make_run):
    """Pair 0 lost 6, every third pair 4, the others 0.2; a control stage adds 0.1 to the even ones' 0.5 + 2.5 i / 8."""
    run = make_run(n=9)
    table = run.pair_table("helpful", limit=3)
    assert table["pair_id"].to_pylist() == ["helpful-0", "helpful-3", "helpful-6"]
    assert table["change"].to_pylist() == pytest.approx([-6, -4, -4])
    assert table["chosen"].to_pylist()[0] == "It is a drink of leaves, number 0"
    asked = run.pair_table("helpful", "helpful", "helpful>harmless~placebo1", where=["topic=tea"], sort="margin")
    assert asked["pair_id"].to_pylist() == [f"helpful-{i}" for i in (0, 2, 4, 6, 8)]
    assert asked["margin_after"].to_pylist() == pytest.approx([0.6, 1.225, 1.85, 2.475, 3.1])
    assert run.pair_table("helpful", flip="kept").num_rows + run.pair_table("helpful", flip="lost").num_rows == 9


def test_the_trajectory_of_a_pair_begins_at_the_base(make_run):
    found = make_run(n=9).find_pairs(PairQuery("helpful", pair="helpful-0"))
    visits = trajectory(found)
    assert [visit.checkpoint for visit in visits][:3] == ["base", "helpful", "helpful>harmless"]
    assert [visit.margin for visit in visits][:3] == pytest.approx([0, 0.5, -5.5])
    assert all(visit.chosen - visit.rejected == pytest.approx(visit.margin) for visit in visits)


@pytest.mark.parametrize(
    ("asked", "names", "words"),
    [
        ({"objective": "helpfull"}, ("objective",), "Did you mean 'helpful'?"),
        ({"objective": "helpful", "end": "nowhere"}, ("end",), "expected one of 'base'"),
        ({"objective": "helpful", "start": "helpful", "end": "helpful"}, ("start", "end"), "both are 'helpful'"),
        ({"objective": "helpful", "where": ["topic"]}, ("where",), "expected COLUMN=VALUE"),
    ],
)
def test_a_wrong_argument_is_named_as_an_argument(make_run, asked, names, words):
    """The command line calls it by its flag; see test_pairs_command.py."""
    with pytest.raises(ArgumentError) as found:
        make_run(n=9).pair_table(**asked)
    assert found.value.names == names
    assert str(found.value).startswith(" and ".join(names)) and words in str(found.value)
    assert found.value.named(lambda name: f"--{name}").startswith(" and ".join(f"--{name}" for name in names))


def test_a_chart_is_drawn_by_a_notebook_with_all_its_data(make_run):
    run = make_run(n=9)
    bundle = run.chart("margins")._repr_mimebundle_()
    spec = bundle["application/vnd.vegalite.v6+json"]
    assert len(spec["datasets"]["pairs"]) == 9
    assert spec["width"] == 480 and "autosize" not in spec
    json.dumps(spec, allow_nan=False)
    assert "Mean margin change" in bundle["text/plain"]


def test_every_picture_can_be_had_by_its_name(make_run):
    run = make_run(n=9)
    for picture in run.pictures():
        assert run.chart(picture.name).title == picture.chart.title
    with pytest.raises(ArgumentError, match=r"name = 'score-matricks': no such picture; .* 'score-matrix'\?"):
        run.chart("score-matricks")


def test_pictures_of_pairs_hold_those_of_their_cell(make_run):
    run = make_run(n=9)
    (picture,) = [one for one in run.pictures() if one.name.startswith("harmless-") and one.name.endswith(".margins")]
    assert picture.filled().data["pairs"] == pair_rows(picture.cell)
    assert picture.cell.objective == "harmless"


def test_a_run_shows_its_verdicts_with_interval_and_n(make_run):
    run = make_run(n=9)
    text = run._repr_html_()
    change = run.findings.cells[0].change.margin_change
    assert f"{change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]" in text
    assert text.count("<tr>") == 1 + len(run.findings.cells)
    assert "<td>9</td>" in text and "helpful&gt;harmless" in text and "clustered by prompt" in text


def test_hostile_names_make_no_element_in_a_notebook(make_run):
    text = verdicts_html(HOSTILE, make_run(n=9).findings)
    assert "<script" not in text and "<img" not in text
    assert "&lt;script" in text


def test_two_runs_beside_each_other(make_run):
    """All margins of the second are doubled, so that each mean is twice the first's."""
    first, second = make_run(n=9), make_run(n=9, taught=2.0)
    compared = compare(first, second)
    assert [count.n_common for count in compared.findings.pairs] == [9, 9]
    assert {one.checkpoint for one in compared.findings.checkpoints} >= {"helpful", "helpful>harmless"}
    for one in compared.findings.checkpoints:
        assert one.margin_b == pytest.approx(2 * one.margin_a)
        assert one.margin_difference.value == pytest.approx(one.margin_a)
    html = compared._repr_html_()
    assert html.count("<tr>") == 1 + len(compared.findings.checkpoints)
    assert "Not the same: nothing." in html


def test_what_is_read_and_shown_needs_no_torch():
    code = (
        "import sys, seqdpo.report.write, seqdpo.report.pair_files, seqdpo.report.print_findings, "
        "seqdpo.report.print_comparison, seqdpo.analysis.gate; "
        "sys.exit(bool({'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
