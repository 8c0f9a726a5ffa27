"""What each stage did to the whole adapter, from movement.parquet."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analysis.gradients import ALL
from seqdpo.analysis.nodes import NodeKey, tables_of
from seqdpo.analysis.schema import Movement

#: What a row of the table says of the whole adapter.
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


def movement_records(movement: pa.Table) -> list[Movement]:
    """One record for each stage."""
    whole = movement.filter(pc.field("module") == ALL).select([*NodeKey._fields, *OF_THE_WHOLE])
    return [_record(node, table.select(OF_THE_WHOLE).to_pylist()[0]) for node, table in tables_of(whole)]


def _record(node: NodeKey, norms: Mapping[str, float | None]) -> Movement:
    return Movement(
        seed=node.seed,
        from_=node.parent,
        to=node.checkpoint,
        placebo=node.placebo,
        **norms,
        relative_update=_ratio(norms["update_norm"], norms["previous_norm"]),
        relative_to_weights=_ratio(norms["update_norm"], norms["weight_norm"]),
    )


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
