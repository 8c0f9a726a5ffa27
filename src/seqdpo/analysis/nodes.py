"""Which stage the rows of a mechanism table are of, and the scores of its checkpoints."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from seqdpo.analysis.margins import PairScores
from seqdpo.analysis.panel import Panel
from seqdpo.errors import DataError
from seqdpo.study.checkpoints import Checkpoint


class NodeKey(NamedTuple):
    """A stage by the checkpoint that it left, and the one it began from."""

    seed: int
    checkpoint: str
    placebo: int
    parent: str

    @property
    def path(self) -> tuple[str, ...]:
        """The objectives from the base to here."""
        return Checkpoint.parse(self.checkpoint).path

    def beside(self, other: "NodeKey") -> bool:
        """Whether both trained the same objective with the same keys from the same checkpoint."""
        one, two = (Checkpoint.parse(node.checkpoint)._replace(placebo=0) for node in (self, other))
        return (self.seed, self.parent, one) == (other.seed, other.parent, two)


def tables_of(table: pa.Table) -> Iterator[tuple[NodeKey, pa.Table]]:
    """The rows of each stage, in order of appearance."""
    keys = list(zip(*(table[name].to_pylist() for name in NodeKey._fields), strict=True))
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    codes = np.array([numbers[key] for key in keys], dtype=np.int64)
    for key, number in numbers.items():
        yield NodeKey(*key), table.take(np.flatnonzero(codes == number))


def checkpoint_scores(panel: Panel, seed: int, checkpoint: str) -> PairScores:
    """What a checkpoint says of the panel's pairs; orders that share it say the same.

    Raises: DataError if the scores do not have it.
    """
    for at, name in panel.names.items():
        if name == checkpoint and at.seed == seed:
            return panel.checkpoints[at]
    raise DataError(
        f"scores: no checkpoint {checkpoint!r} of seed {seed} for {panel.objective}; expected that of the stage which "
        "was measured. Give the scores of the same run."
    )
