"""From each stage's own movement to movement.parquet, the table of the whole study."""

import pyarrow as pa
import pyarrow.parquet as pq

from seqdpo.measure.tables import MOVEMENT_SCHEMA, NODE_COLUMNS
from seqdpo.run.folder import RunFolder
from seqdpo.study.config import Study
from seqdpo.study.tree import BASE, Node, stage_tree


def run_movement(folder: RunFolder, study: Study) -> pa.Table:
    """NODE_COLUMNS, then MOVEMENT_SCHEMA: every stage once, control stages among them."""
    return pa.concat_tables([_of_node(folder, node) for node in stage_tree(study)])


def _of_node(folder: RunFolder, node: Node) -> pa.Table:
    own = pq.read_table(folder.stage(node) / "movement.parquet")
    parent = BASE if node.parent is None else node.parent.checkpoint
    named = zip(NODE_COLUMNS, (node.seed, node.checkpoint, node.placebo, parent), strict=True)
    columns = {name: pa.repeat(pa.scalar(value, kind), own.num_rows) for (name, kind), value in named}
    return pa.table(columns | {name: own[name] for name in MOVEMENT_SCHEMA.names})
