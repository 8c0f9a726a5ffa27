"""Two finished runs beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analysis.comparison import (
    SCHEMA_VERSION,
    Common,
    Comparison,
    Difference,
    common_pairs,
    comparisons,
    shared_scores,
)
from seqdpo.analysis.estimates import METHOD
from seqdpo.analysis.panel import Panel, panels
from seqdpo.errors import ConfigError, DataError
from seqdpo.report.finished import Run
from seqdpo.report.notebook import comparison_html
from seqdpo.study.flat import flat
from seqdpo.wording import listed

CONFIDENCE = 0.95
#: Where a run lies and how far its tree grew say nothing about the checkpoints that both have.
OWN_KEYS = ("output_dir", "orders", "seeds", "placebo")
#: The rows of checkpoints that a stage made; control stages are compared with their own run's only.
REAL = (pc.field("stage") > 0) & (pc.field("placebo") == 0)


@dataclass(frozen=True, slots=True)
class ComparedRuns:
    """Two runs, and what differs between them."""

    a: Run
    b: Run
    findings: Comparison = field(repr=False)
    common: Sequence[Common] = field(repr=False)  # the pairs that both have, and what both say of them

    def _repr_html_(self) -> str:
        return comparison_html(self.findings)


def compare(a: Run, b: Run) -> ComparedRuns:
    """The checkpoints that two runs have in common, on the held-out pairs that both have.

    Raises: ConfigError if the runs have no pair or no checkpoint in common; DataError if an id names one pair in A and
        another in B, or a file cannot be read.
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
    findings = Comparison(
        schema_version=SCHEMA_VERSION,
        a=str(a.folder),
        b=str(b.folder),
        method=METHOD,
        differences=tuple(_differences(a, b)),
        pairs=tuple(one.record() for one in common),
        checkpoints=tuple(records),
    )
    return ComparedRuns(a, b, findings, [one for one in common if len(one.rows_first) and shared_scores(one)])


def _differences(a: Run, b: Run) -> list[Difference]:
    """Every key of the study, and every input, that is not the same; the inputs first."""
    of_a, of_b = _facts(a), _facts(b)
    return [
        Difference(key=key, a=of_a.get(key), b=of_b.get(key))
        for key in of_a | of_b
        if key not in OWN_KEYS and of_a.get(key) != of_b.get(key)
    ]


def _facts(run: Run) -> dict[str, Any]:
    return dict(flat({"identity": run.manifest.get("identity", {}), **run.study}))


def _check_same_texts(a: Run, b: Run, common: Common) -> None:
    """Ids that came with the data may name other pairs elsewhere; those by content cannot."""
    texts = [run.texts(common.objective, common.split, common.pair_ids) for run in (a, b) if len(common.rows_first)]
    if texts and not texts[0].equals(texts[1]):
        raise DataError(
            f"objective {common.objective!r}: pair {_first_other(common.pair_ids, *texts)!r} has one text in "
            f"{a.folder} and another in {b.folder}; expected one text for one id. Leave pair_id out of the "
            "data, so that ids are made from the texts, and run one of them again."
        )


def _first_other(pair_ids: pa.Array, first: pa.Table, second: pa.Table) -> str:
    rows = zip(pair_ids.to_pylist(), first.to_pylist(), second.to_pylist(), strict=True)
    return next(pair_id for pair_id, one, other in rows if one != other)


def _no_pairs(a: Run, b: Run, panels_a: Sequence[Panel], panels_b: Sequence[Panel]) -> str:
    of_a, of_b = (listed(panel.objective for panel in panels) for panels in (panels_a, panels_b))
    return (
        f"{a.folder} and {b.folder}: no held-out pair in common, of the objectives {of_a} and {of_b}; "
        "expected some of the same name and data. Run both with the same objectives, data and eval_fraction."
    )


def _no_checkpoints(a: Run, b: Run, panels_a: Sequence[Panel], panels_b: Sequence[Panel]) -> str:
    of_a, of_b = (
        listed(dict.fromkeys(f"{order} (seed {seed})" for panel in panels for seed, order in panel.orders()))
        for panels in (panels_a, panels_b)
    )
    return (
        f"{a.folder} and {b.folder}: no checkpoint in common; the orders are {of_a} and {of_b}; expected one "
        "of the same order and seed. Run one of them again with an order and a seed of the other: it will continue."
    )
