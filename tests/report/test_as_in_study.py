"""The study's own quartile table: its numbers by hand, and the label of what it cannot tell."""

import io

import pyarrow.parquet as pq

from run_folders import pair, write_run
from seqdpo.analysis.results import results
from seqdpo.report.print_as_in_study import print_as_in_study
from seqdpo.screen import Screen

ORDER = "helpful>harmless"


def test_the_table_is_in_the_studys_measure_and_says_what_it_cannot_tell(tmp_path):
    """Margins 1 to 8 when taught, so two pairs a quartile; they fall to 0 in Q4 and stay elsewhere, and in the control
    stage all fall by 1. A nat of margin is .2125 nats a token here: Q4, of 7 and 8, changes by -7.5 * .2125 = -1.5938,
    and by -.2125 in the control stage. Its upper pair of Q3 has .2125 * 6 + .5 = 1.775, its lower of Q4 1.9875: the
    edge is a quarter of the way, 1.828."""
    taught = [float(i) for i in range(1, 9)]
    after = [*taught[:6], 0.0, 0.0]
    margins = {(ORDER, 1, 0): taught, (ORDER, 2, 0): after, (ORDER, 2, 1): [m - 1 for m in taught]}
    write_run(tmp_path / "run", {"helpful": [pair(f"{i:016x}") for i in range(8)]}, {"helpful": margins})
    screen = io.StringIO()
    findings = results(pq.read_table(tmp_path / "run/scores.parquet"), None, 0.3)
    print_as_in_study(Screen(file=screen, width=80), findings)
    lines = screen.getvalue().splitlines()
    assert lines[0].strip() == "helpful, from helpful to helpful>harmless (seed 0), in ln_margin"
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("Q")}
    assert rows["Q3"] == ["2", "+1.828", "+0.0000", "-0.2125", "+0.000", "0", "0"]
    assert rows["Q4"] == ["2", "–", "-1.5938", "-0.2125", "+0.000", "0", "0"]  # 0 is .5 a token: still right
    text = " ".join(screen.getvalue().split())
    assert "regression to the mean alone makes Q1 rise and Q4 fall" in text
    assert "What this table cannot tell: whether anything happened at all" in text
    assert max(len(line) for line in lines) <= 80
