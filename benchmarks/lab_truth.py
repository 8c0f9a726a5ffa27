"""Do the verdicts tell the truth that was planted? `python benchmarks/lab_truth.py [--runs runs/lab-truth]`.

Three parts, with real trainings of the lab's model, about half an hour on two cores; a second call reads the runs
that are there:
    angles    how much of an objective is left after a second one at a growing angle, over three seeds
    settings  the verdicts of lab-conflict, lab-compatible and lab-null, with control stages
    controls  each control stage judged against the others as if it were the real one: ATTRIBUTABLE is an error
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from tables import report

from seqdpo.analysis.cells import Cell, cells
from seqdpo.analysis.panel import At, Panel, panels
from seqdpo.analysis.recipes import ATTRIBUTABLE, recipes
from seqdpo.analysis.schema import Tolerances
from seqdpo.analysis.verdicts import verdicts
from seqdpo.runner.board import board_for
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.study import run_study
from seqdpo.study.config import Study
from seqdpo.study.settings import SETTINGS

ANGLES = (0, 30, 60, 90, 120, 150, 180)
SEEDS = (0, 1, 2)
#: setting -> its control stages in each order
N_CONTROLS = {"lab-conflict": 30, "lab-null": 30, "lab-compatible": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/lab-truth"))
    runs = parser.parse_args().runs
    angles(_run(angle_study(runs / "angles")))
    folders = {name: _run(_setting(name, runs, placebo)) for name, placebo in N_CONTROLS.items()}
    settings(folders)
    controls(folders)


def angle_study(output_dir: Path) -> Study:
    """One objective, then one of several others at a growing angle; all orders share their first stage."""
    first = {"format": "lab", "angle": 0}
    # what becomes of the others is not the question: few of their pairs are scored
    later = {f"at{angle}": {"format": "lab", "angle": angle, "max_eval_pairs": 20} for angle in ANGLES}
    return Study.model_validate(
        SETTINGS["lab-null"].defaults
        | {
            "objectives": {"first": first, **later},
            "orders": [["first", name] for name in later],
            "seeds": list(SEEDS),
            "placebo": 0,
            "output_dir": str(output_dir),
        }
    )


def _setting(name: str, output_dir: Path, placebo: int) -> Study:
    values = {"setting": name, "placebo": placebo, "output_dir": str(output_dir / name)}
    return Study.model_validate(SETTINGS[name].defaults | values)


def _run(study: Study) -> RunFolder:
    with board_for(Console()) as board:
        return run_study(study, board)


def angles(folder: RunFolder) -> None:
    found = json.loads(folder.results.read_text(encoding="utf-8"))["cells"]
    kept = {(cell["order"], cell["seed"]): cell["verdict"]["reasons"]["retention"]["value"] for cell in found}
    accuracy = {(cell["order"], cell["seed"]): cell["verdict"]["reasons"]["accuracy_after"] for cell in found}
    rows = [
        {
            "angle": angle,
            **{f"kept, seed {seed}": kept[f"first>at{angle}", seed] for seed in SEEDS},
            "kept, mean": float(np.mean([kept[f"first>at{angle}", seed] for seed in SEEDS])),
            "accuracy, mean": float(np.mean([accuracy[f"first>at{angle}", seed] for seed in SEEDS])),
        }
        for angle in ANGLES
    ]
    report("lab_angles", rows, "Share of the first objective's margin that is left after a second one at an angle.")


def settings(folders: dict[str, RunFolder]) -> None:
    rows = [
        {
            "setting": name,
            "objective": cell["objective"],
            "after": cell["to"],
            "kept": cell["verdict"]["reasons"].get("retention", {"value": None})["value"],
            "verdict": " ".join(filter(None, (cell["verdict"]["verdict"], cell["verdict"]["degree"]))),
            "recipe": cell["recipe"][cell["recipe"]["quantity"]]["statement"] if cell["recipe"]["quantity"] else None,
            "control stages": cell["recipe"]["margin"]["n_controls"],
            "n": cell["n"],
        }
        for name, folder in folders.items()
        for cell in json.loads(folder.results.read_text(encoding="utf-8"))["cells"]
    ]
    report("lab_settings", rows, "What the second stage did to the first objective.")


def controls(folders: dict[str, RunFolder]) -> None:
    rows = [
        {"setting": name, **_judged(cell)}
        for name, folder in folders.items()
        for cell in cells(panels(pq.read_table(folder.scores), pq.read_table(folder.pairs)))
        if verdicts([cell], Tolerances())[0].verdict != "UNDEFINED"
    ]
    counts = [key for key, value in rows[0].items() if isinstance(value, int)]
    total = {key: sum(row[key] for row in rows) if key in counts else None for key in rows[0]}
    report(
        "lab_controls",
        [*rows, total | {"setting": "all"}],
        "Each control stage judged against the others as if it were the real stage; ATTRIBUTABLE is an error. "
        "The verdicts on the checkpoints are none: run noise does change a checkpoint. Run noise is the SD of the mean "
        "change over the control stages, as a share of the gain.",
    )


def _judged(cell: Cell) -> dict[str, Any]:
    words, statements, noise = [], [], []
    for one in _as_real(cell):
        (verdict,), (recipe,) = verdicts([one], Tolerances()), recipes([one], Tolerances().confidence)
        words.append(verdict.verdict)
        statements.append(recipe[verdict.decided_by].statement)
        noise.append(verdict.reasons.margin_change.value / verdict.reasons.gain.value)
    return {
        "after": cell.name(cell.end),
        "control stages": len(statements),
        "ATTRIBUTABLE": statements.count(ATTRIBUTABLE),
        **{word: words.count(word) for word in ("STABLE", "DEGRADED", "POSITIVE TRANSFER", "REDISTRIBUTED")},
        "run noise": float(np.std(noise, ddof=1)),
    }


def _as_real(cell: Cell) -> Iterator[Cell]:
    """The cell once for each of its control stages, in the place of the real one."""
    real = cell.at(cell.end)
    controls = cell.panel.controls(real)
    for one in controls:
        kept = [at for at in controls if at != one]
        checkpoints: dict[At, Any] = {at: cell.panel.checkpoints[at] for at in (cell.at(cell.start), *kept)}
        panel: Panel = replace(cell.panel, checkpoints={**checkpoints, real: cell.panel.checkpoints[one]})
        yield replace(cell, panel=panel)


if __name__ == "__main__":
    main()
