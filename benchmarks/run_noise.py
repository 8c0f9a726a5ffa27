"""Is what is said of quartiles, slices and weights more than a run does by chance? `run_noise.py RUN...`.

Of finished runs with four or more control stages: each control stage is taken for the real one and judged beside the
others, so that everything found is false. Beside it what the pairs alone would say, and what is found of real stages.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from tables import report

from seqdpo.analysis.cells import Cell, cells
from seqdpo.analysis.panel import At
from seqdpo.analysis.quartiles import independent_runs, quartile_record
from seqdpo.analysis.run_noise import beyond_controls
from seqdpo.analysis.schema import ExcessTable, Slice
from seqdpo.analysis.slices import slice_records
from seqdpo.report.finished import Run, read_run

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE


class Claims(NamedTuple):
    """What is claimed of one stage, real or withheld: over its pairs alone, and by the rule."""

    redistributed_by_pairs: bool
    redistributed: bool
    q4_minus_q1: bool  # beside the control stages, at LEVEL
    slope: bool
    slice_by_pairs: bool  # some slice with q <= LEVEL
    slice: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    runs = [read_run(path) for path in parser.parse_args().runs]
    of_cells = [cell for run in runs for cell in cells(run.panels()) if len(cell.controls) > 2]
    rows = [
        _row("control stages, each withheld once", [claims(one) for cell in of_cells for one in withheld(cell)]),
        _row("real stages", [claims(cell) for cell in of_cells]),
    ]
    cosines = [found for run in runs for found in _cosines(run)]
    for row, real in zip(rows, (False, True), strict=True):
        p_values = [p for is_real, p in cosines if is_real == real]
        row["cosine of the weights"] = f"{np.mean([p <= LEVEL for p in p_values]):.1%} of {len(p_values)}"
    report(
        "run_noise",
        rows,
        f"{len(runs)} runs of the lab. Shares of stages of which something is claimed, each test at {LEVEL:.0%}; the "
        "first row has nothing to find. By pairs: over the noise of pairs alone.",
    )


def withheld(cell: Cell) -> Iterator[Cell]:
    """The cell with each of its control stages in place of the real one, beside the other control stages."""
    end = cell.at(cell.end)
    controls = cell.panel.controls(end)
    others = {at: scores for at, scores in cell.panel.checkpoints.items() if at != end and at not in controls}
    for one in controls:
        rest = [cell.panel.checkpoints[at] for at in controls if at != one]
        beside = {At(*end[:3], k): scores for k, scores in enumerate(rest, 1)}
        checkpoints = others | {end: cell.panel.checkpoints[one]} | beside
        names = {at: cell.panel.names.get(at, "") for at in checkpoints}
        yield replace(cell, panel=replace(cell.panel, checkpoints=checkpoints, names=names))


def claims(cell: Cell) -> Claims:
    quartiles = quartile_record(cell, independent_runs(cell), CONFIDENCE)
    slices = slice_records(cell, CONFIDENCE)
    table = quartiles.excess_over_placebo
    assert table is not None
    return Claims(
        redistributed_by_pairs=_by_pairs(table),
        redistributed=quartiles.finding is not None and quartiles.finding.redistributed_between_quartiles,
        q4_minus_q1=_found(table.q4_minus_q1.beyond_controls),
        slope=_found(quartiles.slope.beyond_controls),
        slice_by_pairs=_some_slice(slices),
        slice=any(one.q is not None and one.q <= LEVEL for one in slices),
    )


def _by_pairs(table: ExcessTable) -> bool:
    moved = [row.tested.value or 0 for row in table.rows if row.p_holm is not None and row.p_holm <= LEVEL]
    return min(moved, default=0) < 0 < max(moved, default=0)


def _some_slice(slices: list[Slice]) -> bool:
    p_values = [one.difference_from_rest.p for one in slices if one.difference_from_rest.p is not None]
    return bool(p_values) and bool((stats.false_discovery_control(p_values) <= LEVEL).any())


def _found(beyond: Any) -> bool:
    return beyond is not None and beyond.p is not None and beyond.p <= LEVEL


def _row(name: str, found: list[Claims]) -> dict[str, Any]:
    shares = {
        field.replace("_", " "): f"{np.mean(of):.1%}"
        for field, of in zip(Claims._fields, np.array(found).T, strict=True)
    }
    return {"taken for real": name, "stages": len(found), **shares}


def _cosines(run: Run) -> Iterator[tuple[bool, float]]:
    """Whether it is of a real stage, and the p of its cosine with the earlier adapter beside the others' controls."""
    rows = [row for row in run.movement.to_pylist() if row["module"] == "(all)" and row["cosine"] is not None]
    for parent, seed, real in {(row["parent"], row["seed"], row["checkpoint"].partition("~")[0]) for row in rows}:
        of = {
            row["placebo"]: row["cosine"]
            for row in rows
            if (row["parent"], row["seed"], row["checkpoint"].partition("~")[0]) == (parent, seed, real)
        }
        controls = [cosine for placebo, cosine in of.items() if placebo]
        for i, one in enumerate(controls):
            beyond = beyond_controls(one, [*controls[:i], *controls[i + 1 :]], CONFIDENCE)
            if beyond is not None and beyond.p is not None:
                yield False, beyond.p
        beyond = beyond_controls(of[0], controls, CONFIDENCE)
        if beyond is not None and beyond.p is not None:
            yield True, beyond.p


if __name__ == "__main__":
    main()
