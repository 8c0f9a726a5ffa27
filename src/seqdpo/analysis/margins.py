"""Every margin of a pair, derived from the raw log-probabilities of a score table."""

from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqdpo.analysis.schema import PairMeasure
from seqdpo.errors import DataError

Column: TypeAlias = NDArray[np.float64]


class PairScores(NamedTuple):
    """What one checkpoint and the base say of the same pairs; every field (n_pairs,), NaN where undefined.

    The fields bear the names of the columns of scores.parquet: log-probabilities in nats summed over response tokens,
    and those tokens.
    """

    chosen_logp: Column
    rejected_logp: Column
    base_chosen_logp: Column
    base_rejected_logp: Column
    chosen_tokens: Column
    rejected_tokens: Column

    @property
    def chosen_side(self) -> Column:
        """What the margin takes from the chosen response: chosen side - rejected side = margin."""
        return self.chosen_logp - self.base_chosen_logp

    @property
    def rejected_side(self) -> Column:
        return self.rejected_logp - self.base_rejected_logp

    @property
    def learned(self) -> Column:
        """The margin less that of the base, which is 0."""
        return self.margin

    @property
    def margin(self) -> Column:
        """How much further than the base the policy prefers each chosen response: nats, no beta, above 0 is better."""
        return (self.chosen_logp - self.base_chosen_logp) - (self.rejected_logp - self.base_rejected_logp)

    @property
    def ln_margin(self) -> Column:
        """Length-normalised margin of the policy alone: nats a token of the chosen less that of the rejected."""
        return self.chosen_logp / self.chosen_tokens - self.rejected_logp / self.rejected_tokens

    @property
    def ln_margin_base_corrected(self) -> Column:
        base = self.base_chosen_logp / self.chosen_tokens - self.base_rejected_logp / self.rejected_tokens
        return self.ln_margin - base

    @property
    def accuracy(self) -> Column:
        """1 where the margin is above 0, 1/2 at a tie, else 0."""
        return share_above_zero(self.margin)

    @property
    def ranking_accuracy(self) -> Column:
        """The same on the policy's own log-probabilities."""
        return share_above_zero(self.chosen_logp - self.rejected_logp)


class InLnMargin(PairScores):
    """The same scores for whoever looks at the length-normalised margin of the policy, as the study did."""

    __slots__ = ()

    @property
    def margin(self) -> Column:
        return self.ln_margin

    @property
    def chosen_side(self) -> Column:
        return self.chosen_logp / self.chosen_tokens

    @property
    def rejected_side(self) -> Column:
        return self.rejected_logp / self.rejected_tokens

    @property
    def learned(self) -> Column:
        """What the base can do is in this margin, and was not learned."""
        return self.ln_margin_base_corrected


class InLnMarginBaseCorrected(PairScores):
    """The same scores for whoever looks at the length-normalised margin against the base."""

    __slots__ = ()

    @property
    def margin(self) -> Column:
        return self.ln_margin_base_corrected

    @property
    def chosen_side(self) -> Column:
        return (self.chosen_logp - self.base_chosen_logp) / self.chosen_tokens

    @property
    def rejected_side(self) -> Column:
        return (self.rejected_logp - self.base_rejected_logp) / self.rejected_tokens


#: Scores by the measure in which changes, flips, quartiles, slices and verdicts are made; the first decides.
IN_MEASURE: dict[PairMeasure, type[PairScores]] = {
    "margin": PairScores,
    "ln_margin": InLnMargin,
    "ln_margin_base_corrected": InLnMarginBaseCorrected,
}

#: The measures of a pair whose means make up R[i, j].
MEASURES = ("margin", "reward_margin", "ln_margin", "ln_margin_base_corrected", "accuracy", "ranking_accuracy")


def pair_scores(scores: pa.Table) -> PairScores:
    """The columns of a score table, in the order of its rows.

    Raises: DataError if a column is missing or a response has no tokens.
    """
    columns = PairScores(*(_column(scores, name) for name in PairScores._fields))
    if min(columns.chosen_tokens.min(initial=1), columns.rejected_tokens.min(initial=1)) < 1:
        raise DataError("scores: a response has 0 tokens; expected at least 1. Leave such pairs out.")
    return columns


def measure(scores: PairScores, name: str, beta: float) -> Column:
    """One of MEASURES for each pair; `reward_margin` is beta times the margin."""
    values: Column = beta * scores.margin if name == "reward_margin" else getattr(scores, name)
    return values


def share_above_zero(values: Column) -> Column:
    """1 above zero, 1/2 at zero, 0 below; NaN stays NaN."""
    return np.where(np.isnan(values), np.nan, (values > 0) + 0.5 * (values == 0))


def _column(scores: pa.Table, name: str) -> Column:
    if name not in scores.column_names:
        raise DataError(f"scores: no column {name!r}; found {', '.join(scores.column_names)}. Add it.")
    values = scores[name].to_numpy().astype(np.float64, copy=False)
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.nan)
