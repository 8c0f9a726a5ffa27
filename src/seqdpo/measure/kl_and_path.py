"""What a stage did to the policy as a function: KL between its two checkpoints, and the line between them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel

from seqdpo.measure.scores import Column, PairLogps, pair_columns, pair_logps
from seqdpo.policy.adapters import Line, line_between
from seqdpo.policy.divergence import ResponseKl, response_kl
from seqdpo.policy.logps import base_of
from seqdpo.preferences.tokens import PairTokens
from seqdpo.tables import KL_AND_PATH_SCHEMA, PATH


class HeldOut(NamedTuple):
    """Some held-out pairs of one objective."""

    pair_ids: Sequence[str]
    tokens: Sequence[PairTokens]


class Ends(NamedTuple):
    """What is known of held-out pairs before the line is walked: their log-probabilities at a = 0 and a = 1."""

    previous: PairLogps
    new: PairLogps


class PairKl(NamedTuple):
    """KL(previous || new) of the next token, summed along each response; nats."""

    chosen: Column  # (n_pairs,)
    rejected: Column  # (n_pairs,)


def kl_and_path_table(
    base: PreTrainedModel,
    previous: Path | None,
    new: Path,
    held_out: Mapping[str, HeldOut],
    tokens_per_batch: int | None,
    forecasts: Mapping[str, PairLogps] | None = None,
    with_path: bool = True,
    ends: Mapping[str, Ends] | None = None,
    on_batch: Callable[[int], None] = lambda n_pairs: None,
) -> pa.Table:
    """KL_AND_PATH_SCHEMA: the held-out pairs of every objective between two checkpoints of one base.

    `previous` and `new` are PEFT LoRA adapter folders (None: the base itself); `forecasts` come from
    `seqdpo.measure.forecast` and stay null without. `ends` are the pairs' scores under the two checkpoints, which are
    then not computed again: the same numbers but for their last bits, which depend on the batch, and in bfloat16 on
    the rounding of one adapter or two. `on_batch` hears the pairs of each forward pass.
    """
    tables = []
    with line_between(base, previous, new) as line:
        for name, pairs in held_out.items():
            kl = line_kl(line, pairs.tokens, tokens_per_batch, on_batch)
            known = (ends or {}).get(name)
            path = path_logps(line, pairs.tokens, tokens_per_batch, known, on_batch) if with_path else None
            tables.append(_table(name, pairs.pair_ids, kl, (forecasts or {}).get(name), path))
    return pa.concat_tables(tables) if tables else KL_AND_PATH_SCHEMA.empty_table()


def line_kl(
    line: Line,
    pairs: Sequence[PairTokens],
    tokens_per_batch: int | None,
    on_batch: Callable[[int], None] = lambda n_pairs: None,
) -> PairKl:
    """KL between the two ends of the line, in the order of `pairs`."""
    base = base_of(line.policy)

    def compare(some: list[PairTokens]) -> ResponseKl:
        return response_kl(base, some, lambda: line.move_to(0), lambda: line.move_to(1))

    return PairKl(*pair_columns(base, pairs, tokens_per_batch, compare, lambda n_pairs: on_batch(2 * n_pairs)))


def path_logps(
    line: Line,
    pairs: Sequence[PairTokens],
    tokens_per_batch: int | None,
    ends: Ends | None = None,
    on_batch: Callable[[int], None] = lambda n_pairs: None,
) -> list[PairLogps]:
    """Log-probabilities at each place of PATH, in the order of `pairs`; those of `ends` as they are."""
    known = {} if ends is None else {0.0: ends.previous, 1.0: ends.new}
    found = []
    for a in PATH:
        if a not in known:
            line.move_to(a)
            known[a] = pair_logps(line.policy, pairs, tokens_per_batch, on_batch)
        found.append(known[a])
    return found


def _table(
    objective: str, pair_ids: Sequence[str], kl: PairKl, forecast: PairLogps | None, path: list[PairLogps] | None
) -> pa.Table:
    n = len(pair_ids)
    columns = {
        "objective": [objective] * n,
        "pair_id": list(pair_ids),
        "chosen_kl": kl.chosen,
        "rejected_kl": kl.rejected,
        "chosen_forecast": None if forecast is None else forecast.chosen,
        "rejected_forecast": None if forecast is None else forecast.rejected,
        "path_chosen_logp": None if path is None else list(np.stack([logps.chosen for logps in path], axis=1)),
        "path_rejected_logp": None if path is None else list(np.stack([logps.rejected for logps in path], axis=1)),
    }
    arrays = [
        pa.nulls(n, field.type) if columns[field.name] is None else pa.array(columns[field.name], field.type)
        for field in KL_AND_PATH_SCHEMA
    ]
    return pa.table(arrays, schema=KL_AND_PATH_SCHEMA)
