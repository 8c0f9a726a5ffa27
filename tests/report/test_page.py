"""The page as text: its numbers, its policy, and what hostile names and texts do to it."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import HOSTILE

from seqdpo.analysis.schema import to_json
from seqdpo.report.finished import read_run
from seqdpo.report.page import page
from seqdpo.report.payload import LONGEST_TEXT, MOST_TEXTS, payload
from seqdpo.tables import SCORES_SCHEMA


class Elements(HTMLParser):
    """Scripts with their text, all start tags with their attributes, and the text outside of scripts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.words, self._script = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self._script = [dict(attributes), ""]
        elif tag == "style":
            self._script = [{}, ""]

    def handle_endtag(self, tag):
        if tag in ("script", "style") and self._script is not None:
            if tag == "script":
                self.scripts.append(tuple(self._script))
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self._script[1] += data
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def changed(run, change):
    """The run with other findings in its folder."""
    path = run.folder / "results.json"
    findings = json.loads(path.read_text())
    change(findings)
    path.write_text(json.dumps(findings))
    return read_run(run.folder)


def unpacked(elements):
    (raw,) = [text for attributes, text in elements.scripts if attributes.get("id") == "payload"]
    return json.loads(gzip.decompress(base64.b64decode(raw)))


def test_first_screen_says_what_results_say(make_run):
    run = make_run()
    text = Elements(page(run)).text
    for cell in run.findings.cells:
        assert " ".join(cell.verdict.sentence.split()) in text
        assert cell.recipe.read.statement in text
    assert "helpful, from helpful to" not in text  # what scripts write is not there yet
    assert "Which order did better?" in text


def test_every_number_of_a_pair_is_that_of_the_scores(make_run):
    run = make_run()
    found = unpacked(Elements(page(run)))
    rows = {(r["objective"], r["pair_id"], r["checkpoint"]): r for r in run.scores().to_pylist()}
    for name, objective in found["objectives"].items():
        for key, columns in objective["checkpoints"].items():
            seed, checkpoint = key.split("|")
            assert seed == "0"
            for pair_id, margin, chosen in zip(objective["ids"], columns["margin"], columns["chosen"], strict=True):
                row = rows[name, pair_id, checkpoint]
                expected = row["chosen_logp"] - row["base_chosen_logp"]
                assert chosen == pytest.approx(expected, abs=6e-5)
                rejected = row["rejected_logp"] - row["base_rejected_logp"]
                assert margin == pytest.approx(expected - rejected, abs=6e-5)


def test_score_matrix_shows_every_mean_of_results(make_run):
    run = make_run()
    text = Elements(page(run)).text
    for row in run.findings.score_matrix:
        assert f"{row.margin.value:+.2f} {row.accuracy.value:.1%}" in text


def test_charts_hold_the_numbers_of_results(make_run):
    run = make_run()
    found = unpacked(Elements(page(run)))
    cell, record = run.findings.cells[0], found["cells"][0]
    charts = {chart["key"]: chart for chart in record["charts"]}
    assert {row["flip"]: row["pairs"] for row in charts["flips"]["data"]["flips"]} == {
        name: n for name, n in to_json(cell.change.flips).items() if name != "tied"
    }
    rows = charts["quartiles"]["data"]["quartiles"]
    real = [row["value"] for row in rows if row["what"] == "this run (biased)"]
    controls = [row for row in rows if row["what"] == "its control stages"]
    excess = [row.excess_margin_change.value for row in cell.quartiles.excess_over_placebo.rows]
    assert [row["value"] for row in controls] == pytest.approx([0.0] * 4, abs=1e-9), "0.1 up in two, down in two"
    assert real == pytest.approx(excess)
    assert all(row["low"] < 0 < row["high"] for row in controls)
    mechanism = {chart["key"]: chart for chart in found["mechanism"]}
    (record,) = run.findings.mechanism.gradients
    trace = mechanism["gradients-helpful-helpful-harmless-seed0"]["data"]["trace"]
    assert [p["value"] for p in trace if p["what"] == "one batch"] == [p.raw_cosine for p in record.trace]
    assert f"{record.cosine.value:.2f}" in mechanism["gradients-helpful-helpful-harmless-seed0"]["caption"]
    (moved,) = mechanism["movement-helpful-harmless-seed0"]["data"]["modules"]
    assert (moved["cosine"], moved["controls"]) == (-0.25, None)


def test_mechanism_is_told_in_a_sentence_with_its_nulls(make_run):
    """Cosines -0.2, -0.25, -0.3: mean -0.25, SE 0.05 / sqrt 3, times t(2) = 4.303: 0.124 on each side; twice as much
    where the batches' halves share half of their squared norms."""
    text = Elements(page(make_run())).text
    assert "oppose each other (cosine -0.50 [-0.75, -0.25], bound ±0.1;" in text
    assert "with the noise of its batches -0.25 [-0.37, -0.13], below 0)" in text
    assert "the update has cosine -0.25 with the earlier adapter; with two control stages" in text


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ([0.4, 0.49], "By mean accuracy over objectives at the end: helpful>harmless ."),
        ([0.4, 0.51], "no clear winner"),
    ],
)
def test_an_order_is_a_winner_where_its_interval_lies_above_the_others(second, words, make_run):
    def change(findings):
        accuracy = findings["orders"][0]["final_accuracy"]
        accuracy["best"] = "helpful>harmless"
        for record, (low, high) in zip(accuracy["orders"], [(0.5, 0.6), second], strict=True):
            record["average"] |= {"low": low, "high": high}
        assert [record["order"] for record in accuracy["orders"]] == ["helpful>harmless", "harmless>helpful"]

    assert words in Elements(page(changed(make_run(), change))).text


def test_an_undefined_difference_of_orders_is_a_dash(make_run):
    def change(findings):
        for record in findings["orders"][0]["first_minus_last"]:
            record["over_seeds"]["value"] = None

    text = Elements(page(changed(make_run(), change))).text
    assert "Trained first rather than last, helpful : change of its margin – nats" in text


def test_no_mechanism_no_section(make_run):
    elements = Elements(page(make_run(mechanism=False)))
    assert ("section", "mechanism") not in [(tag, attributes.get("id")) for tag, attributes in elements.tags]
    assert unpacked(elements)["mechanism"] == []


def test_policy_names_each_script_by_its_hash_and_allows_nothing_else(make_run):
    elements = Elements(page(make_run()))
    (policy,) = [a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert "unsafe" not in directives["script-src"]
    run = [text for attributes, text in elements.scripts if attributes.get("type") is None]
    expected = [f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in run]
    assert directives["script-src"].split() == expected


def test_hostile_names_and_texts_make_no_element(make_run):
    plain = Elements(page(make_run()))
    hostile = Elements(page(make_run(prompt=HOSTILE, answer=HOSTILE, name=HOSTILE)))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert not [a for _, a in hostile.tags if any(name.startswith("on") for name in a)]
    assert "{{ 7*7 }}" in hostile.text  # shown, not evaluated


def test_texts_are_cut_and_the_cut_is_said(make_run):
    found = payload(make_run(prompt="x" * 1_000_000))
    (first, *_) = found["objectives"]["helpful"]["texts"]["prompt"]
    assert len(first) < LONGEST_TEXT + 80
    assert re.search(r"9[\d,]+ more characters in data/pairs.parquet", first)


def test_beyond_the_limit_texts_are_those_that_flipped_and_a_sample(make_run, monkeypatch):
    monkeypatch.setattr("seqdpo.report.payload.MOST_TEXTS", 40)
    run = make_run(n=60)
    found = payload(run)["objectives"]["helpful"]
    assert MOST_TEXTS == 20_000
    assert (found["n"], found["n_texts"]) == (60, 20)
    assert run.findings.cells[0].change.flips.lost <= 20
    before, after = (found["checkpoints"][f"0|{name}"]["margin"] for name in ("helpful", "helpful>harmless"))
    flipped = {i for i in range(60) if (before[i] > 0) != (after[i] > 0)}
    assert flipped <= set(found["texts"]["rows"])


def test_rounding_makes_no_tie(make_run):
    run = make_run()
    scores = run.scores().to_pylist()
    for row in scores:
        if row["pair_id"] == "helpful-1" and row["checkpoint"] == "helpful":
            row["chosen_logp"], row["rejected_logp"] = -50 + 1e-7, -50.0
    pq.write_table(pa.Table.from_pylist(scores, schema=SCORES_SCHEMA), run.folder / "scores.parquet")
    tiny = payload(read_run(run.folder))
    assert tiny["objectives"]["helpful"]["checkpoints"]["0|helpful"]["margin"][1] == 1e-4
