"""Log-probabilities under the base, computed once and kept across studies by what they depend on."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from transformers import PreTrainedModel

from seqdpo.cache import cache_dir
from seqdpo.files import set_aside, write_table
from seqdpo.measure.scores import PairLogps, pair_logps
from seqdpo.policy.load import device
from seqdpo.policy.ranks import from_first, this_process
from seqdpo.preferences.pairs import content_hash
from seqdpo.preferences.prepare import PreparedPair, tokens_hash
from seqdpo.runner.environment import processor
from seqdpo.runner.records import STAGE_FORMAT

#: Under this key of the file's metadata stands what it is of, and a hash of its numbers.
_STAMP = b"seqdpo"


@dataclass(slots=True)
class BaseLogps:
    """The base's log-probabilities of whole splits, from the cache where they are there."""

    model: PreTrainedModel
    model_hash: str
    engine: str  # what `choose_engine` said
    tokens_per_batch: int | None
    say: Callable[[str], None] = lambda text: None
    folder: Path = field(default_factory=lambda: cache_dir() / "base_logps")

    def of(
        self, pairs: Sequence[PreparedPair], on_batch: Callable[[int], None], tail_weight: float | None = None
    ) -> PairLogps:
        """In the order of `pairs`; `on_batch` hears of the pairs that had to be scored. `tail_weight`: of `pair_logps`.

        A split is kept as a whole, not pair by pair: the last bits of a log-probability depend on the batch it was
        computed in, and the same study must give the same bytes whatever ran before it.
        """
        key = self._key(pairs, tail_weight)
        path = self.folder / f"{key}.parquet"
        kept: PairLogps | None = from_first(self._kept(path, key, len(pairs)) if this_process().is_first else None)
        if kept is not None:
            return kept
        tokens = [pair.tokens for pair in pairs]
        logps = pair_logps(self.model, tokens, self.tokens_per_batch, on_batch, tail_weight)
        if this_process().is_first:
            with suppress(OSError):  # a folder that cannot be written to costs time, not results
                write_table(path, _stamped(logps, key))
        return logps

    def _kept(self, path: Path, key: str, n_pairs: int) -> PairLogps | None:
        """What the cache has; what is not to be believed is set aside."""
        kept = _read(path, key, n_pairs)
        if kept is None and path.exists():
            self.say(f"{path}: is not what was written there. It is set aside and computed again.")
            with suppress(OSError):
                set_aside(path)
        return kept

    def _key(self, pairs: Sequence[PreparedPair], tail_weight: float | None) -> str:
        """Everything that changes a bit of the numbers."""
        return content_hash(
            [
                self.model_hash,
                self.engine,
                str(self.model.dtype),
                str(device()),
                processor(),
                torch.get_num_threads(),
                this_process().size,
                self.tokens_per_batch,
                STAGE_FORMAT,
                torch.__version__,
                transformers.__version__,
                tokens_hash(pairs),
                tail_weight,
            ]
        )


def _stamped(logps: PairLogps, key: str) -> pa.Table:
    table = pa.table({"chosen": logps.chosen, "rejected": logps.rejected})
    return table.replace_schema_metadata({_STAMP: _stamp(key, logps)})


def _stamp(key: str, logps: PairLogps) -> bytes:
    return content_hash([key, logps.chosen.tobytes().hex(), logps.rejected.tobytes().hex()]).encode()


def _read(path: Path, key: str, n_pairs: int) -> PairLogps | None:
    """What a file of the cache holds; None if it is not there, or is not what was written for these pairs."""
    try:
        table = pq.read_table(path)
        logps = PairLogps(*(table[name].to_numpy() for name in PairLogps._fields))
    except (OSError, KeyError, pa.ArrowException):
        return None
    whole = all(column.dtype == np.float64 and column.shape == (n_pairs,) for column in logps)
    if not whole or (table.schema.metadata or {}).get(_STAMP) != _stamp(key, logps):
        return None
    return logps
