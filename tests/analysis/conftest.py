"""Score tables of hand-chosen margins."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest

from seqdpo.analysis.panel import Panel, panels
from seqdpo.tables import SCORES_SCHEMA

#: (stage, placebo) -> the margin of each pair there; the base's margins are 0.
Margins = Mapping[tuple[int, int], Sequence[float]]


def checkpoint_name(order: str, stage: int, placebo: int) -> str:
    path = ">".join(order.split(">")[:stage])
    return (path or "base") + (f"~placebo{placebo}" if placebo else "")


def _score_rows(margins: Margins, objective: str = "a", order: str = "a>b", seed: int = 0) -> list[dict[str, object]]:
    """Rows of a score table: the base says -10 of every response, and the whole margin is on the chosen side."""
    return [
        {
            "seed": seed,
            "order": order,
            "stage": stage,
            "placebo": placebo,
            "objective": objective,
            "split": "eval",
            "checkpoint": checkpoint_name(order, stage, placebo),
            "pair_id": f"{objective}{i}",
            "chosen_logp": margin - 10,
            "rejected_logp": -10,
            "base_chosen_logp": -10,
            "base_rejected_logp": -10,
            "chosen_tokens": 5,
            "rejected_tokens": 4,
        }
        for (stage, placebo), values in {(0, 0): [0.0] * len(next(iter(margins.values()))), **margins}.items()
        for i, margin in enumerate(values)
    ]


@pytest.fixture
def score_rows() -> Callable[..., list[dict[str, object]]]:
    """`score_rows({(1, 0): [margins...], ...}, objective=..., order=..., seed=...)`: rows of a score table."""
    return _score_rows


@pytest.fixture
def make_scores() -> Callable[..., pa.Table]:
    """`make_scores(score_rows(...), ...)`: one table of all rows."""

    def make(*rows: list[dict[str, object]]) -> pa.Table:
        return pa.Table.from_pylist([row for some in rows for row in some], schema=SCORES_SCHEMA)

    return make


@pytest.fixture
def slow_cr2() -> Callable[..., tuple[float, float, float]]:
    """`slow_cr2(values, clusters)`: mean, CR2 standard error and Satterthwaite's degrees of freedom, by matrices.

    Bell & McCaffrey 2002: residuals of a cluster times (I - H_gg)^(-1/2); df = (tr G'G)^2 / tr (G'G)^2, where column g
    of G is (I - H)_g' (I - H_gg)^(-1/2) x_g / sum of weights.
    """

    def cr2(values: Sequence[float], clusters: Sequence[int]) -> tuple[float, float, float]:
        y, groups = np.asarray(values, float), np.asarray(clusters)
        n = len(y)
        hat = np.full((n, n), 1 / n)
        mean = y.mean()
        columns, variance = [], 0.0
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            own, vectors = np.linalg.eigh(np.eye(len(rows)) - hat[np.ix_(rows, rows)])
            root = vectors @ np.diag(own**-0.5) @ vectors.T
            ones = np.ones(len(rows)) / n
            variance += float(ones @ root @ (y[rows] - mean)) ** 2
            columns.append((np.eye(n) - hat)[rows].T @ root @ ones)
        square = np.column_stack(columns).T @ np.column_stack(columns)
        return float(mean), variance**0.5, float(np.trace(square) ** 2 / np.trace(square @ square))

    return cr2


@pytest.fixture
def make_panel(make_scores: Callable[..., pa.Table]) -> Callable[..., Panel]:
    """`make_panel({(1, 0): [...], (2, 0): [...]}, prompts=[...])`: the panel of one objective."""

    def make(margins: Margins, prompts: Sequence[str] | None = None, **where: object) -> Panel:
        scores = make_scores(_score_rows(margins, **where))
        pairs = None
        if prompts is not None:
            ids = [f"{where.get('objective', 'a')}{i}" for i in range(len(prompts))]
            pairs = pa.table(
                {
                    "pair_id": ids,
                    "prompt_id": list(prompts),
                    "objective": [where.get("objective", "a")] * len(ids),
                    "split": ["eval"] * len(ids),
                }
            )
        (panel,) = panels(scores, pairs)
        return panel

    return make
