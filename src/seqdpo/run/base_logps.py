"""Log-probabilities under the base, computed once and kept across studies by what they depend on."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from transformers import PreTrainedModel

import seqdpo
from seqdpo.cache import cache_dir
from seqdpo.measure.scores import PairLogps, pair_logps
from seqdpo.policy.load import device
from seqdpo.preferences.pairs import content_hash
from seqdpo.preferences.prepare import PreparedPair, tokens_hash
from seqdpo.run.files import write_table


@dataclass(slots=True)
class BaseLogps:
    """The base's log-probabilities of whole splits, from the cache where they are there."""

    model: PreTrainedModel
    model_hash: str
    engine: str  # what `choose_engine` said
    tokens_per_batch: int | None
    folder: Path = field(default_factory=lambda: cache_dir() / "base_logps")

    def of(
        self, pairs: Sequence[PreparedPair], on_batch: Callable[[int], None], tail_weight: float | None = None
    ) -> PairLogps:
        """In the order of `pairs`; `on_batch` hears of the pairs that had to be scored. `tail_weight`: of `pair_logps`.

        A split is kept as a whole, not pair by pair: the last bits of a log-probability depend on the batch it was
        computed in, and the same study must give the same bytes whatever ran before it.
        """
        path = self.folder / f"{self._key(pairs, tail_weight)}.parquet"
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid):  # not there yet, or spoilt: compute it
            tokens = [pair.tokens for pair in pairs]
            logps = pair_logps(self.model, tokens, self.tokens_per_batch, on_batch, tail_weight)
            table = pa.table({"chosen": logps.chosen, "rejected": logps.rejected})
            with suppress(OSError):  # a folder that cannot be written to costs time, not results
                write_table(path, table)
        return PairLogps(table["chosen"].to_numpy(), table["rejected"].to_numpy())

    def _key(self, pairs: Sequence[PreparedPair], tail_weight: float | None) -> str:
        """Everything that changes a bit of the numbers."""
        return content_hash(
            [
                self.model_hash,
                self.engine,
                str(self.model.dtype),
                str(device()),
                torch.get_num_threads(),
                self.tokens_per_batch,
                seqdpo.__version__,
                torch.__version__,
                transformers.__version__,
                tokens_hash(pairs),
                tail_weight,
            ]
        )
