"""The pairs of a study as an Arrow table (data/pairs.parquet)."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from seqdpo.preferences.pairs import as_json
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.tables import PAIRS_SCHEMA, SLICE_PREFIX, TEMPLATE_EXTRAS


def pairs_table(preferences: Preferences) -> pa.Table:
    """One row for each (objective, split, pair): PAIRS_SCHEMA, TEMPLATE_EXTRAS where there are any, then a
    `slice_<name>` column for each metadatum."""
    rows = [
        (name, split, prepared)
        for name, objective in preferences.objectives.items()
        for split, pairs in (("train", objective.train), ("eval", objective.eval))
        for prepared in pairs
    ]
    table = pa.Table.from_pylist([_row(*row) for row in rows], schema=PAIRS_SCHEMA)
    pairs = [prepared for _, _, prepared in rows]
    extras = [as_json(found) if (found := prepared.pair.extras()) else None for prepared in pairs]
    if any(extras):
        table = table.append_column(TEMPLATE_EXTRAS, pa.array(extras, pa.string()))
    for key in sorted({key for prepared in pairs for key in prepared.pair.slices}):
        table = table.append_column(SLICE_PREFIX + key, _slice_column(pairs, key))
    return table


def _row(objective: str, split: str, prepared: PreparedPair) -> dict[str, Any]:
    pair, tokens = prepared
    return {
        "pair_id": pair.pair_id,
        "prompt_id": pair.prompt_id,
        "objective": objective,
        "split": split,
        "prompt": [{"role": message.role, "content": message.content} for message in pair.prompt],
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "strength": pair.strength,
        "prompt_tokens": len(tokens.prompt),
        "chosen_tokens": len(tokens.chosen),
        "rejected_tokens": len(tokens.rejected),
        "truncated": tokens.truncated,
    }


def _slice_column(pairs: Sequence[PreparedPair], key: str) -> pa.Array:
    values = [prepared.pair.slices.get(key) for prepared in pairs]
    if len({type(value) for value in values if value is not None}) > 1:
        # one name, several types across objectives: text holds them all
        values = [None if value is None else str(value) for value in values]
    return pa.array(values)
