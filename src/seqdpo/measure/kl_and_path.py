"""What a stage did to the policy as a function: KL between its two checkpoints, and the line between them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedModel

from seqdpo.measure.scores import Column, PairLogps, objective_logps, pair_columns, read_together
from seqdpo.policy.adapters import Line, line_between
from seqdpo.policy.divergence import response_kl
from seqdpo.policy.logps import base_of
from seqdpo.policy.trees import PromptTree
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
    tokens = {name: pairs.tokens for name, pairs in held_out.items()}
    with line_between(base, previous, new) as line:
        kl = line_kl(line, tokens, tokens_per_batch, on_batch)
        path = path_logps(line, tokens, tokens_per_batch, ends, on_batch) if with_path else {}
    tables = [
        _table(name, pairs.pair_ids, kl[name], (forecasts or {}).get(name), path.get(name))
        for name, pairs in held_out.items()
    ]
    return pa.concat_tables(tables) if tables else KL_AND_PATH_SCHEMA.empty_table()


def line_kl(
    line: Line,
    objectives: Mapping[str, Sequence[PairTokens]],
    tokens_per_batch: int | None,
    on_batch: Callable[[int], None] = lambda n_pairs: None,
) -> dict[str, PairKl]:
    """KL between the two ends of the line, in the order of each objective's pairs."""
    base = base_of(line.policy)

    def compare(some: list[PromptTree]) -> Tensor:
        return response_kl(base, some, lambda: line.move_to(0), lambda: line.move_to(1))

    def read(pairs: list[PairTokens]) -> tuple[Column, Column]:
        return pair_columns(base, pairs, tokens_per_batch, compare, lambda n_pairs: on_batch(2 * n_pairs))

    return {name: PairKl(*columns) for name, columns in read_together(objectives, read).items()}


def path_logps(
    line: Line,
    objectives: Mapping[str, Sequence[PairTokens]],
    tokens_per_batch: int | None,
    ends: Mapping[str, Ends] | None = None,
    on_batch: Callable[[int], None] = lambda n_pairs: None,
) -> dict[str, list[PairLogps]]:
    """Log-probabilities at each place of PATH, in the order of each objective's pairs; those of `ends` as they are."""
    found: dict[str, list[PairLogps]] = {name: [] for name in objectives}
    for a in PATH:
        known = {name: end.previous if a == 0 else end.new for name, end in (ends or {}).items() if a in (0, 1)}
        unknown = {name: pairs for name, pairs in objectives.items() if name not in known}
        if unknown:
            line.move_to(a)
            known |= objective_logps(line.policy, unknown, tokens_per_batch, on_batch)
        for name, logps in found.items():
            logps.append(known[name])
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
