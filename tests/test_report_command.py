"""`seqdpo report` and `seqdpo compare --html` on run folders of hand-chosen margins."""

import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from run_folders import pair, write_run
from seqdpo.analysis.results import results
from seqdpo.analysis.schema import to_json
from seqdpo.layout import RunFiles
from seqdpo.tables import GRADIENTS_SCHEMA, KL_AND_PATH_SCHEMA, MOVEMENT_SCHEMA, NODE_COLUMNS

ORDER = "helpful>harmless"
PAIRS = [pair(f"{i:016x}") for i in range(40)]


def write_finished(root, kept=0.7):
    """A run of one earlier objective; the tables of the mechanism have no rows."""
    taught = 2 + np.linspace(-1, 1, 40)
    margins = {(ORDER, 1, 0): list(taught), (ORDER, 2, 0): list(kept * taught)}
    write_run(root, {"helpful": PAIRS}, {"helpful": margins})
    folder = RunFiles(root)
    found = results(pq.read_table(folder.scores), pq.read_table(folder.pairs), 0.3)
    folder.results.write_text(json.dumps(to_json(found), allow_nan=False))
    folder.dropped.write_text(json.dumps({"helpful": {"read": 40, "train": 0, "eval": 40, "dropped": {}}}))
    for path, schema in (
        (folder.gradients, GRADIENTS_SCHEMA),
        (folder.movement, MOVEMENT_SCHEMA),
        (folder.kl_and_path, KL_AND_PATH_SCHEMA),
    ):
        pq.write_table(pa.schema([*NODE_COLUMNS, *schema]).empty_table(), path)
    return root


@pytest.fixture
def run(tmp_path):
    return write_finished(tmp_path / "run")


@pytest.fixture
def report(seqdpo):
    return partial(seqdpo, "report")


def test_writes_page_and_card_into_the_run_folder(run, report):
    code, output, _ = report(run)
    assert code == 0
    assert "70% [" in (run / "report.html").read_text(encoding="utf-8")
    assert "70% " in (run / "report.md").read_text(encoding="utf-8")
    assert output.count("Wrote") == 2


def test_a_folder_in_the_place_of_the_page_is_set_aside_in_the_run_and_refused_elsewhere(run, report, tmp_path):
    for folder in (run / "report.html", tmp_path / "page.html"):
        folder.mkdir()
        (folder / "notes").write_text("mine")
    assert report(run)[0] == 0
    assert (run / "report.html").is_file()
    assert (run / "report.html.damaged/notes").read_text() == "mine"
    assert report(run, "-o", tmp_path / "page.html")[0] == 2
    assert (tmp_path / "page.html/notes").read_text() == "mine"


def test_a_page_elsewhere_writes_over_no_other_file_and_the_card_goes_where_it_is_said(run, report, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    assert report(run, "-o", tmp_path / "README.html")[0] == 0
    assert (tmp_path / "README.md").read_text() == "mine"
    assert report(run, "-o", tmp_path / "page.md", "--card", tmp_path / "card.md")[0] == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (tmp_path / "card.md").read_text(encoding="utf-8").startswith("---\n")


def test_a_page_in_another_measure_stands_beside_the_page(run, report):
    code, output, _ = report(run, "--measure", "ln_margin")
    assert code == 0
    assert output.count("Wrote") == 1
    text = (run / "report-ln_margin.html").read_text(encoding="utf-8")
    assert "This page is in ln_margin" in text
    assert not (run / "report.html").exists()
    report(run)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "This page is in" not in text
    assert text.count('<th scope="col">ln_margin</th>') == 1  # one click away


def test_the_same_run_gives_the_same_bytes(run, report, tmp_path):
    report(run, "--output", tmp_path / "a.html")
    report(run, "--output", tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_figures_and_tables_go_where_they_were_asked_for(run, report, tmp_path):
    pytest.importorskip("vl_convert", reason="vl-convert-python is not installed: pip install 'seqdpo[test]'")
    code, output, _ = report(run, "--figures", tmp_path / "figures")
    assert code == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"verdicts.csv", "verdicts.tex", "score-matrix.pdf", "score-matrix.svg", "score-matrix.png"} <= names
    assert f"and {len(names)} files in" in " ".join(output.split())


def test_without_vl_convert_the_error_names_it(run, report, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    code, _, error = report(run, "--figures", tmp_path / "figures")
    assert code == 2
    assert "pip install 'seqdpo[figures]'" in error


@pytest.mark.parametrize("missing", ["movement.parquet", "results.json", "data/dropped.json"])
def test_a_missing_file_is_named_with_what_to_do(missing, run, report):
    (run / missing).unlink()
    code, _, error = report(run)
    assert code == 2
    assert missing in error and "Run the study again" in error
    assert not (run / "report.html").exists()


def test_a_place_that_cannot_be_written_to_is_an_error(run, report, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, error = report(run, "--output", tmp_path / "file" / "report.html")
    assert code == 2
    assert "cannot be written" in error


def test_two_runs_on_one_page(run, tmp_path, seqdpo):
    other = write_finished(tmp_path / "other", kept=0.9)
    code, output, _ = seqdpo("compare", run, other, "--html", tmp_path / "both.html")
    assert code == 0 and "Wrote" in output
    text = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "+0.40 [" in text  # 0.9 x 2 less 0.7 x 2
    assert "40 pairs in both" in text
