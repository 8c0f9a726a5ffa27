"""`seqdpo compare --html`: two runs side by side, down to the single pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from seqdpo.analyse.margins import PairScores
from seqdpo.report.charts.cell import pair_scatter
from seqdpo.report.html import html
from seqdpo.report.payload import MOST_TEXTS, checkpoint_columns, pair_texts
from seqdpo.report.source import Texts

Record = Mapping[str, Any]
FLIP_WORDS = {
    "kept": "right in both",
    "lost": "right only in A",
    "regained": "right only in B",
    "never": "wrong in both",
    "tied": "margin of 0",
}


@dataclass(frozen=True, slots=True)
class ComparedPairs:
    """The pairs of one objective that both runs have, and what their common checkpoints say of them."""

    objective: str
    split: str
    pair_ids: pa.Array  # (n_pairs,)
    checkpoints: Mapping[tuple[int, str], tuple[PairScores, PairScores]]  # (seed, name) -> A and B, the same pairs


def comparison_page(comparison: Record, pairs: Sequence[ComparedPairs], texts: Texts, blurred: bool) -> str:
    """The whole of the file; `comparison` is that of `seqdpo compare --format json`."""
    return html(
        "comparison.html.jinja",
        _payload(comparison, pairs, texts),
        blurred=blurred,
        comparison=comparison,
        flip_words=FLIP_WORDS,
    )


def _payload(comparison: Record, pairs: Sequence[ComparedPairs], texts: Texts) -> dict[str, Any]:
    """As `seqdpo.report.payload.payload`: the checkpoints of A and B stand where those before and after do."""
    share = MOST_TEXTS // max(len(pairs), 1)
    return {
        "run": f"{comparison['a']} {comparison['b']}",
        "titles": {"before": "A", "after": "B", "change": "B − A"},
        "objectives": {one.objective: _objective(one, texts, share) for one in pairs},
        "views": [_view(record) for record in comparison["checkpoints"]],
        "cells": [],
        "overview": [],
        "mechanism": [],
    }


def _objective(pairs: ComparedPairs, texts: Texts, most_texts: int) -> dict[str, Any]:
    n = len(pairs.pair_ids)
    checkpoints: dict[str, Any] = {}
    trajectories: dict[str, list[dict[str, Any]]] = {}
    for (seed, name), sides in pairs.checkpoints.items():
        for side, scores in zip("AB", sides, strict=True):
            key = f"{seed}|{side}: {name}"
            checkpoints[key] = checkpoint_columns(scores)
            step = {"key": key, "name": f"{side}: {name}", "stage": f"{side}: {name}", "placebo": 0}
            trajectories.setdefault(f"{seed}|{name}", []).append(step)
    first = next(iter(pairs.checkpoints.values()))[0]
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


def _view(record: Record) -> dict[str, Any]:
    ends = [f"{side}: {record['checkpoint']}" for side in "AB"]
    caption = f"Below the grey diagonal a pair has less margin in B. n = {record['n']:,} pairs."
    return {
        "objective": record["objective"],
        "seed": record["seed"],
        "order": record["checkpoint"],
        "from": ends[0],
        "to": ends[1],
        "cell": None,
        "charts": [pair_scatter("Every pair in both runs", caption, ends[0], ends[1]).as_dict()],
    }
