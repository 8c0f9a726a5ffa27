"""Which signals before a stage foretell what it leaves? `preflight_truth.py [--runs FOLDER] [--finished RUN ...]`.

Reads what `preflight_cells.py` made. A cell is an earlier objective and a later stage; what came is the share of the
objective's mean margin that the stage left. Each signal is made a forecast by a line that is fitted on one half of the
groups of cells, and tested on the other half: how often it tells the sign of a change beyond the tolerance, and how
often its 90% interval holds what came. Finished runs, as of `seqdpo demo --all` and `lab_truth.py settings`, are a
third set, of more pairs, that nothing was fitted on: there only the signals that scores know are known.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from preflight_cells import N_CONTROLS, PROBED_STEPS, RUNS, groups, raw_file
from scipy import stats
from tables import report

from seqdpo.analysis.kept import CONFIDENCE
from seqdpo.analysis.label_pull import label_slope
from seqdpo.report.finished import read_run
from seqdpo.runner.folder import RunFolder
from seqdpo.study.checkpoints import parse_order

TOLERANCE = 0.1
#: SEs that the present margin must lie above 0, and the accuracy above one half: else there is nothing to keep.
THERE = 2.0

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
                if _is_there(before):
                    again = _of(raw, name, "again").mean() / before.mean() if f"{name}.again" in raw else math.nan
                    signals = _from_scores(before, new, study.beta) | _from_passes(raw, name, before)
                    kept = float(after.mean() / before.mean())
                    yield Cell(f"{name} after {node.checkpoint}", number, node.stage, kept, again, signals)


def _is_there(margins: Column) -> bool:
    error = 0.5 / math.sqrt(len(margins))
    return bool(
        margins.mean() > THERE * margins.std() / math.sqrt(len(margins)) and np.mean(margins > 0) > 0.5 + THERE * error
    )


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
                if _is_there(before) and cell not in seen:
                    seen.add(cell)
                    signals = _from_scores(before, new, float(run.study["beta"]))
                    yield Cell(cell, number, at.stage, kept, math.nan, signals)


class Line(NamedTuple):
    """kept = level + weights . signals, fitted by least squares."""

    signals: tuple[str, ...]
    level: float
    weights: tuple[float, ...]
    error: float  # of a cell that it was not fitted on, by leaving out one at a time
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
    for i, cell in enumerate(known):
        found = _least_squares([*known[:i], *known[i + 1 :]], signals)
        left_out.append(cell.kept - Line(signals, found[0], tuple(found[1:]), 0.0, len(known) - 1).at(cell))
    return Line(signals, level, tuple(weights), float(np.sqrt(np.mean(np.square(left_out)))), len(known))


def _least_squares(cells: Sequence[Cell], signals: tuple[str, ...]) -> list[float]:
    x = np.array([[1.0, *(cell.signals[s] for s in signals)] for cell in cells])
    found: list[float] = np.linalg.lstsq(x, np.array([cell.kept for cell in cells]), rcond=None)[0].tolist()
    return found


class Told(NamedTuple):
    """What lines said of cells that they were not fitted on, and what came."""

    told: Column
    came: Column
    reach: Column

    def row(self) -> dict[str, Any]:
        beyond = np.abs(self.came - 1) > TOLERANCE
        right = np.sign(self.told - 1) == np.sign(self.came - 1)
        constant = len(self.told) < 3 or np.ptp(self.told) < 1e-9
        return {
            "n": len(self.told),
            "Spearman": None if constant else float(stats.spearmanr(self.told, self.came).statistic),
            "sign right": f"{right[beyond].sum()} of {beyond.sum()}",
            "held by 90%": f"{np.mean(np.abs(self.came - self.told) <= self.reach):.0%}" if len(self.told) else None,
            "median error": float(np.median(np.abs(self.came - self.told))) if len(self.told) else None,
        }


def told(line: Line, cells: Sequence[Cell]) -> Told:
    known = [cell for cell in cells if math.isfinite(line.at(cell))]
    values = np.array([line.at(cell) for cell in known])
    return Told(values, np.array([cell.kept for cell in known]), np.full(len(known), line.reach))


def crossed(halves: Sequence[Sequence[Cell]], signals: tuple[str, ...]) -> Told:
    """Each half told by the line of the other, all together."""
    parts = [told(fitted(mine, signals), other) for mine, other in (halves, halves[::-1])]
    return Told(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def compared(halves: Sequence[Sequence[Cell]], others: Sequence[Cell], signals: tuple[str, ...]) -> dict[str, Any]:
    every = [cell for half in halves for cell in half]
    of_cells, of_runs = crossed(halves, signals).row(), told(fitted(every, signals), others).row()
    if not of_runs["n"]:
        of_runs = dict.fromkeys(of_runs)
    name = " and ".join(signals) or "none: the mean of the other half"
    return {"signal": name, **of_cells, **{f"{key}, runs": value for key, value in of_runs.items()}}


def by_stage(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    """Third stages, told by the line of second ones: the objective before, and the one before that."""
    line = fitted([cell for cell in cells if cell.stage == 2], FORECAST)
    third = [cell for cell in cells if cell.stage == 3]
    for name, which in (("first objective", "first"), ("second objective", "other")):
        yield {"third stages": name, **told(line, [cell for cell in third if cell.name.startswith(which)]).row()}


def orders(cells: Sequence[Cell]) -> tuple[int, int]:
    """Of two orders of two objectives: how often that whose first one is forecast to keep more did, by other groups."""
    of_two = {cell.name: cell for cell in cells if cell.stage == 2}
    right = n = 0
    for name, cell in of_two.items():
        first, _, path = name.partition(" after ")
        second = path.split(">")[1]
        other = of_two.get(f"{second} after {second}>{first}")
        if other is not None and first < second:
            line = fitted([one for one in of_two.values() if one.group != cell.group], FORECAST)
            n += 1
            right += (line.at(cell) > line.at(other)) == (cell.kept > other.kept)
    return right, n


def picture(halves: Sequence[Sequence[Cell]], others: Sequence[Cell], output: Path) -> None:
    """Told and came: cells by the line of the other half, finished runs by the line of all."""
    import vl_convert

    sets = {
        "drawn cells": crossed(halves, FORECAST),
        "settings": told(fitted([*halves[0], *halves[1]], FORECAST), others),
    }
    rows = [
        {"told": float(x), "came": float(y), "low": float(x - r), "high": float(x + r), "of": name}
        for name, of in sets.items()
        for x, y, r in zip(*of, strict=True)
    ]
    ends = [min(r["came"] for r in rows) - 0.2, max(r["came"] for r in rows) + 0.2]
    axis = {"type": "quantitative", "scale": {"domain": ends}}
    x = {"field": "told", "title": "share of the margin forecast to be kept", **axis}
    spec = {
        "width": 420,
        "height": 380,
        "layer": [
            {
                "data": {"values": [{"told": e, "came": e} for e in ends]},
                "mark": {"type": "line", "color": "#999"},
                "encoding": {"x": x, "y": {"field": "came", **axis}},
            },
            {
                "data": {"values": rows},
                "mark": {"type": "rule", "opacity": 0.25},
                "encoding": {"x": {"field": "low", **axis}, "x2": {"field": "high"}, "y": {"field": "came", **axis}},
            },
            {
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "size": 60},
                "encoding": {
                    "x": x,
                    "y": {"field": "came", "title": "share that was kept", **axis},
                    "color": {"field": "of", "title": None},
                    "shape": {"field": "of"},
                },
            },
        ],
    }
    output.write_text(vl_convert.vegalite_to_svg(json.dumps(spec)), encoding="utf-8")


#: What the forecast of `seqdpo preflight` is made of.
FORECAST = ("transfer",)
TRIED = (
    (),
    ("opposed",),
    ("slope",),
    FORECAST,
    ("gradient",),
    ("probe",),
    ("probe beyond controls",),
    ("transfer", "gradient"),
    ("transfer", "probe beyond controls"),
    ("transfer", "opposed"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--finished", type=Path, nargs="*", default=[])
    parser.add_argument("--picture", type=Path, help="an SVG of forecast and came")
    asked = parser.parse_args()
    cells, others = list(drawn(asked.runs)), list(finished(asked.finished))
    second = [cell for cell in cells if cell.stage == 2]
    halves = [[cell for cell in second if cell.group % 2 == k] for k in (0, 1)]
    rows = [compared(halves, others, signals) for signals in TRIED]
    report(
        "preflight_truth", rows, "Lines fitted on one half of the groups, tested on the other; runs: on finished ones."
    )
    report("preflight_stages", list(by_stage(cells)), "Third stages, by the line of second ones.")
    line, again = fitted(second, FORECAST), [cell for cell in cells if math.isfinite(cell.again)]
    seen = [cell.signals["transfer"] for cell in second]
    print(f"\n{line}; transfers from {min(seen):.2f} to {max(seen):.2f}; {len(second)} cells, {len(others)} of runs")
    print(f"order right {orders(cells)}; another seed of the same stage: {[(c.kept, c.again) for c in again]}")
    if asked.picture:
        picture(halves, others, asked.picture)


if __name__ == "__main__":
    main()
