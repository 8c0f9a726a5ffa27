"""Which pairs were lost? The change of a cell by metadata column, by length and by strength of the preference."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from seqdpo.analysis.cells import Cell
from seqdpo.analysis.changes import FLIPS, flips
from seqdpo.analysis.estimates import Clusters, Estimate, Ratio, defined, satterthwaite_df, two_sided
from seqdpo.analysis.margins import Column, share_above_zero
from seqdpo.analysis.panel import Indices, Mask
from seqdpo.analysis.quartiles import QUARTILES, quartiles
from seqdpo.analysis.run_noise import beyond_controls
from seqdpo.analysis.schema import Contrast, Slice, extended
from seqdpo.tables import SLICE_PREFIX

MOST_VALUES = 20  # of a column, the most frequent ones; all others share a slice
MOST_NUMBERS = 10  # distinct numbers up to which each is a slice; more of them are put into quartiles
FEWEST_PROMPTS = 5  # in a slice, and outside it, for a test
OTHER = "(other)"
NONE = "(none)"


class _Slicing(NamedTuple):
    """A column of the pairs as slices, each of which holds a pair at least."""

    column: str
    codes: Indices  # (n_pairs,) position in labels
    labels: list[str]


class _Values(NamedTuple):
    """What is averaged or counted in a slice; every field (n_pairs,), and one for each control stage of the last."""

    taught: Column  # what of the margin was learned when taught,
    left: Column  # and is left
    margin_before: Column
    margin_after: Column
    margin_change: Column
    accuracy_before: Column
    accuracy_after: Column
    accuracy_change: Column
    lost: Column
    regained: Column
    change_in_controls: Sequence[Column]


_TOTALS = ("margin_before", "margin_after", "accuracy_before", "accuracy_after", "lost", "regained")


def slice_records(cell: Cell, confidence: float) -> list[Slice]:
    """The change in each slice, the most lost first.

    A NaN leaves its own slices undefined, and all comparisons with the rest.
    """
    values, clusters = _values(cell), cell.panel.clusters
    prompts = _prompts(values.margin_change, clusters)
    records = [
        record
        for slices in _columns(cell.panel.metadata, cell.before.chosen_tokens - cell.before.rejected_tokens)
        for record in _records(slices, _Parts.of(slices, clusters), prompts, values, confidence)
    ]
    return sorted(_with_q(records), key=_most_lost_first)


def _values(cell: Cell) -> _Values:
    before, after = cell.before.margin, cell.after.margin
    accuracy_before, accuracy_after = share_above_zero(before), share_above_zero(after)
    flip = flips(before, after)
    lost, regained = (np.where(flip < 0, math.nan, flip == FLIPS.index(word)) for word in ("lost", "regained"))
    return _Values(
        taught=cell.when_taught.learned,
        left=cell.after.learned,
        margin_before=before,
        margin_after=after,
        margin_change=after - before,
        accuracy_before=accuracy_before,
        accuracy_after=accuracy_after,
        accuracy_change=accuracy_after - accuracy_before,
        lost=lost,
        regained=regained,
        change_in_controls=[control.margin - before for control in cell.controls],
    )


def _records(slices: _Slicing, parts: "_Parts", prompts: "_Prompts", values: _Values, confidence: float) -> list[Slice]:
    """A record for each slice of a column; its q waits for those of the other columns."""
    changes = parts.sums(values.margin_change)
    estimates = {
        "margin_change": parts.means(changes),
        "accuracy_change": parts.means(parts.sums(values.accuracy_change)),
        "difference_from_rest": parts.differences(changes, prompts),
    }
    retentions = _retentions(parts, values, confidence)
    totals = {name: np.bincount(slices.codes, weights=getattr(values, name)) for name in _TOTALS}
    gaps = [parts.gaps(parts.sums(change)) for change in values.change_in_controls]
    return [
        _record(
            slices.column,
            label,
            {name: of_slices[i] for name, of_slices in estimates.items()},
            retentions[i],
            {name: float(of_slices[i]) for name, of_slices in totals.items()},
            [float(of_slices[i]) for of_slices in gaps],
            confidence,
        )
        for i, label in enumerate(slices.labels)
    ]


def _record(
    column: str,
    value: str,
    estimates: dict[str, Estimate],
    retention: Ratio,
    totals: dict[str, float],
    in_controls: list[float],
    confidence: float,
) -> Slice:
    """`in_controls` is the difference from the rest in each control stage."""
    change, difference = estimates["margin_change"], estimates["difference_from_rest"]
    found = {name: estimate.record(confidence) for name, estimate in estimates.items()}
    return Slice(
        column=column,
        value=value,
        n=change.n,
        n_prompts=change.n_prompts,
        margin_before=defined(totals["margin_before"] / change.n),
        margin_after=defined(totals["margin_after"] / change.n),
        margin_change=found["margin_change"],
        accuracy_before=defined(totals["accuracy_before"] / change.n),
        accuracy_after=defined(totals["accuracy_after"] / change.n),
        accuracy_change=found["accuracy_change"],
        lost=_count(totals["lost"]),
        regained=_count(totals["regained"]),
        retention=None if math.isnan(retention.value) else retention.record(confidence),
        difference_from_rest=extended(
            found["difference_from_rest"],
            Contrast,
            p=two_sided(difference) if difference.n_prompts >= FEWEST_PROMPTS else None,
            beyond_controls=beyond_controls(difference.value, in_controls, confidence),
        ),
        q=None,
    )


def _count(total: float) -> int | None:
    return None if math.isnan(total) else int(total)


def _retentions(parts: "_Parts", values: _Values, confidence: float) -> list[Ratio]:
    """Mean margin after / when taught; undefined where the latter is not above 0 with confidence."""
    taught = parts.sums(values.taught)
    learned = [estimate.interval(confidence)[0] > 0 for estimate in parts.means(taught)]
    return parts.ratios(parts.sums(values.left), np.where(np.array(learned)[parts.slice], taught, math.nan))


def _with_q(records: Sequence[Slice]) -> list[Slice]:
    """With the p values of all slices of the cell, adjusted for each other; a slice without p takes no part.

    Source: Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57:289.
    """
    p_values = [_p(record.difference_from_rest) for record in records]
    tested = [p for p in p_values if p is not None]
    adjusted = iter(stats.false_discovery_control(tested).tolist() if tested else [])
    q_values = [None if p is None else next(adjusted) for p in p_values]
    return [replace(record, q=q) for record, q in zip(records, q_values, strict=True)]


def _p(contrast: Contrast) -> float | None:
    """Of "the slice changed like the rest, but for the noise of its pairs or of the run": the larger of the two."""
    beyond = contrast.beyond_controls
    if contrast.p is None or beyond is None or beyond.p is None:
        return None
    return max(contrast.p, beyond.p)


def _most_lost_first(record: Slice) -> tuple[float, str, str]:
    change = record.margin_change.value
    return math.inf if change is None else change, record.column, record.value


# one column's slices


def metadata_slices(metadata: pa.Table, length_difference: Column) -> Iterator[tuple[str, str, Mask]]:
    """Column, value and members (n_pairs,) of every slice of pairs, of `metadata` as a panel has it."""
    for slices in _columns(metadata, length_difference):
        for place, label in enumerate(slices.labels):
            yield slices.column, label, slices.codes == place


def _columns(metadata: pa.Table, length_difference: Column) -> Iterator[_Slicing]:
    """Every column that tells pairs apart, one by one."""
    names = metadata.column_names
    for name in names:
        if name.startswith(SLICE_PREFIX) or name == "truncated":
            yield from _if_it_varies(_of_metadata(name, metadata[name]))
    yield from _if_it_varies(_in_quartiles("length_difference", length_difference))
    for name in ("prompt_tokens", "strength"):
        if name in names:
            yield from _if_it_varies(_in_quartiles(name, _numbers(metadata[name])))


def _if_it_varies(slices: _Slicing | None) -> Iterator[_Slicing]:
    if slices is not None and len(slices.labels) > 1:
        yield slices


def _of_metadata(name: str, column: pa.ChunkedArray) -> _Slicing | None:
    """None for lists and the like, and where more than half of the pairs have a value of their own: those are names."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type):
        return None
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return _by_text(name, column)
    numbers = _numbers(column)
    distinct = np.unique(numbers[~np.isnan(numbers)])
    if len(distinct) > MOST_NUMBERS:
        return _in_quartiles(name, numbers)
    codes = np.where(np.isnan(numbers), -1, np.searchsorted(distinct, numbers))
    return None if _mostly_single(codes) else _slicing(name, codes, _figures(distinct.tolist()))


def _by_text(name: str, column: pa.ChunkedArray) -> _Slicing | None:
    """The most frequent values; of two as frequent the first in the alphabet."""
    encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    if _mostly_single(codes):
        return None
    counts = pa.array(np.bincount(codes[codes >= 0], minlength=len(encoded.dictionary)))
    table = pa.table({"value": encoded.dictionary, "n": counts})
    rows = pc.sort_indices(table, [("n", "descending"), ("value", "ascending")])[:MOST_VALUES]
    # the last place is that of -1
    places = np.full(len(encoded.dictionary) + 1, len(rows))
    places[rows.to_numpy()] = np.arange(len(rows))
    places[-1] = -1
    return _slicing(name, places[codes], [*encoded.dictionary.take(rows).to_pylist(), OTHER])


def _mostly_single(codes: Indices) -> bool:
    counts = np.bincount(codes[codes >= 0])
    return int(np.count_nonzero(counts == 1)) > len(codes) / 2


def _in_quartiles(name: str, numbers: Column) -> _Slicing:
    """Quartiles of a column of numbers, labelled with the lowest and the highest in each."""
    codes = quartiles(numbers).codes
    members = [numbers[codes == quartile] for quartile in range(len(QUARTILES))]
    there = [values for values in members if len(values)]
    ends = _figures([end for values in there for end in (float(values.min()), float(values.max()))])
    ranges = iter(low if low == high else f"{low} to {high}" for low, high in zip(ends[::2], ends[1::2], strict=True))
    return _slicing(name, codes, [next(ranges) if len(values) else "" for values in members])


def _numbers(column: pa.ChunkedArray) -> Column:
    """(n_pairs,), NaN where there is none."""
    numbers: Column = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64, copy=False)
    return np.where(np.isfinite(numbers), numbers, math.nan)


def _figures(numbers: Sequence[float]) -> list[str]:
    """With three digits, or as many as it takes to tell them apart."""
    figures: list[str] = []
    for digits in (3, 6, 17):
        figures = [_figure(number, digits) for number in numbers]
        if len(set(figures)) == len(set(numbers)):
            break
    return figures


def _figure(number: float, digits: int) -> str:
    whole = float(number).is_integer() or abs(number) >= 10**digits
    return f"{number:.0f}" if whole else f"{number:.{digits}g}"


def _slicing(name: str, codes: Indices, labels: Sequence[str]) -> _Slicing:
    """The slices that hold pairs; -1 is that of the pairs without a value."""
    all_labels = [*labels, NONE]
    counts = np.bincount(codes % len(all_labels), minlength=len(all_labels))  # -1 becomes the last
    there = np.flatnonzero(counts)
    places = np.full(len(all_labels), -1)
    places[there] = np.arange(len(there))
    return _Slicing(name, places[codes], [all_labels[i] for i in there])


# the numbers of a column's slices, all at once


@dataclass(frozen=True, slots=True)
class _Parts:
    """The pairs of each slice, prompt by prompt: a part is what a slice and a prompt have in common.

    Everything clustered is made of sums over parts, so that no slice needs a pass over the pairs of its own.
    """

    of_pair: Indices  # (n_pairs,) the number of its part
    slice: Indices  # (n_parts,)
    prompt: Indices  # (n_parts,)
    n: Column  # (n_parts,) pairs in it
    slice_n: Column  # (n_slices,) pairs
    slice_prompts: Column  # (n_slices,)

    @classmethod
    def of(cls, slices: _Slicing, clusters: Clusters) -> "_Parts":
        n_slices = len(slices.labels)
        keys = clusters * n_slices + slices.codes
        there = np.zeros((int(clusters.max()) + 1) * n_slices, dtype=np.bool_)
        there[keys] = True
        parts = np.flatnonzero(there)
        numbers = np.empty(len(there), dtype=np.int32)  # the largest array of all
        numbers[parts] = np.arange(len(parts), dtype=np.int32)
        of_pair = numbers[keys].astype(np.int64)
        slice_of_part = parts % n_slices
        return cls(
            of_pair=of_pair,
            slice=slice_of_part,
            prompt=parts // n_slices,
            n=np.bincount(of_pair).astype(np.float64),
            slice_n=np.bincount(slices.codes).astype(np.float64),
            slice_prompts=np.bincount(slice_of_part).astype(np.float64),
        )

    def sums(self, values: Column) -> Column:
        """(n_parts,)"""
        return np.bincount(self.of_pair, weights=values).astype(np.float64, copy=False)

    def total(self, sums: Column) -> Column:
        """(n_slices,)"""
        return np.bincount(self.slice, weights=sums).astype(np.float64, copy=False)

    def means(self, sums: Column) -> list[Estimate]:
        """Of the values that these are the sums of, as `estimates.mean` of each slice's pairs."""
        means = self.total(sums) / self.slice_n
        pulls = self._pulls_of_mean(sums, means)
        columns = (means, np.sqrt(self.total(pulls**2)), self.slice_n, self.slice_prompts, self._df())
        return [Estimate(v, se, int(n), int(g), df) for v, se, n, g, df in zip(*map(_listed, columns), strict=True)]

    def ratios(self, numerators: Column, denominators: Column) -> list[Ratio]:
        """As `estimates.ratio` of each slice's pairs; both are sums (n_parts,)."""
        tops, bottoms = (self.total(sums) / self.slice_n for sums in (numerators, denominators))
        of_tops, of_bottoms = self._pulls_of_mean(numerators, tops), self._pulls_of_mean(denominators, bottoms)
        products = (of_tops**2, of_bottoms**2, of_tops * of_bottoms)
        moments = map(self.total, products)
        columns = (self.slice_n.astype(int), self.slice_prompts.astype(int), tops, bottoms, *moments, self._df())
        ratios = tops / np.where(bottoms == 0, math.nan, bottoms)
        return [Ratio(*numbers) for numbers in zip(ratios.tolist(), *map(_listed, columns), strict=True)]

    def _pulls_of_mean(self, sums: Column, means: Column) -> Column:
        """What each part adds to the error of its slice's mean, CR2: (n_parts,); NaN of a slice of one prompt."""
        left = 1 - self.n / self.slice_n[self.slice]  # 0 where the slice is of one prompt
        pulls: Column = (sums - means[self.slice] * self.n) / self.slice_n[self.slice]
        return pulls / np.sqrt(np.where(left > 0, left, math.nan))

    def _df(self) -> Column:
        """Satterthwaite's, of each slice: (n_slices,)."""
        left = 1 - self.n / self.slice_n[self.slice]
        q = self.n**2 / np.where(left > 0, left, math.nan)
        return satterthwaite_df(self.total(self.n**2), self.total(q), self.total(q**2), self.slice_n)

    def gaps(self, sums: Column) -> Column:
        """(n_slices,) the mean of each slice less that of all other pairs, of the values that these are the sums of."""
        inside = self.total(sums)
        gaps: Column = inside / self.slice_n - (sums.sum() - inside) / (self.slice_n.sum() - self.slice_n)
        return gaps

    def differences(self, sums: Column, prompts: "_Prompts") -> list[Estimate]:
        """The mean of each slice less that of all other pairs, as `quartiles.difference`.

        The squared pulls of the prompts without pairs in the slice are those of all prompts, less those that the
        slice's own prompts would have without it.
        """
        sums = sums - prompts.centre * self.n
        inside_n, outside_n = self.slice_n, prompts.n.sum() - self.slice_n
        inside = self.total(sums) / inside_n
        outside = (prompts.sums.sum() - self.total(sums)) / outside_n
        prompt_n, prompt_sums = prompts.n[self.prompt], prompts.sums[self.prompt]

        both = self._pulls(sums, self.n, inside, inside_n)
        both -= self._pulls(prompt_sums - sums, prompt_n - self.n, outside, outside_n)
        without = self._pulls(prompt_sums, prompt_n, outside, outside_n)
        squares = prompts.squares(outside) / outside_n**2 + self.total(both**2 - without**2)
        fully_inside = np.bincount(self.slice, weights=self.n == prompt_n)
        fewest = np.minimum(self.slice_prompts, len(prompts.n) - fully_inside)
        n = np.full(len(fewest), prompts.n.sum())
        return _estimates(inside - outside, np.maximum(squares, 0), n, fewest)

    def _pulls(self, sums: Column, n: Column, means: Column, of: Column) -> Column:
        """How `n` pairs (n_parts,) with these sums pull on means (n_slices,) that are taken over `of` pairs."""
        return (sums - means[self.slice] * n) / of[self.slice]


class _Prompts(NamedTuple):
    """The changes of all pairs prompt by prompt, around their mean."""

    centre: float
    n: Column  # (n_prompts,) pairs
    sums: Column  # (n_prompts,) of change - centre

    def squares(self, means: Column) -> Column:
        """(n_means,) sum over prompts of the squared sum of change - centre - mean."""
        return self.sums @ self.sums - 2 * means * (self.sums @ self.n) + means**2 * (self.n @ self.n)


def _listed(column: Column) -> list[float]:
    """Plain numbers."""
    numbers: list[float] = column.tolist()
    return numbers


def _prompts(change: Column, clusters: Clusters) -> _Prompts:
    centre = float(change.sum()) / max(len(change), 1)
    n = np.bincount(clusters).astype(np.float64)
    return _Prompts(centre, n, np.bincount(clusters, weights=change) - centre * n)


def _estimates(values: Column, variances: Column, n: Column, n_prompts: Column) -> list[Estimate]:
    """One for each slice, all (n_slices,); G/(G-1) as in `estimates.METHOD`, undefined with fewer than two prompts."""
    correction = np.where(n_prompts > 1, n_prompts / np.maximum(n_prompts - 1, 1), math.nan)
    errors = np.sqrt(variances * correction)
    columns = (values.tolist(), errors.tolist(), n.astype(int).tolist(), n_prompts.astype(int).tolist())
    return [Estimate(*numbers) for numbers in zip(*columns, strict=True)]
