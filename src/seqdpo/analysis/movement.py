"""What each stage did to the whole adapter, from movement.parquet."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analysis.gradients import ALL
from seqdpo.analysis.nodes import NodeKey, tables_of
from seqdpo.analysis.run_noise import beyond_controls
from seqdpo.analysis.schema import BeyondControls, Movement

#: What a row of the table says of the whole adapter.
OF_THE_WHOLE = (
    "update_norm",
    "previous_norm",
    "new_norm",
    "weight_norm",
    "cosine",
    "parallel_norm",
    "perpendicular_norm",
)


Row: TypeAlias = Mapping[str, float | None]


def movement_records(movement: pa.Table, confidence: float) -> list[Movement]:
    """One record for each stage; what a real one did stands beside its control stages."""
    whole = movement.filter(pc.field("module") == ALL).select([*NodeKey._fields, *OF_THE_WHOLE])
    rows = {node: table.select(OF_THE_WHOLE).to_pylist()[0] for node, table in tables_of(whole)}
    return [_record(node, row, controls_of(node, rows), confidence) for node, row in rows.items()]


def controls_of(node: NodeKey, rows: Mapping[NodeKey, Row]) -> list[Row]:
    """The rows of a real stage's control stages; a control stage has none."""
    if node.placebo:
        return []
    return [row for other, row in rows.items() if other.placebo and other.beside(node)]


def _record(node: NodeKey, norms: Row, controls: Sequence[Row], confidence: float) -> Movement:
    def beyond(name: str) -> BeyondControls | None:
        return beyond_controls(norms[name], [row[name] for row in controls], confidence)

    return Movement(
        seed=node.seed,
        from_=node.parent,
        to=node.checkpoint,
        placebo=node.placebo,
        **norms,
        relative_update=_ratio(norms["update_norm"], norms["previous_norm"]),
        relative_to_weights=_ratio(norms["update_norm"], norms["weight_norm"]),
        cosine_beyond_controls=beyond("cosine"),
        update_norm_beyond_controls=beyond("update_norm"),
    )


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
