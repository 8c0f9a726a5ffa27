"""Scores side by side: every checkpoint's log-probabilities of the same pairs, in the same order."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqdpo.analysis.estimates import Clusters
from seqdpo.analysis.margins import IN_MEASURE, PairScores, pair_scores
from seqdpo.analysis.schema import PairMeasure
from seqdpo.errors import DataError

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


class At(NamedTuple):
    """Which checkpoint: after a stage of an order and a seed; stage 0 is the base, placebo k the k-th control stage."""

    seed: int
    order: str
    stage: int
    placebo: int = 0


@dataclass(frozen=True, slots=True)
class Panel:
    """One objective's evaluation pairs, and what each checkpoint says of them."""

    objective: str
    split: str
    pair_ids: pa.Array  # (n_pairs,)
    clusters: Clusters  # (n_pairs,) number of each pair's prompt; of the pair itself where no prompts are known
    metadata: pa.Table  # (n_pairs rows) the other columns of the pairs table; none where it was not given
    checkpoints: Mapping[At, PairScores]
    names: Mapping[At, str]  # the checkpoint's name, as in `helpful>harmless~placebo1`
    measure: PairMeasure = "margin"  # what the margin of its scores is

    def in_measure(self, measure: PairMeasure) -> "Panel":
        """The same pairs for whoever looks at another measure: it takes the place of their margin."""
        kind = IN_MEASURE[measure]
        return replace(self, measure=measure, checkpoints={at: kind(*s) for at, s in self.checkpoints.items()})

    def orders(self) -> list[tuple[int, str]]:
        """Each (seed, order) once, as they come."""
        return list(dict.fromkeys((at.seed, at.order) for at in self.checkpoints))

    def stages(self, seed: int, order: str) -> list[int]:
        """The stages of which this order and seed have a real checkpoint, ascending."""
        return sorted(at.stage for at in self.checkpoints if (at.seed, at.order, at.placebo) == (seed, order, 0))

    def controls(self, at: At) -> list[At]:
        """The control stages beside a real one."""
        return sorted(c for c in self.checkpoints if c.placebo and c._replace(placebo=0) == at)

    def rows(self, kept: Mask) -> "Panel":
        """The panel of some of its pairs."""
        where = np.flatnonzero(kept)
        return replace(
            self,
            pair_ids=self.pair_ids.take(pa.array(where)),
            clusters=np.unique(self.clusters[where], return_inverse=True)[1],
            metadata=self.metadata.take(pa.array(where)),
            checkpoints={at: type(s)(*(column[where] for column in s)) for at, s in self.checkpoints.items()},
        )


def panels(scores: pa.Table, pairs: pa.Table | None = None) -> list[Panel]:
    """A panel for each objective and split of a score table (the columns of scores.parquet), in order of appearance.

    `pairs` (data/pairs.parquet) says which pairs share a prompt and holds the columns that slices are made of;
    without it every pair counts as a prompt of its own.

    Raises: DataError if a column is missing, a checkpoint lists a pair twice or other pairs than its neighbours, a
        pair's base log-probabilities or token counts differ between checkpoints, or `pairs` lacks one of the pairs.
    """
    values = pair_scores(scores)
    keys = _keys(scores)
    pair_codes = _codes(scores["pair_id"])
    grouped: dict[tuple[str, str], list[tuple[_Key, Indices]]] = {}
    for key, rows in _groups(keys):
        grouped.setdefault((key.objective, key.split), []).append((key, rows))
    return [_panel(name, split, groups, values, pair_codes, pairs) for (name, split), groups in grouped.items()]


class _Key(NamedTuple):
    """What is the same in all rows of one checkpoint and objective."""

    seed: int
    order: str
    stage: int
    placebo: int
    objective: str
    split: str
    checkpoint: str


class _Codes(NamedTuple):
    """A column as numbers and what they stand for."""

    codes: Indices  # (n_rows,)
    values: pa.Array


def _keys(scores: pa.Table) -> dict[str, _Codes]:
    missing = [name for name in (*_Key._fields, "pair_id") if name not in scores.column_names]
    if missing:
        raise DataError(f"scores: no column {missing[0]!r}; found {', '.join(scores.column_names)}. Add it.")
    return {name: _codes(scores[name]) for name in _Key._fields}


def _codes(column: pa.ChunkedArray) -> _Codes:
    if column.null_count:
        raise DataError("scores: a row names no pair or no checkpoint; expected both in every row. Leave it out.")
    encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    array = encoded.unify_dictionaries().combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return _Codes(array.indices.to_numpy(zero_copy_only=False).astype(np.int64), array.dictionary)


def _groups(keys: Mapping[str, _Codes]) -> Iterator[tuple[_Key, Indices]]:
    """Each key of the table, in order of appearance, with its rows."""
    number = np.zeros(len(next(iter(keys.values())).codes), dtype=np.int64)
    for column in keys.values():
        number = number * max(len(column.values), 1) + column.codes
    _, first, group = np.unique(number, return_index=True, return_inverse=True)
    rows = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[rows], np.arange(len(first) + 1))
    for i in np.argsort(first):
        row = first[i]
        key = _Key(*(column.values[int(column.codes[row])].as_py() for column in keys.values()))
        yield key, rows[starts[i] : starts[i + 1]]


def _panel(
    objective: str,
    split: str,
    groups: Iterable[tuple[_Key, Indices]],
    values: PairScores,
    pair_codes: _Codes,
    pairs: pa.Table | None,
) -> Panel:
    wanted: Indices | None = None  # the pairs of the first checkpoint, in its order
    first: PairScores | None = None
    checkpoints, names = {}, {}
    for key, rows in groups:
        codes = pair_codes.codes[rows]
        if wanted is None:
            wanted = codes
            _refuse_duplicates(codes, key, pair_codes)
        elif not np.array_equal(codes, wanted):
            rows = rows[_in_order(codes, wanted, key)]
        scores = PairScores(*(column[rows] for column in values))
        first = first or scores
        checkpoints[At(key.seed, key.order, key.stage, key.placebo)] = _same_base(scores, first, key)
        names[At(key.seed, key.order, key.stage, key.placebo)] = key.checkpoint
    assert wanted is not None
    pair_ids = pair_codes.values.take(pa.array(wanted))
    metadata = _metadata(pairs, objective, split, pair_ids)
    return Panel(objective, split, pair_ids, _clusters(metadata, len(wanted)), metadata, checkpoints, names)


def _refuse_duplicates(codes: Indices, key: _Key, pairs: _Codes) -> None:
    unique, counts = np.unique(codes, return_counts=True)
    if len(unique) < len(codes):
        twice = pairs.values[int(unique[counts > 1][0])].as_py()
        raise DataError(
            f"scores, {_where(key)}: pair {twice!r} stands in {counts.max()} rows; expected one. Leave the others out."
        )


def _in_order(codes: Indices, wanted: Indices, key: _Key) -> Indices:
    """The positions that bring `codes` into the order of `wanted`."""
    if len(codes) != len(wanted) or not np.array_equal(np.sort(codes), np.sort(wanted)):
        common = len(np.intersect1d(codes, wanted))
        raise DataError(
            f"scores, {_where(key)}: {len(codes)} rows, {common} of them of the {len(wanted)} pairs of the objective's "
            "first checkpoint; expected the same pairs, each once. Score all checkpoints on the same pairs."
        )
    positions = np.empty(int(codes.max()) + 1, dtype=np.int64)
    positions[codes] = np.arange(len(codes))
    return positions[wanted]


def _same_base(scores: PairScores, first: PairScores, key: _Key) -> PairScores:
    """The scores with the columns that all checkpoints share held once in memory."""
    shared = PairScores._fields[2:]
    for name in shared:
        if not np.array_equal(getattr(scores, name), getattr(first, name), equal_nan=True):
            raise DataError(
                f"scores, {_where(key)}: {name} differs from that of the objective's first checkpoint; expected the "
                "same base and tokens for every checkpoint. Score them against one base."
            )
    return first._replace(chosen_logp=scores.chosen_logp, rejected_logp=scores.rejected_logp)


def _metadata(pairs: pa.Table | None, objective: str, split: str, pair_ids: pa.Array) -> pa.Table:
    if pairs is None:
        return pa.table({"pair_id": pair_ids})
    own = pairs.filter((pc.field("objective") == objective) & (pc.field("split") == split))
    rows = pc.index_in(pair_ids, value_set=own["pair_id"].combine_chunks().cast(pair_ids.type))
    if rows.null_count:
        lost = pair_ids.filter(pc.is_null(rows))[0].as_py()
        raise DataError(
            f"pairs: {rows.null_count} of {len(pair_ids)} scored pairs of {objective} ({split}) are not there, "
            f"{lost!r} the first; expected all of them. Give the table that belongs to these scores."
        )
    return own.take(rows)


def _clusters(metadata: pa.Table, n: int) -> Clusters:
    if "prompt_id" not in metadata.column_names:
        return np.arange(n)
    return _codes(_encoded(metadata["prompt_id"])).codes


def _encoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbered by the values that are there: a dictionary may hold others, and leave gaps."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _where(key: _Key) -> str:
    return f"seed {key.seed}, order {key.order}, checkpoint {key.checkpoint}, objective {key.objective}"
