"""Which signals before a stage foretell what it leaves? `preflight_truth.py [--runs FOLDER] [--finished RUN ...]`.

Reads what `preflight_cells.py` made. A cell is an earlier objective and a later stage; what came is the share of the
objective's mean margin that the stage left. Each signal is made a forecast by a line that is fitted on one half of the
groups of cells, and tested on the other half: how often it tells the sign of a change beyond the tolerance, and how
often its 90% interval holds what came. Finished runs, as of `seqdpo demo --all` and `lab_truth.py settings`, are a
third set, of more pairs, that nothing was fitted on: there only the signals that scores know are known.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from preflight_cells import N_CONTROLS, PROBED_STEPS, RUNS, groups, raw_file
from scipy import stats

from seqdpo.analysis.kept import CONFIDENCE
from seqdpo.analysis.label_pull import label_slope
from seqdpo.report.finished import read_run
from seqdpo.runner.folder import RunFolder
from seqdpo.study.checkpoints import parse_order

TOLERANCE = 0.1
#: SEs that the present margin must lie above 0: else there is nothing to keep.
THERE = 2.5

Column = NDArray[np.float64]


class Cell(NamedTuple):
    """An earlier objective and a later stage: signals by name, NaN where one is not known, and what came."""

    name: str
    group: int
    stage: int
    kept: float
    again: float  # by the same stage with another seed
    signals: dict[str, float]


def drawn(root: Path) -> Iterator[Cell]:
    """Of the cells that are there, those with something to keep."""
    for number, (study, later, _) in enumerate(groups(root)):
        folder = RunFolder(Path(study.output_dir))
        for node in later:
            if not raw_file(folder, node).is_file():
                continue
            raw = np.load(raw_file(folder, node))
            new = np.concatenate([_margin(raw, "labels_current", "labels_base"), _of(raw, node.objective, "current")])
            for name in node.path[:-1]:
                before, after = _of(raw, name, "current"), _of(raw, name, "came")
                if before.mean() > THERE * before.std() / math.sqrt(len(before)):
                    again = _of(raw, name, "again").mean() / before.mean() if f"{name}.again" in raw else math.nan
                    signals = _from_scores(before, new, study.beta) | _from_passes(raw, name, before)
                    kept = float(after.mean() / before.mean())
                    yield Cell(f"{name} after {node.checkpoint}", number, node.stage, kept, again, signals)


def _of(raw: Any, name: str, at: str) -> Column:
    return _margin(raw, f"{name}.{at}", f"{name}.base")


def _margin(raw: Any, policy: str, base: str) -> Column:
    """Of a policy's log-probabilities (2, n) and the base's; fewer of the policy are the first ones."""
    one, other = raw[policy], raw[base][:, : raw[policy].shape[1]]
    margins: Column = (one[0] - other[0]) - (one[1] - other[1])
    return margins


def _from_scores(before: Column, new: Column, beta: float) -> dict[str, float]:
    """Signals that take no more than scores of held-out pairs."""
    places = np.arange(len(new))
    return {
        "opposed": float(np.mean(new < 0)),
        "slope": label_slope(new, beta, places).value,
        "transfer": float(new.mean() / before.mean()),
    }


def _from_passes(raw: Any, name: str, before: Column) -> dict[str, float]:
    forecast, real = raw[f"{name}.forecast"], _of(raw, name, f"probe{PROBED_STEPS}.0")
    present = before[: len(real)]
    controls = [_of(raw, name, f"probe{PROBED_STEPS}.{k}") for k in range(1, N_CONTROLS + 1)]
    return {
        "gradient": float((forecast[0] - forecast[1]).mean() / present.mean()),
        "probe": float((real - present).mean() / present.mean()),
        "probe beyond controls": float((real - np.mean(controls, axis=0)).mean() / present.mean()),
    }


def finished(folders: Sequence[Path]) -> Iterator[Cell]:
    """The cells of finished runs; each seed and order once, whoever ran it."""
    seen = set()
    for number, root in enumerate(folders):
        run = read_run(root)
        panels = {panel.objective: panel for panel in run.panels()}
        for name, panel in panels.items():
            for at in panel.checkpoints:
                path = parse_order(at.order)[: at.stage]
                if at.placebo or at.stage < 2 or name not in path[:-1]:
                    continue
                start = at._replace(stage=at.stage - 1)
                before, after = panel.checkpoints[start].margin, panel.checkpoints[at].margin
                kept = float(after.mean() / before.mean())
                new = panels[path[-1]].checkpoints[start].margin
                cell = f"{run.name}: {name} after {'>'.join(path)} (seed {at.seed}, n = {len(before)})"
                if before.mean() > THERE * before.std() / math.sqrt(len(before)) and cell not in seen:
                    seen.add(cell)
                    signals = _from_scores(before, new, float(run.study["beta"]))
                    yield Cell(cell, number, at.stage, kept, math.nan, signals)


class Line(NamedTuple):
    """kept = level + weights . signals, fitted by least squares; error and df of its residuals by whole groups."""

    signals: tuple[str, ...]
    level: float
    weights: tuple[float, ...]
    error: float  # of a cell of a group that it was not fitted on, by leaving one group out at a time
    n: int

    def at(self, cell: Cell) -> float:
        return self.level + sum(
            w * cell.signals.get(s, math.nan) for w, s in zip(self.weights, self.signals, strict=True)
        )

    @property
    def reach(self) -> float:
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, self.n - len(self.weights) - 1)) * self.error


def fitted(cells: Sequence[Cell], signals: tuple[str, ...]) -> Line:
    known = [cell for cell in cells if all(math.isfinite(cell.signals.get(s, math.nan)) for s in signals)]
    level, *weights = _least_squares(known, signals)
    left_out = []
    for group in {cell.group for cell in known}:
        others = [cell for cell in known if cell.group != group]
        found = _least_squares(others, signals)
        line = Line(signals, found[0], tuple(found[1:]), 0.0, len(others))
        left_out += [cell.kept - line.at(cell) for cell in known if cell.group == group]
    return Line(signals, level, tuple(weights), float(np.sqrt(np.mean(np.square(left_out)))), len(known))


def _least_squares(cells: Sequence[Cell], signals: tuple[str, ...]) -> list[float]:
    x = np.array([[1.0, *(cell.signals[s] for s in signals)] for cell in cells])
    found: list[float] = np.linalg.lstsq(x, np.array([cell.kept for cell in cells]), rcond=None)[0].tolist()
    return found


def tested(line: Line, cells: Sequence[Cell]) -> dict[str, Any]:
    """How a line does on cells that it was not fitted on."""
    known = [(line.at(cell), cell.kept) for cell in cells if math.isfinite(line.at(cell))]
    if len(known) < 3:
        return {"n": len(known), "Spearman": None, "sign right": None, "of": 0, "held": None, "median error": None}
    told, came = np.array(known).T
    beyond = np.abs(came - 1) > TOLERANCE
    return {
        "n": len(known),
        "Spearman": float(stats.spearmanr(told, came).statistic),
        "sign right": float(np.mean(np.sign(told - 1)[beyond] == np.sign(came - 1)[beyond])) if beyond.any() else None,
        "of": int(beyond.sum()),
        "held": float(np.mean(np.abs(came - told) <= line.reach)),
        "median error": float(np.median(np.abs(came - told))),
    }


def pooled(halves: Sequence[Sequence[Cell]], signals: tuple[str, ...]) -> dict[str, Any]:
    """Each half told by a line of the other; what came and what was told, all together."""
    rows = []
    for mine, other in (halves, halves[::-1]):
        line = fitted(mine, signals)
        rows += [(line.at(cell), cell.kept, line.reach) for cell in other if math.isfinite(line.at(cell))]
    told, came, reach = np.array(rows).T
    beyond = np.abs(came - 1) > TOLERANCE
    return {
        "n": len(rows),
        "Spearman": float(stats.spearmanr(told, came).statistic),
        "sign right": float(np.mean(np.sign(told - 1)[beyond] == np.sign(came - 1)[beyond])),
        "of": int(beyond.sum()),
        "held": float(np.mean(np.abs(came - told) <= reach)),
        "median error": float(np.median(np.abs(came - told))),
    }


COMBINED = ("transfer",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--finished", type=Path, nargs="*", default=[])
    asked = parser.parse_args()
    cells, others = list(drawn(asked.runs)), list(finished(asked.finished))
    halves = [[cell for cell in cells if cell.group % 2 == k] for k in (0, 1)]
    rows = []
    names = [(name,) for name in cells[0].signals]
    for signals in [*names, ("transfer", "gradient"), ("transfer", "probe beyond controls"), ("transfer", "slope")]:
        row = {"signal": " and ".join(signals), "fitted on the other half": pooled(halves, signals)}
        print(row, tested(fitted(cells, signals), others), fitted(cells, signals), sep="\n  ")
        rows.append(row)


if __name__ == "__main__":
    main()
