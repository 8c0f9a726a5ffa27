"""`seqdpo compare --html`: two runs side by side, down to the single pair."""

from typing import Any

import numpy as np
import pyarrow as pa

from seqdpo.analysis.comparison import Common, ComparedCheckpoint, shared_scores
from seqdpo.analysis.pair_query import Texts
from seqdpo.report.charts.margins import pair_scatter
from seqdpo.report.compared import ComparedRuns
from seqdpo.report.html import html
from seqdpo.report.page import may_harm
from seqdpo.report.payload import MOST_TEXTS, checkpoint_columns, pair_texts
from seqdpo.report.words import FLIP_WORDS, UNITS


def comparison_page(compared: ComparedRuns) -> str:
    """The whole of the file."""
    return html(
        "comparison.html.jinja",
        _payload(compared),
        blurred=may_harm(compared.a.study) or may_harm(compared.b.study),
        comparison=compared.findings,
        flip_words={name: word.in_two_runs for name, word in FLIP_WORDS.items()},
    )


def _payload(compared: ComparedRuns) -> dict[str, Any]:
    """As `seqdpo.report.payload.payload`: the checkpoints of A and B stand where those before and after do."""
    findings, texts, share = compared.findings, compared.a.texts, MOST_TEXTS // max(len(compared.common), 1)
    return {
        "run": f"{findings.a} {findings.b}",
        "titles": {"before": "A", "after": "B", "change": "B − A"},
        "measure": "margin",
        "unit": UNITS["margin"],
        "objectives": {one.objective: _objective(one, texts, share) for one in compared.common},
        "views": [_view(record) for record in findings.checkpoints],
        "cells": [],
        "overview": [],
        "mechanism": [],
        "training": [],
    }


def _objective(pairs: Common, texts: Texts, most_texts: int) -> dict[str, Any]:
    n, scores_of = len(pairs.pair_ids), shared_scores(pairs)
    checkpoints: dict[str, Any] = {}
    trajectories: dict[str, list[dict[str, Any]]] = {}
    for (seed, name), sides in scores_of.items():
        for side, scores in zip("AB", sides, strict=True):
            key = f"{seed}|{side}: {name}"
            checkpoints[key] = checkpoint_columns(scores)
            step = {"key": key, "name": f"{side}: {name}", "stage": f"{side}: {name}", "placebo": 0}
            trajectories.setdefault(f"{seed}|{name}", []).append(step)
    first = next(iter(scores_of.values()))[0]
    with_text = np.arange(min(n, most_texts))
    return {
        "ids": pairs.pair_ids.to_pylist(),
        "chosen_tokens": first.chosen_tokens.astype(int).tolist(),
        "rejected_tokens": first.rejected_tokens.astype(int).tolist(),
        "slices": {},
        "checkpoints": checkpoints,
        "trajectories": trajectories,
        "texts": pair_texts(texts(pairs.objective, pairs.split, pairs.pair_ids.take(pa.array(with_text))), with_text),
        "n_texts": len(with_text),
        "n": n,
    }


def _view(record: ComparedCheckpoint) -> dict[str, Any]:
    ends = [f"{side}: {record.checkpoint}" for side in "AB"]
    caption = f"Below the grey diagonal a pair has less margin in B. n = {record.n:,} pairs."
    return {
        "objective": record.objective,
        "seed": record.seed,
        "order": record.checkpoint,
        "from": ends[0],
        "from_base": False,
        "to": ends[1],
        "cell": None,
        "charts": [pair_scatter("Every pair in both runs", caption, ends[0], ends[1]).as_dict()],
    }
