"""What the page's scripts read: every number of every pair by column, texts, and the pictures."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqdpo.analysis.cells import Cell, cells
from seqdpo.analysis.generations import looks_like_refusal
from seqdpo.analysis.margins import Column, PairScores
from seqdpo.analysis.panel import At, Panel
from seqdpo.analysis.quartiles import quartiles
from seqdpo.analysis.schema import PairMeasure
from seqdpo.report.charts import cell_charts, mechanism_charts, overview_charts, remedy_charts, training_charts
from seqdpo.report.finished import Run
from seqdpo.report.words import UNITS
from seqdpo.tables import SLICE_PREFIX

#: Pairs whose texts are on the page; beyond that those that flipped, and a sample of the rest.
MOST_TEXTS = 20_000
#: Characters of a text; the rest is in data/pairs.parquet.
LONGEST_TEXT = 20_000
DECIMALS = 4


def payload(run: Run, measure: PairMeasure = "margin") -> dict[str, Any]:
    """Plain lists and dicts for JSON; undefined is None."""
    side_by_side, findings = run.panels(measure), run.findings.in_measure(measure)
    of = cells(side_by_side)
    share = MOST_TEXTS // max(len(side_by_side), 1)
    return {
        "run": run.name,
        "titles": {"before": "before", "after": "after", "change": "change"},
        "measure": measure.replace("_", " "),
        "unit": UNITS[measure],
        "objectives": {panel.objective: _objective(panel, of, run, share) for panel in side_by_side},
        "views": views(side_by_side, of),
        "cells": [
            {"charts": [chart.as_dict() for chart in cell_charts(record)], "quartile": _quartiles(cell)}
            for cell, record in zip(of, findings.cells, strict=True)
        ],
        "remedies": [chart.as_dict() for chart in remedy_charts(findings, run.tables)],
        "overview": [chart.as_dict() for chart in overview_charts(findings, run.tables)],
        "training": [chart.as_dict() for chart in training_charts(findings, run.tables)],
        "mechanism": [chart.as_dict() for chart in mechanism_charts(findings, run.tables)],
    }


def views(side_by_side: Sequence[Panel], of: Sequence[Cell]) -> list[dict[str, Any]]:
    """What can be chosen: every cell first, then what each stage did to every objective."""
    of_cells = [_view(cell.panel, cell.at(cell.start), cell.at(cell.end), number) for number, cell in enumerate(of)]
    steps = [
        _view(panel, At(seed, order, before), At(seed, order, after), None)
        for panel in side_by_side
        for seed, order in panel.orders()
        for before, after in pairwise(panel.stages(seed, order))
    ]
    of_steps: dict[tuple[Any, ...], dict[str, Any]] = {}
    for view in steps:  # orders that begin alike share their first
        of_steps.setdefault(_key(view), view)
    known = {_key(view) for view in of_cells}
    return of_cells + [view for key, view in of_steps.items() if key not in known]


def _view(panel: Panel, start: At, end: At, cell: int | None) -> dict[str, Any]:
    return {
        "objective": panel.objective,
        "seed": end.seed,
        "order": end.order,
        "from": panel.names[start],
        "from_base": start.stage == 0,
        "to": panel.names[end],
        "cell": cell,
    }


def _key(view: Mapping[str, Any]) -> tuple[Any, ...]:
    return view["objective"], view["seed"], view["from"], view["to"]


def _objective(panel: Panel, of: Sequence[Cell], run: Run, most_texts: int) -> dict[str, Any]:
    n = len(panel.pair_ids)
    first = next(iter(panel.checkpoints.values()))
    checkpoints = {}
    for at, name in panel.names.items():
        scores = panel.checkpoints[at]
        checkpoints[f"{at.seed}|{name}"] = checkpoint_columns(scores)
    with_text = _with_text(panel, [cell for cell in of if cell.panel is panel], most_texts)
    return {
        "ids": panel.pair_ids.to_pylist(),
        "chosen_tokens": first.chosen_tokens.astype(int).tolist(),
        "rejected_tokens": first.rejected_tokens.astype(int).tolist(),
        "slices": _slices(panel),
        "checkpoints": checkpoints,
        "trajectories": {f"{seed}|{order}": _trajectory(panel, seed, order) for seed, order in panel.orders()},
        "texts": pair_texts(
            run.texts(panel.objective, panel.split, panel.pair_ids.take(pa.array(with_text))), with_text
        ),
        "answers": _answers(run, panel.objective),
        "n_texts": len(with_text),
        "n": n,
    }


def _answers(run: Run, objective: str) -> list[dict[str, Any]]:
    """What checkpoints answered to some of its prompts."""
    if run.generations is None:
        return []
    rows = run.generations.filter(pc.field("objective") == objective).to_pylist()
    return [
        {
            "id": row["pair_id"],
            "seed": row["seed"],
            "checkpoint": row["checkpoint"],
            "text": _cut(row["response"]),
            "tokens": row["tokens"],
            "refusal": looks_like_refusal(row["response"]),
        }
        for row in rows
    ]


def _trajectory(panel: Panel, seed: int, order: str) -> list[dict[str, Any]]:
    """The checkpoints along an order, control stages among them."""
    return [
        {"key": f"{seed}|{name}", "name": name, "stage": at.stage, "placebo": at.placebo}
        for at, name in sorted(panel.names.items())
        if (at.seed, at.order) == (seed, order)
    ]


def _slices(panel: Panel) -> dict[str, list[Any]]:
    """The columns that slices are made of, as texts."""
    found = {}
    for name in panel.metadata.column_names:
        if name.startswith(SLICE_PREFIX):
            column = panel.metadata[name]
            column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
            found[name.removeprefix(SLICE_PREFIX)] = [None if v is None else str(v)[:80] for v in column.to_pylist()]
    return found


def _with_text(panel: Panel, of: Sequence[Cell], most: int) -> NDArray[np.int64]:
    """The rows whose texts the page holds, ascending: all, or those that flipped somewhere and a sample."""
    n = len(panel.pair_ids)
    if n <= most:
        return np.arange(n)
    flipped = np.zeros(n, dtype=bool)
    for cell in of:
        flipped |= (cell.before.margin > 0) != (cell.after.margin > 0)
    shuffled = np.random.default_rng(0).permutation(n)
    ranked = np.concatenate([shuffled[flipped[shuffled]], shuffled[~flipped[shuffled]]])
    return np.sort(ranked[:most])


def checkpoint_columns(scores: PairScores) -> dict[str, list[float | None]]:
    """What a checkpoint says of each pair: margin, and how much likelier than the base the chosen response is; nats.

    In another measure both are of that.
    """
    return {
        "margin": _numbers(scores.margin),
        "chosen": _numbers(scores.chosen_side),
    }


def pair_texts(texts: pa.Table, rows: NDArray[np.int64]) -> dict[str, list[Any]]:
    """Prompt as turns, chosen, rejected of the pairs at `rows`."""
    return {
        "rows": rows.tolist(),
        "prompt": [_prompt(turns) for turns in texts["prompt"].to_pylist()],
        "chosen": [_cut(text) for text in texts["chosen"].to_pylist()],
        "rejected": [_cut(text) for text in texts["rejected"].to_pylist()],
    }


def _prompt(turns: Sequence[Mapping[str, str]]) -> str:
    return _cut(
        "\n\n".join(
            turn["content"] if turn["role"] == "text" else f"{turn['role']}: {turn['content']}" for turn in turns
        )
    )


def _cut(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]} … [{len(text) - LONGEST_TEXT:,} more characters in data/pairs.parquet]"


def _quartiles(cell: Cell) -> list[int]:
    """The quartile of each pair, 0 to 3, by its margin when the objective was taught; -1 where undefined."""
    codes: list[int] = quartiles(cell.when_taught.margin).codes.tolist()
    return codes


def _numbers(values: Column) -> list[float | None]:
    """Rounded, but never to a tie that is none."""
    least = 10.0**-DECIMALS
    rounded = np.round(values, DECIMALS)
    rounded = np.where((rounded == 0) & (values != 0), np.copysign(least, values), rounded)
    return [None if math.isnan(value) else value for value in rounded.tolist()]
