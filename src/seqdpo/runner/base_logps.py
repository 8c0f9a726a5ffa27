"""Log-probabilities under the base, computed once and kept across studies by what they depend on."""

from collections.abc import Callable, Mapping, Sequence
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
from seqdpo.measure.scores import PairLogps, objective_logps, sharing
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
        self,
        objectives: Mapping[str, Sequence[PreparedPair]],
        on_batch: Callable[[int], None],
        tail_weight: float | None = None,
    ) -> dict[str, PairLogps]:
        """In the order of each objective's pairs; `on_batch` hears of the pairs that had to be scored. `tail_weight` as
        in `pair_logps`.

        Objectives that share prompts are scored as a whole and kept so, not pair by pair: the last bits of a
        log-probability depend on the batch it was computed in, and the same study must give the same bytes whatever ran
        before it.
        """
        tokens = {name: [pair.tokens for pair in pairs] for name, pairs in objectives.items()}
        found: dict[str, PairLogps] = {}
        for names in sharing(tokens, tail_weight):
            key = self._key([objectives[name] for name in names], tail_weight)
            path, sizes = self.folder / f"{key}.parquet", [len(objectives[name]) for name in names]
            kept: list[PairLogps] | None = from_first(self._kept(path, key, sizes) if this_process().is_first else None)
            if kept is None:
                group = {name: tokens[name] for name in names}
                kept = list(objective_logps(self.model, group, self.tokens_per_batch, on_batch, tail_weight).values())
                if this_process().is_first:
                    with suppress(OSError):  # a folder that cannot be written to costs time, not results
                        write_table(path, _stamped(kept, key))
            found.update(zip(names, kept, strict=True))
        return {name: found[name] for name in objectives}

    def _kept(self, path: Path, key: str, sizes: Sequence[int]) -> list[PairLogps] | None:
        """What the cache has of a group's objectives; what is not to be believed is set aside."""
        kept = _read(path, key, sizes)
        if kept is None and path.exists():
            self.say(f"{path}: is not what was written there. It is set aside and computed again.")
            with suppress(OSError):
                set_aside(path)
        return kept

    def _key(self, group: Sequence[Sequence[PreparedPair]], tail_weight: float | None) -> str:
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
                [tokens_hash(pairs) for pairs in group],
                tail_weight,
            ]
        )


def _stamped(group: Sequence[PairLogps], key: str) -> pa.Table:
    """Objective after objective."""
    logps = PairLogps(*map(np.concatenate, zip(*group, strict=True)))
    table = pa.table({"chosen": logps.chosen, "rejected": logps.rejected})
    return table.replace_schema_metadata({_STAMP: _stamp(key, logps)})


def _stamp(key: str, logps: PairLogps) -> bytes:
    return content_hash([key, logps.chosen.tobytes().hex(), logps.rejected.tobytes().hex()]).encode()


def _read(path: Path, key: str, sizes: Sequence[int]) -> list[PairLogps] | None:
    """What a file of the cache holds, so many pairs of each objective; None if it is not there, or is not what was
    written for these pairs."""
    try:
        table = pq.read_table(path)
        logps = PairLogps(*(table[name].to_numpy() for name in PairLogps._fields))
    except (OSError, KeyError, pa.ArrowException):
        return None
    whole = all(column.dtype == np.float64 and column.shape == (sum(sizes),) for column in logps)
    if not whole or (table.schema.metadata or {}).get(_STAMP) != _stamp(key, logps):
        return None
    ends = np.cumsum(sizes)[:-1]
    return [PairLogps(*columns) for columns in zip(*(np.split(column, ends) for column in logps), strict=True)]
