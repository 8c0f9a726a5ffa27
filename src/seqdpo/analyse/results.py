"""results.json: the findings of a study. docs/results.md describes every key."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from seqdpo.analyse import estimates
from seqdpo.analyse.cells import Cell, cells
from seqdpo.analyse.changes import change_record
from seqdpo.analyse.length import length_change_record, length_record
from seqdpo.analyse.mechanism import MechanismTables, mechanism_record
from seqdpo.analyse.orders import order_records
from seqdpo.analyse.panel import Panel, panels
from seqdpo.analyse.quartiles import independent_runs, quartile_record
from seqdpo.analyse.recipes import recipes
from seqdpo.analyse.score_matrix import score_matrix
from seqdpo.analyse.slices import slice_records
from seqdpo.analyse.transfer import transfer_records
from seqdpo.analyse.verdicts import Tolerances, verdicts
from seqdpo.study.keys import LossKeys

SCHEMA_VERSION = 4


def results(
    scores: pa.Table,
    pairs: pa.Table | None,
    beta: float,
    tolerances: Tolerances = Tolerances(),  # noqa: B008 - immutable
    study: Mapping[str, Any] | None = None,
    mechanism: MechanismTables | None = None,
) -> dict[str, Any]:
    """The content of results.json; undefined numbers are None (null).

    `scores` has the columns of scores.parquet and may come from elsewhere; `pairs` those of data/pairs.parquet, for
    prompts and slices. `study` is repeated as it is; its keys of the loss say what the stages of `mechanism` minimised.

    Raises: DataError as `seqdpo.analyse.panel.panels`, and for mechanism tables of other scores.
    """
    side_by_side = panels(scores, pairs)
    return {
        "schema_version": SCHEMA_VERSION,
        "study": dict(study or {}),
        "method": {
            "intervals": estimates.METHOD,
            "ties": "one half",
            "undefined": "null",
            "tolerances": tolerances._asdict(),
        },
        "cells": cell_records(cells(side_by_side), tolerances),
        "score_matrix": score_matrix(side_by_side, beta, tolerances.confidence),
        "transfer": transfer_records(side_by_side, beta, tolerances.confidence),
        "orders": order_records(side_by_side, beta, tolerances.confidence),
        "length": _lengths(side_by_side, tolerances.confidence),
        "mechanism": _mechanism(mechanism, side_by_side, beta, tolerances.confidence, study or {}),
    }


def _mechanism(
    tables: MechanismTables | None, of: Sequence[Panel], beta: float, confidence: float, study: Mapping[str, Any]
) -> dict[str, Any] | None:
    if tables is None:
        return None
    evaluated = [panel for panel in of if panel.split == "eval"]
    keys = LossKeys(**{name: study[name] for name in LossKeys.model_fields if name in study} | {"beta": beta})
    return mechanism_record(tables, evaluated, keys, confidence)


def cell_records(of: Sequence[Cell], tolerances: Tolerances) -> list[dict[str, Any]]:
    """One record for each cell: its verdict, what can be said of the recipe, and the tables behind them."""
    judged = zip(of, verdicts(of, tolerances), recipes(of, tolerances.confidence), strict=True)
    return [_cell_record(cell, verdict, recipe, tolerances.confidence) for cell, verdict, recipe in judged]


def _cell_record(cell: Cell, verdict: dict[str, Any], recipe: dict[str, Any], confidence: float) -> dict[str, Any]:
    clusters = cell.panel.clusters
    return {
        **cell.names,
        "n": len(clusters),
        "verdict": verdict,
        "recipe": {"quantity": verdict["decided_by"], **recipe},
        "change": change_record(cell.before, cell.after, clusters, confidence),
        "quartiles": quartile_record(cell, independent_runs(cell), confidence),
        "length": length_change_record(cell.before, cell.after, clusters, confidence),
        "slices": slice_records(cell, confidence),
    }


def _lengths(of: Sequence[Panel], confidence: float) -> list[dict[str, Any]]:
    """The length diagnostics of every real checkpoint after the base."""
    return [
        {
            "seed": at.seed,
            "order": at.order,
            "stage": at.stage,
            "checkpoint": panel.names[at],
            "objective": panel.objective,
            "split": panel.split,
            **length_record(scores, panel.clusters, confidence),
        }
        for panel in of
        for at, scores in panel.checkpoints.items()
        if at.stage and not at.placebo
    ]
