"""Every word and every kind of picture has its one entry, and every surface goes through it."""

import json
from dataclasses import replace
from importlib.resources import files
from typing import get_args

import pytest

from seqdpo.analysis.changes import FLIPS
from seqdpo.analysis.gate import Outcome
from seqdpo.analysis.schema import Books, EndWord, LearnedWord, Opposition, RecipeStatement, Tag, Word, to_json
from seqdpo.report import charts
from seqdpo.report.charts.chart import CellChart, Chart, RunChart
from seqdpo.report.page import page
from seqdpo.report.payload import payload
from seqdpo.report.print_findings import in_three_lines
from seqdpo.report.words import (
    AT_THE_END,
    BOOKS,
    FLIP_WORDS,
    GATE,
    LEARNED,
    OPPOSITION,
    RECIPES,
    TAGS,
    TERMINAL,
    TONES,
    VERDICTS,
)
from seqdpo.report.write import write_figures


@pytest.mark.parametrize(
    ("words", "entries"),
    [
        (Word, VERDICTS),
        (RecipeStatement, RECIPES),
        (Tag, TAGS),
        (LearnedWord, LEARNED),
        (EndWord, AT_THE_END),
        (Outcome, GATE),
        (Opposition, OPPOSITION),
        (Books, BOOKS),
    ],
)
def test_every_word_that_findings_may_hold_has_an_entry(words, entries):
    assert set(entries) == set(get_args(words))


def test_every_outcome_of_a_pair_has_an_entry_in_order():
    assert tuple(FLIP_WORDS) == FLIPS


def test_every_tone_has_a_colour_on_the_page_and_on_a_terminal():
    css = files("seqdpo.report").joinpath("assets/page.css").read_text(encoding="utf-8")
    for tone in TONES:
        assert f".verdict.{tone} " in css and f".badge.{tone} " in css
    assert set(TERMINAL) == set(TONES)


def test_verdicts_that_look_alike_differ_in_their_icons():
    assert len({word.icon for word in VERDICTS.values()}) == len(VERDICTS)


def test_every_word_is_in_the_documentation_of_verdicts_or_results(request):
    docs = request.config.rootpath / "docs"
    text = (docs / "verdicts.md").read_text() + (docs / "results.md").read_text()
    assert [word for word in [*VERDICTS, *TAGS, *LEARNED, *AT_THE_END, *RECIPES, *FLIPS] if word not in text] == []


def test_a_run_without_anything_learned_has_figures_and_tables(make_run, tmp_path):
    """Every verdict is UNDEFINED: there is no share that could be left."""
    pytest.importorskip("vl_convert", reason="vl-convert-python is not installed: pip install 'seqdpo[test]'")
    run = make_run(n=9, taught=0.0)
    assert {cell.verdict.verdict for cell in run.findings.cells} == {"UNDEFINED"}
    written = write_figures(run, tmp_path / "figures")
    assert any(path.name.endswith("margins.svg") for path in written)
    [verdicts] = [path for path in written if path.name == "verdicts.csv"]
    assert verdicts.read_text().splitlines()[1].startswith("helpful,helpful,helpful>harmless,0,UNDEFINED,,,,")
    assert "UNDEFINED" in page(run)


def test_a_pair_without_finite_margin_leaves_pictures_that_say_undefined(make_run):
    run = make_run(n=9, broken=True)
    [flips] = [picture.chart for picture in run.pictures() if picture.name.endswith(".flips")][:1]
    assert "lost undefined" in flips.alt
    assert "UNDEFINED" in page(run)


def test_a_kind_of_pictures_is_one_module_with_its_entry(monkeypatch, make_run):
    """A further entry is on the page and among the figures, and nothing else names it."""
    entry = CellChart(9, lambda cell: Chart("mine", "Mine", "caption", f"n = {cell.n}", {"mark": "point"}))
    entries = [*charts._entries(), entry]
    monkeypatch.setattr(charts, "_entries", lambda: entries)
    run = make_run(n=9)
    found = payload(run)
    assert [cell["charts"][-1]["key"] for cell in found["cells"]] == ["mine", "mine"]
    assert "helpful-helpful-to-helpful-harmless-seed0.mine" in [picture.name for picture in run.pictures()]


def test_no_two_pictures_of_a_section_claim_one_place():
    places = [("cell" if isinstance(entry, CellChart) else entry.section, entry.place) for entry in charts._entries()]
    assert len(set(places)) == len(places) >= 9
    assert all(isinstance(entry, CellChart | RunChart) for entry in charts._entries())


def test_the_page_draws_every_picture_that_it_is_sent(make_run):
    """No name of a picture stands in the scripts but that of the one whose brush filters the table."""
    found = payload(make_run(n=9))
    keys = {chart["key"] for chart in found["overview"] + found["mechanism"] + found["cells"][0]["charts"]}
    scripts = "".join(
        path.read_text(encoding="utf-8")
        for path in files("seqdpo.report").joinpath("assets").iterdir()
        if path.name.endswith(".js")
    )
    assert {key for key in keys if f'"{key}"' in scripts} == set()
    assert "score-matrix" in keys


def test_the_colours_of_the_score_matrix_leave_its_figures_legible(make_run):
    """The darkest tint is for no more than 56% of the scale, so black stands out on each; and every cell has its n."""
    run = make_run(n=9)
    chart = run.chart("score-matrix")
    low, high = chart.spec["layer"][0]["encoding"]["color"]["scale"]["domain"]
    margins = [row["margin"] for row in chart.data["matrix"]]
    assert max(map(abs, margins)) / high == pytest.approx(1 / 1.8) and low == -high
    shown = {(row["where"], row["objective"]): row["margin"] for row in chart.data["matrix"]}
    for score in run.findings.score_matrix:
        if not score.placebo:
            assert shown[score.checkpoint, score.objective] == score.margin.value


def test_rows_of_a_dataset_are_those_of_results(make_run):
    run = make_run(n=9)
    rows = run.chart("trajectories-margin").data["scores"]
    scores = [score for score in run.findings.score_matrix if not score.placebo]
    assert [row["low"] for row in rows] == [score.margin.low for score in scores]
    assert json.dumps(to_json(scores[0].margin)) == json.dumps({key: rows[0][key] for key in ("value", "low", "high")})


def test_titles_say_what_was_found(make_run):
    """Of 30 pairs one fell by 6, nine by 4 and became wrong, and twenty by 0.2: -46 / 30 (`planted_margins`)."""
    run = make_run()
    titles = {picture.name.split(".")[-1]: picture.chart.title for picture in reversed(list(run.pictures()))}
    assert (
        titles["trajectories-margin"] == "helpful fell by 1.53 nats with harmless; in control stages it did not change"
    )
    assert titles["trajectories-accuracy"] == (
        "helpful: 100% right before harmless, 67% after it; 100% after control stages"
    )
    assert titles["flips"] == "10 of 30 right pairs turned wrong, 0 of 0 wrong ones right"
    assert titles["margins"] == "Every pair: on average helpful fell by 1.53 nats"
    assert titles["score-matrix"].startswith("Lowest margin: ")
    assert titles["path-helpful-harmless-seed0"].startswith("On the line to helpful>harmless (seed 0): helpful: ")


def test_control_stages_are_grey_beside_every_real_one(make_run):
    run = make_run(n=9)
    data = run.chart("trajectories-margin").data
    assert len(data["controls"]) == sum(score.placebo > 0 for score in run.findings.score_matrix) == 16
    assert not any("placebo" in row["checkpoint"] for row in data["scores"])


def test_slices_of_too_few_prompts_are_left_out_and_those_that_differ_come_first(make_run):
    """Two topics of 15 pairs each differ from each other alone; a column of one pair and 29 is no slice to look at."""
    run = make_run()
    one = run.findings.cells[0]
    few = replace(one.slices[0], value="rare", n=1, n_prompts=1, q=None)
    clear = replace(one.slices[0], value="clear", q=0.001)
    doubtful = replace(one.slices[0], value="doubtful", q=0.6)
    [chart] = [c for c in charts.cell_charts(replace(one, slices=(doubtful, few, clear))) if c.key == "slices"]
    assert [row["slice"].split(" | ")[0].split(": ")[1] for row in chart.data["slices"]] == ["clear", "doubtful"]
    assert "1 have fewer than 5 prompts" in chart.caption and "clear by" in chart.title
    means = [layer["data"]["values"] for layer in chart.spec["layer"] if "strokeDash" in layer["mark"]]
    assert means == [[{"mean": one.change.margin_change.value}]]


@pytest.mark.parametrize("measure", ["ln_margin", "ln_margin_base_corrected"])
def test_pictures_of_another_measure_are_in_its_unit(make_run, measure):
    found = payload(make_run(n=9), measure)
    assert found["unit"] == "nats a token"
    for chart in found["cells"][0]["charts"]:
        said = json.dumps([chart["spec"], chart["title"]])
        assert said.count("nats") == said.count("nats a token"), chart["key"]


def test_three_lines_say_what_happened_who_did_it_and_what_another_run_would_show(make_run):
    """Of 30 pairs, all right when taught, ten are wrong; control stages leave all right (`planted_margins`)."""
    found, controls, another = in_three_lines(make_run().findings.cells[0])
    assert "helpful is " in found and "100% of its pairs were right before, 67% are now" in found
    assert controls.startswith("Control stages leave 100% right; ")
    assert "changed by -1.53 nats" in another and "is expected between " in another
