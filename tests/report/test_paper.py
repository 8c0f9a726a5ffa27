"""Figures, tables and the card: numbers of the findings, nothing of hostile names."""

import csv
import io
import re

import pytest
import yaml
from hostile import HOSTILE

from seqdpo.analysis.schema import to_json
from seqdpo.report.card import card, plain
from seqdpo.report.figures import figures
from seqdpo.report.page import page
from seqdpo.report.paper_tables import as_csv, as_latex, latex, paper_tables, verdict_rows
from seqdpo.report.pictures import file_name, pair_rows


def test_every_picture_is_drawn_in_every_format(make_run):
    pytest.importorskip("vl_convert", reason="vl-convert-python is not installed: pip install 'seqdpo[test]'")
    drawn = list(figures(make_run(n=9).pictures()))
    names = {name for name, _, _ in drawn}
    assert {"score-matrix", "trajectories-margin", "path-helpful-harmless-seed0"} <= names
    assert "helpful-helpful-to-helpful-harmless-seed0.margins" in names
    starts = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}
    assert all(content.startswith(starts[form]) for _, form, content in drawn)
    assert len(drawn) == 3 * len(names)


def test_a_drawn_picture_has_a_mark_for_each_pair(make_run):
    vl_convert = pytest.importorskip("vl_convert")
    chart = make_run(n=9).chart("helpful-helpful-to-helpful-harmless-seed0.margins")
    svg = vl_convert.vegalite_to_svg(chart.vega_lite(), vl_version="6.4")
    points = re.findall(r'aria-roledescription="point"', svg)
    assert len(points) == 9


def test_pairs_of_a_figure_are_those_of_the_cell(make_run):
    from seqdpo.analysis.cells import cells

    run = make_run(n=9)
    cell = cells(run.panels())[0]
    rows = pair_rows(cell)
    counts = to_json(run.findings.cells[0].change.flips)
    assert {name: sum(row["flip"] == name for row in rows) for name in counts} == counts
    assert (rows[0]["before"], rows[0]["change"]) == (0.5, -6.0)
    assert rows[0]["chosen_change"] - rows[0]["rejected_change"] == -6.0
    assert rows[0]["quartile"] == "Q1"


def test_verdicts_as_csv_are_the_findings_in_full(make_run):
    findings = make_run().findings
    texts = {(name, form): text for name, form, text in paper_tables(findings)}
    rows = list(csv.DictReader(io.StringIO(texts["verdicts", "csv"])))
    for row, cell in zip(rows, findings.cells, strict=True):
        assert float(row["margin kept"]) == cell.verdict.retention.value
        assert float(row["margin change low"]) == cell.change.margin_change.low
        assert int(row["lost"]) == cell.change.flips.lost
        assert int(row["n"]) == 30


def test_undefined_is_empty_in_csv_and_a_dash_in_latex():
    rows = [{"name": "a", "margin": None, "margin low": None, "margin high": None, "n": 3}]
    assert as_csv(rows) == "name,margin,margin low,margin high,n\na,,,,3\n"
    assert "a & -- & 3" in as_latex(rows, "caption")


def test_no_text_of_a_csv_is_run_by_a_spreadsheet_or_obeyed_by_a_terminal():
    rows = [{"objective": "=1+1", "to": "a\x1b[31m", "margin change": -0.5}]
    assert as_csv(rows) == "objective,to,margin change\n'=1+1,a\u241b[31m,-0.5\n"


def test_latex_of_a_value_has_its_interval_beside_it():
    rows = [{"margin": -0.5, "margin low": -0.75, "margin high": -0.25}]
    assert r"$-0.500$ [-0.750, -0.250] \\" in as_latex(rows, "c")
    assert r"\begin{tabular}{r}" in as_latex(rows, "c")


def test_hostile_names_mean_nothing_to_latex(make_run):
    text = latex(HOSTILE + r"\input{/etc/passwd} 100% a_b $x$ #1 ~^&")
    bare = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater)\{\}|\\[&%$#_{}]", "", text)
    assert not set(bare) & set("\\&%$#_{}~^<>")
    rows = verdict_rows(make_run(name=HOSTILE).findings.cells)
    tex = as_latex([row | {"objective": HOSTILE} for row in rows], HOSTILE)
    assert tex.count(r"\\") >= len(rows)
    unescaped = re.sub(r"\\[{}]", "", tex)
    assert unescaped.count("{") == unescaped.count("}")


def test_card_has_every_verdict_and_score(make_run):
    run = make_run()
    text = card(run)
    for cell in run.findings.cells:
        assert plain(cell.verdict.sentence) in text
    for row in run.findings.score_matrix:
        if not row.placebo:
            assert f"| {row.objective} | {row.margin.value:+.2f}" in text
    assert "helpful: 30 trained, 30 held out; of 61 read, 0 over the study's limits and 1 dropped" in text


def test_hostile_names_mean_nothing_to_markdown(make_run):
    text = card(make_run(name=HOSTILE))
    assert not re.search(r"(?<!\\)<(script|img|b)", text.split("---", 2)[2].split("```")[0])
    head = text.split("---")[1]
    assert len(head.splitlines()) == 3  # what is no name of the hub is no base_model


def test_card_names_a_base_model_of_the_hub_and_how_to_load_the_last_adapter(make_run):
    run = make_run(name="acme/tiny")
    run.manifest["identity"]["model"] = f"acme/tiny@{'c' * 40}"
    text = card(run)
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "acme/tiny"
    assert f'AutoModelForCausalLM.from_pretrained("acme/tiny", revision="{"c" * 40}")' in text
    assert 'PeftModel.from_pretrained(base, "stages/seed0.harmless.helpful/adapter")' in text


@pytest.mark.parametrize("name", ["../base/model", "/models/tiny", "lab", "models/tiny"])
def test_card_names_no_folder_as_base_model(make_run, name):
    text = card(make_run(name=name))  # the manifest has the hash of its weights
    assert "base_model" not in yaml.safe_load(text.split("---")[1])
    assert f'"{name}"' not in text
    assert "/" not in name or name not in text + page(make_run(name=name)).split("<script")[0]
    assert "no model of the hub but a folder" in text
    assert not re.search(r"BASE MODEL|RUN/|STAGE|More Information Needed", text)


def test_file_names_are_safe():
    assert file_name("../a b>c/..\\x") == "a-b-c-..-x"
