"""`seqdpo gate` in a pipeline: its exit code, and what it prints beside it; the tables that `run` prints."""

import io
import json
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest

from run_folders import pair, write_run
from seqdpo.analysis.results import results
from seqdpo.analysis.schema import findings_from_json, to_json
from seqdpo.report.print_findings import print_results
from seqdpo.screen import Screen

ORDER = "helpful>harmless"
PAIRS = [pair(f"{i:016x}", slice_topic="sofa" if i % 3 else "kettle") for i in range(200)]
#: 200 margins around 2 when taught; the noise of a later stage has mean 0.
TAUGHT = 2 + np.linspace(-1, 1, 200)
NOISE = 0.1 * np.sin(np.arange(200))
NOISE -= NOISE.mean()


def write_finished(root, kept, controls=1):
    """A run that keeps this share of helpful's margin; each control stage k keeps 1 - k/100."""
    margins = {(ORDER, 1, 0): TAUGHT, (ORDER, 2, 0): kept * TAUGHT + NOISE}
    margins |= {(ORDER, 2, k): (1 - k / 100) * TAUGHT - NOISE for k in range(1, controls + 1)}
    write_run(root, {"helpful": PAIRS}, {"helpful": {at: list(values) for at, values in margins.items()}})
    found = results(pq.read_table(root / "scores.parquet"), pq.read_table(root / "data" / "pairs.parquet"), 0.3)
    (root / "results.json").write_text(json.dumps(to_json(found), allow_nan=False))
    return root


@pytest.fixture
def gate(seqdpo):
    return partial(seqdpo, "gate")


def test_a_degraded_objective_fails_the_gate(tmp_path, gate):
    code, output, _ = gate(write_finished(tmp_path / "run", kept=0.7), "--max-loss", 0.05)
    assert code == 1
    flat = " ".join(output.split())
    assert (
        "failed helpful at the end of helpful>harmless (seed 0, n=200): lost more than 5% of the learned margin" in flat
    )
    assert "margin lost 30.0% [" in flat and "accuracy lost 0.0% [" in flat and "ranking accuracy gained" in flat
    assert max(map(len, output.splitlines())) <= 80


def test_a_kept_objective_passes(tmp_path, gate):
    root = write_finished(tmp_path / "run", kept=0.99)
    code, output, _ = gate(root, "--max-loss", 0.05, "--max-accuracy-loss", 0.03)
    assert code == 0
    assert output.startswith("passed helpful")


def test_a_loss_in_percent_is_refused(tmp_path, gate):
    code, output, errors = gate(write_finished(tmp_path / "run", kept=0.7), "--max-loss", 5)
    assert (code, output) == (2, "")
    assert "--max-loss = 5 is no share" in errors and "For 5% give 0.05." in errors


def test_a_gain_is_called_one(tmp_path, gate):
    code, output, _ = gate(write_finished(tmp_path / "run", kept=1.5), "--max-loss", 0.05)
    assert code == 0
    assert "margin gained 50.0% [" in " ".join(output.split())


def test_a_loss_at_the_limit_is_open_and_fails_only_a_strict_gate(tmp_path, gate):
    root = write_finished(tmp_path / "run", kept=0.95)
    assert gate(root, "--max-loss", 0.05)[0] == 0
    code, output, _ = gate(root, "--max-loss", 0.05, "--strict")
    assert code == 1
    assert "neither shown nor ruled out" in " ".join(output.split())


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (lambda root: None, ["--objective", "helpfull"], "Did you mean 'helpful'?"),
        (lambda root: (root / "results.json").unlink(), [], "results.json: no such file"),
        (lambda root: (root / "results.json").write_text("{"), [], "results.json: cannot be read"),
        (lambda root: (root / "results.json").write_text('{"schema_version": 1}'), [], "expected 5"),
        (lambda root: (root / "scores.parquet").unlink(), [], "the run is not finished"),
    ],
)
def test_what_cannot_be_gated_is_an_error_and_no_failed_gate(tmp_path, gate, spoil, arguments, message):
    root = write_finished(tmp_path / "run", kept=0.7)
    spoil(root)
    code, output, errors = gate(root, "--max-loss", 0.05, *arguments)
    assert (code, output) == (2, "")
    assert message in errors


def write_with_variant(root):
    """Plain training kept 70%, the variant 99%."""
    margins = {}
    for order, kept in ((ORDER, 0.7), (f"{ORDER}@replay", 0.99)):
        margins |= {(order, 1, 0): TAUGHT, (order, 2, 0): kept * TAUGHT + NOISE, (order, 2, 1): TAUGHT - NOISE}
    new = {at: list(NOISE + 2 * (at[1] == 2)) for at in margins}
    of = {"helpful": {at: list(values) for at, values in margins.items()}, "harmless": new}
    write_run(root, {"helpful": PAIRS, "harmless": PAIRS}, of)
    tables = [pq.read_table(root / name) for name in ("scores.parquet", "data/pairs.parquet")]
    found = results(*tables, 0.3, study={"variants": {"replay": {"replay": 0.1}}})
    (root / "results.json").write_text(json.dumps(to_json(found), allow_nan=False))
    return root


def test_variants_are_looked_at_where_one_is_named(tmp_path, gate):
    root = write_with_variant(tmp_path / "run")
    code, output, _ = gate(root, "--max-loss", 0.05)
    assert (code, output.count("at the end of")) == (1, 1)
    for arguments in (("--variant", "replay"), ("--order", "helpful/harmless@replay")):
        code, output, _ = gate(root, "--max-loss", 0.05, "--max-accuracy-loss", 0.03, *arguments)
        assert code == 0
        assert output.startswith("passed helpful at the end of helpful>harmless@replay")
    code, _, errors = gate(root, "--max-loss", 0.05, "--variant", "reply")
    assert code == 2
    assert "--variant = 'reply': not in this run; expected one of 'replay'. Did you mean 'replay'?" in " ".join(
        errors.split()
    )


def test_variants_are_printed_in_a_table_that_fits(tmp_path):
    output = printed(write_with_variant(tmp_path / "run"))
    assert max(map(len, output.splitlines())) <= 80
    flat = " ".join(output.split())
    assert "replay * 99% [" in flat
    assert "plain 70% [" in flat
    assert "helpful>harmless: replay keeps 99% [" in flat
    assert "~placebo1" in output and "@replay~placebo1" not in output  # variants have no table of every checkpoint


def printed(root, width=80):
    screen = io.StringIO()
    path = root / "results.json"
    print_results(Screen(file=screen, width=width), findings_from_json(path.read_text(), path))
    return screen.getvalue()


def test_findings_fit_the_screen_and_say_verdict_and_recipe(tmp_path):
    output = printed(write_finished(tmp_path / "run", kept=0.7))
    assert max(map(len, output.splitlines())) <= 80
    flat = " ".join(output.split())
    assert "helpful +harmless 70% [69%, 71%] DEGRADED untested partial scale only" in flat
    assert "70% [69%, 71%] of the margin that helpful had learned is left after harmless" in flat
    assert "helpful>harmless helpful LEARNED PRESENT 100%" in flat
    assert "Next: Settle whether harmless did it: 3 more control stages" in flat and "(--placebo 4)" in flat


def test_with_control_stages_the_recipe_is_named_and_they_share_a_row(tmp_path):
    output = printed(write_finished(tmp_path / "run", kept=0.7, controls=3))
    assert "attributable" in output
    assert "~placebo, mean of 3" in output  # margins of 1.98, 1.96 and 1.94
    row = next(line for line in output.splitlines() if "mean of 3" in line)
    assert "+1.96" in row
    assert "--placebo" not in output
    flat = " ".join(output.split())
    assert "the accuracy by +0.000 (3 control stages)" in flat
    assert "Recipe, by 3 control stages in 1 seed: ATTRIBUTABLE: margin (-0.56 [" in flat  # -0.60 less a mean of -0.04
    assert "NOT SEPARABLE FROM RUN NOISE: accuracy (" in flat
    # the SD of -0.02, -0.04 and -0.06, and -0.6 -+ 4.303 * 0.02 * sqrt(2)
    assert "varies by an SD of 0.02; the next run of this recipe is expected between -0.72 and -0.48" in flat


def test_results_are_json_without_nan_and_keep_their_keys(tmp_path):
    root = write_finished(tmp_path / "run", kept=0.7)
    found = json.loads((root / "results.json").read_text())
    assert set(found) == {
        "schema_version", "study", "method", "cells", "learned", "at_the_end", "score_matrix", "transfer", "orders",
        "length", "other_measures", "mechanism",
    }  # fmt: skip
    (cell,) = found["cells"]
    assert [cell[key] for key in ("seed", "order", "objective", "taught", "from", "to", "n")] == [
        0, ORDER, "helpful", "helpful", "helpful", ORDER, 200,
    ]  # fmt: skip
    assert {record["column"] for record in cell["slices"]} == {"slice_topic"}  # the lengths are all the same
