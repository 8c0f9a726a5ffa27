"""The mechanism in results.json: gradients, movement and function of every stage."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analyse.gradients import ALL, gradient_records
from seqdpo.analyse.kl_and_path import kl_and_path_records
from seqdpo.analyse.nodes import tables_of
from seqdpo.analyse.panel import Panel
from seqdpo.study.keys import LossKeys

#: What a row of movement.parquet says of the whole adapter.
OF_THE_WHOLE = (
    "update_norm",
    "previous_norm",
    "new_norm",
    "weight_norm",
    "cosine",
    "cosine_null_sd",
    "parallel_norm",
    "perpendicular_norm",
)


class MechanismTables(NamedTuple):
    """gradients.parquet, movement.parquet and kl_and_path.parquet."""

    gradients: pa.Table
    movement: pa.Table
    kl_and_path: pa.Table


def mechanism_record(
    tables: MechanismTables, panels: Sequence[Panel], keys: LossKeys, confidence: float
) -> dict[str, Any]:
    """`mechanism` of results.json. `panels` are those of the evaluation split.

    Raises: DataError for tables that do not belong to the scores.
    """
    return {
        "gradients": gradient_records(tables.gradients, panels, keys, confidence),
        "movement": movement_records(tables.movement),
        "kl_and_path": kl_and_path_records(tables.kl_and_path, panels, confidence),
    }


def movement_records(movement: pa.Table) -> list[dict[str, Any]]:
    """One record for each stage: the whole adapter."""
    whole = movement.filter(pc.field("module") == ALL)
    return [_movement_record(node.names, table.to_pylist()[0]) for node, table in tables_of(whole)]


def _movement_record(names: dict[str, object], row: dict[str, Any]) -> dict[str, Any]:
    return {
        **names,
        **{name: row[name] for name in OF_THE_WHOLE},
        "relative_update": _ratio(row["update_norm"], row["previous_norm"]),
        "relative_to_weights": _ratio(row["update_norm"], row["weight_norm"]),
    }


def _ratio(part: float, whole: float | None) -> float | None:
    return part / whole if whole else None
