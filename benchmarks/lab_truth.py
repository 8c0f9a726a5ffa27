"""Do the verdicts tell the truth that was planted? `python benchmarks/lab_truth.py [PART ...] [--runs FOLDER]`.

Three parts, with real trainings of the lab's model: with 30 control stages hours on two cores, with 4 half an hour; a
second call reads the runs that are there:
    angles    how much of an objective is left after a second one at a growing angle, over three seeds
    settings  what was learned in the lab's settings, and what later stages did to it
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
from seqdpo.analysis.recipes import ATTRIBUTABLE, recipes, strongest
from seqdpo.analysis.schema import Tolerances
from seqdpo.analysis.verdicts import rulings
from seqdpo.runner.board import board_for
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.study import run_study
from seqdpo.study.config import Study
from seqdpo.study.settings import SETTINGS

ANGLES = (0, 30, 60, 90, 120, 150, 180)
SEEDS = (0, 1, 2)
NAMES = ("lab-conflict", "lab-interaction", "lab-strong-signal", "lab-compatible", "lab-null")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["angles", "settings", "controls", []], default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs/lab-truth"))
    parser.add_argument("--controls", type=int, default=30, help="control stages beside each later one")
    asked = parser.parse_args()
    parts = asked.parts or ["angles", "settings", "controls"]
    if "angles" in parts:
        angles(_run(angle_study(asked.runs / "angles")))
    folders = {name: _run(_setting(name, asked.runs, asked.controls)) for name in NAMES if parts != ["angles"]}
    if "settings" in parts:
        settings(folders)
    if "controls" in parts:
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
            "verdict": _words(cell["verdict"]),
            "beside it": ", ".join(cell["verdict"]["tags"]) or None,
            "attributable": ", ".join(
                name
                for name in ("margin", "accuracy", "flips")
                if cell["recipe"]["quantity"] and cell["recipe"][name]["statement"] == ATTRIBUTABLE
            )
            or None,
            "control stages": cell["recipe"]["margin"]["n_controls"],
            "n": cell["n"],
        }
        for name, folder in folders.items()
        for cell in json.loads(folder.results.read_text(encoding="utf-8"))["cells"]
    ]
    report("lab_settings", rows, "What the second stage did to the first objective.")
    cards = [
        {
            "setting": name,
            "stage": card["checkpoint"],
            "objective": card["objective"],
            "learned": card["word"],
            "right": card["accuracy"]["value"],
            "n": card["accuracy"]["n"],
        }
        for name, folder in folders.items()
        for card in json.loads(folder.results.read_text(encoding="utf-8"))["learned"]
    ]
    report("lab_learned", cards, "Whether each stage taught its own objective.")


def _words(verdict: dict[str, Any]) -> str:
    by_accuracy = verdict["decided_by"] == "accuracy" and verdict["verdict"] in ("DEGRADED", "POSITIVE TRANSFER")
    return " ".join(filter(None, (verdict["verdict"], "accuracy" if by_accuracy else verdict["degree"])))


def controls(folders: dict[str, RunFolder]) -> None:
    rows = [
        {"setting": name, **_judged(cell)}
        for name, folder in folders.items()
        for cell in cells(panels(pq.read_table(folder.scores), pq.read_table(folder.pairs)))
        if rulings([cell], Tolerances())[0].classes is not None
    ]
    counts = [key for key, value in rows[0].items() if isinstance(value, int)]
    total = {key: sum(row[key] for row in rows) if key in counts else None for key in rows[0]}
    report(
        "lab_controls",
        [*rows, total | {"setting": "all"}],
        "Each control stage judged against the others as if it were the real stage; ATTRIBUTABLE is an error. "
        "The words for checkpoints are none: run noise does change a checkpoint. The mean change of the margin over "
        "the control stages and its SD (run noise) are shares of the gain.",
    )


def _judged(cell: Cell) -> dict[str, Any]:
    words, redistributed, statements, noise, accuracy = [], [], [], [], []
    for one in _as_real(cell):
        (ruling,), (recipe,) = rulings([one], Tolerances()), recipes([one], Tolerances().confidence)
        words.append(ruling.word)
        redistributed.append(ruling.word == "REDISTRIBUTED" or "redistributed" in ruling.tags)
        statements.append(recipe[strongest(recipe)].statement)
        noise.append(ruling.evidence.margin.value.value / ruling.evidence.gain.value)
        accuracy.append(ruling.evidence.accuracy.value.value)
    return {
        "after": cell.name(cell.end),
        "control stages": len(statements),
        "ATTRIBUTABLE": statements.count(ATTRIBUTABLE),
        "redistributed": sum(redistributed),
        **{word: words.count(word) for word in ("STABLE", "DEGRADED", "POSITIVE TRANSFER", "INCONCLUSIVE")},
        "mean change": float(np.mean(noise)),
        "run noise": float(np.std(noise, ddof=1)),
        "accuracy change": float(np.mean(accuracy)),
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
