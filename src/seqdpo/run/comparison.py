"""Two finished runs beside each other: what `seqdpo compare` shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analyse.estimates import METHOD
from seqdpo.analyse.panel import Panel, panels
from seqdpo.analyse.run_comparison import Common, common_pairs, comparisons, shared_scores
from seqdpo.errors import ConfigError, DataError
from seqdpo.report.comparison_page import ComparedPairs, comparison_page
from seqdpo.report.page import may_harm
from seqdpo.run.files import write_for_user
from seqdpo.run.finished import FinishedRun
from seqdpo.study.flat import flat
from seqdpo.wording import listed

SCHEMA_VERSION = 1
CONFIDENCE = 0.95
#: Where a run lies and how far its tree grew say nothing about the checkpoints that both have.
OWN_KEYS = ("output_dir", "orders", "seeds", "placebo")
#: The rows of checkpoints that a stage made; control stages are compared with their own run's only.
REAL = (pc.field("stage") > 0) & (pc.field("placebo") == 0)


def compare_runs(a: FinishedRun, b: FinishedRun) -> dict[str, Any]:
    """The content of `seqdpo compare --format json`; docs/commands.md describes every key.

    Raises: ConfigError if the runs have no pair or no checkpoint in common; DataError if an id names one pair in A and
        another in B.
    """
    panels_a, panels_b = (panels(run.scores(wanted=REAL), run.pairs) for run in (a, b))
    common = common_pairs(panels_a, panels_b)
    if not any(len(one.rows_first) for one in common):
        raise ConfigError(_no_pairs(a, b, panels_a, panels_b))
    for one in common:
        _check_same_texts(a, b, one)
    records = [record for one in common for record in comparisons(one, CONFIDENCE)]
    if not records:
        raise ConfigError(_no_checkpoints(a, b, panels_a, panels_b))
    return {
        "schema_version": SCHEMA_VERSION,
        "a": str(a.folder.root),
        "b": str(b.folder.root),
        "method": METHOD,
        "differences": _differences(a, b),
        "pairs": [one.record() for one in common],
        "checkpoints": records,
    }


def compared_pairs(a: FinishedRun, b: FinishedRun) -> list[ComparedPairs]:
    """The common pairs of two runs that `compare_runs` found comparable, with what both say of them."""
    found = common_pairs(*(panels(run.scores(wanted=REAL), run.pairs) for run in (a, b)))
    return [
        ComparedPairs(one.objective, one.split, one.pair_ids, shared_scores(one))
        for one in found
        if len(one.rows_first) and shared_scores(one)
    ]


def write_comparison(comparison: dict[str, Any], a: FinishedRun, b: FinishedRun, output: Path) -> None:
    """The page of `seqdpo compare --html`.

    Raises: ConfigError if it cannot be written.
    """
    blurred = may_harm(a.study) or may_harm(b.study)
    write_for_user(output, comparison_page(comparison, compared_pairs(a, b), a.texts, blurred).encode())


def _differences(a: FinishedRun, b: FinishedRun) -> list[dict[str, Any]]:
    """Every key of the study, and every input, that is not the same; the inputs first."""
    of_a, of_b = (dict(flat({"identity": run.manifest.get("identity", {}), **run.study})) for run in (a, b))
    return [
        {"key": key, "a": of_a.get(key), "b": of_b.get(key)}
        for key in of_a | of_b
        if key not in OWN_KEYS and of_a.get(key) != of_b.get(key)
    ]


def _check_same_texts(a: FinishedRun, b: FinishedRun, common: Common) -> None:
    """Ids that came with the data may name other pairs elsewhere; those by content cannot."""
    texts = [run.texts(common.objective, common.split, common.pair_ids) for run in (a, b) if len(common.rows_first)]
    if texts and not texts[0].equals(texts[1]):
        raise DataError(
            f"objective {common.objective!r}: pair {_first_other(common.pair_ids, *texts)!r} has one text in "
            f"{a.folder.root} and another in {b.folder.root}; expected one text for one id. Leave pair_id out of the "
            "data, so that ids are made from the texts, and run one of them again."
        )


def _first_other(pair_ids: pa.Array, first: pa.Table, second: pa.Table) -> str:
    rows = zip(pair_ids.to_pylist(), first.to_pylist(), second.to_pylist(), strict=True)
    return next(pair_id for pair_id, one, other in rows if one != other)


def _no_pairs(a: FinishedRun, b: FinishedRun, panels_a: Sequence[Panel], panels_b: Sequence[Panel]) -> str:
    of_a, of_b = (listed(panel.objective for panel in panels) for panels in (panels_a, panels_b))
    return (
        f"{a.folder.root} and {b.folder.root}: no held-out pair in common, of the objectives {of_a} and {of_b}; "
        "expected some of the same name and data. Run both with the same objectives, data and eval_fraction."
    )


def _no_checkpoints(a: FinishedRun, b: FinishedRun, panels_a: Sequence[Panel], panels_b: Sequence[Panel]) -> str:
    of_a, of_b = (
        listed(dict.fromkeys(f"{order} (seed {seed})" for panel in panels for seed, order in panel.orders()))
        for panels in (panels_a, panels_b)
    )
    return (
        f"{a.folder.root} and {b.folder.root}: no checkpoint in common; the orders are {of_a} and {of_b}; expected one "
        "of the same order and seed. Run one of them again with an order and a seed of the other: it will continue."
    )
