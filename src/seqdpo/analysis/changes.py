"""What happened to each pair between two checkpoints: change of margin, flip, and which log-probability moved."""

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from seqdpo.analysis.association import spearman, varies
from seqdpo.analysis.estimates import Clusters, Estimate, Measured, defined, mean, ratio
from seqdpo.analysis.margins import Column, PairScores, share_above_zero
from seqdpo.analysis.schema import Change, Displacement, Flips, McNemar, Quadrants

FlipCodes: TypeAlias = NDArray[np.int8]  # (n_pairs,) positions in FLIPS, -1 where a margin is undefined

#: What became of a pair. A margin above 0 is right, below 0 wrong; a pair with a tie before or after is neither.
FLIPS = (
    "kept",  # right, still right
    "lost",  # right, now wrong
    "regained",  # wrong, now right
    "never",  # wrong, still wrong
    "tied",  # a margin of exactly 0 before or after
)
#: Where the two log-probabilities of a pair went. The last holds the pairs of which either is exactly as before.
QUADRANTS = (
    "chosen_up_rejected_up",
    "chosen_up_rejected_down",
    "chosen_down_rejected_up",
    "chosen_down_rejected_down",
    "either_unchanged",
)
#: From this number of lost and regained pairs on, McNemar's test takes the chi-square distribution.
FEWEST_FOR_CHI_SQUARE = 25


class PairChanges(NamedTuple):
    """Later minus earlier for each pair; every field (n_pairs,), NaN where undefined."""

    margin_change: Column  # nats; of another measure than the margin in its unit
    chosen_side_change: Column  # the part of it that is the chosen response's
    ln_margin_change: Column  # nats a token
    chosen_change: Column  # of the log-probability of the chosen response, nats
    rejected_change: Column
    chosen_change_per_token: Column  # nats a token of the response
    rejected_change_per_token: Column
    flip: FlipCodes


def pair_changes(before: PairScores, after: PairScores) -> PairChanges:
    """The change of each pair between two checkpoints of one panel."""
    chosen_change = after.chosen_logp - before.chosen_logp
    rejected_change = after.rejected_logp - before.rejected_logp
    return PairChanges(
        margin_change=after.margin - before.margin,
        chosen_side_change=after.chosen_side - before.chosen_side,
        ln_margin_change=after.ln_margin - before.ln_margin,
        chosen_change=chosen_change,
        rejected_change=rejected_change,
        chosen_change_per_token=chosen_change / before.chosen_tokens,
        rejected_change_per_token=rejected_change / before.rejected_tokens,
        flip=flips(before.margin, after.margin),
    )


def flips(before_margin: Column, after_margin: Column) -> FlipCodes:
    """What became of each pair, as its position in FLIPS; -1 where a margin is NaN. All columns (n_pairs,)."""
    tied = (before_margin == 0) | (after_margin == 0)
    undefined = np.isnan(before_margin) | np.isnan(after_margin)
    of_signs = 2 * (before_margin < 0) + (after_margin < 0)  # 0 to 3, in the order of FLIPS
    return np.select([undefined, tied], [-1, FLIPS.index("tied")], of_signs).astype(np.int8)


def flipped(before_margin: Column, after_margin: Column) -> Column:
    """1 where the sign turned (lost or regained), 1/2 where exactly one margin is a tie, else 0; NaN stays NaN.

    It is the size of the change of the pair's accuracy, so its mean is the share of pairs that flipped.
    """
    return np.abs(share_above_zero(after_margin) - share_above_zero(before_margin))


def change_record(before: PairScores, after: PairScores, clusters: Clusters, confidence: float) -> Change:
    """The change of all pairs of a panel.

    Undefined numbers are None; a NaN in any pair leaves only the n defined.
    """
    before, after = all_or_nothing(before, after)
    changes = pair_changes(before, after)
    lost, regained = _is(changes.flip, FLIPS.index("lost")), _is(changes.flip, FLIPS.index("regained"))
    flips = Flips(**_counts(changes.flip, FLIPS))
    columns = {
        "margin_change": changes.margin_change,
        "ln_margin_change": changes.ln_margin_change,
        "accuracy_change": after.accuracy - before.accuracy,
        # negative and positive flip rate as in MUSCLE (arXiv 2407.09435); ties apart is our own
        "negative_flip_rate": lost,
        "positive_flip_rate": regained,
        "net_flip_rate": regained - lost,
    }
    return Change(
        n=len(clusters),
        **{name: mean(column, clusters).record(confidence) for name, column in columns.items()},
        d_z=_effect_size(changes.margin_change),
        spearman_margin_before_after=spearman(before.margin, after.margin),
        flips=flips,
        mcnemar=_mcnemar_record(flips, repeated=len(np.unique(clusters)) < len(clusters)),
        displacement=_displacement_record(changes, clusters, confidence),
    )


def all_or_nothing(*checkpoints: PairScores) -> tuple[PairScores, ...]:
    """The scores as they are; all of them NaN if any is, so that no two numbers of a record are of different pairs."""
    if not any(np.isnan(column).any() for scores in checkpoints for column in scores):
        return checkpoints
    return tuple(type(scores)(*(np.full_like(column, math.nan) for column in scores)) for scores in checkpoints)


def _effect_size(change: Column) -> float | None:
    """d_z: the mean change in SDs of the change (n - 1). It knows nothing of prompts."""
    return defined(float(np.mean(change) / np.std(change, ddof=1))) if varies(change) else None


def _mcnemar_record(flips: Flips, repeated: bool) -> McNemar:
    """Are as many pairs lost as regained? Two-sided p; exact below FEWEST_FOR_CHI_SQUARE such pairs.

    It takes pairs as independent: where prompts are `repeated` there is no p, and the interval of `net_flip_rate`
    holds. Tied pairs are left out.
    """
    if flips.lost is None or flips.regained is None:
        return McNemar(n=None, p=None, exact=None)
    n = flips.lost + flips.regained
    if repeated:
        return McNemar(n=n, p=None, exact=None)
    exact = n < FEWEST_FOR_CHI_SQUARE
    return McNemar(n=n, p=mcnemar_p(flips.lost, flips.regained, exact), exact=exact)


def mcnemar_p(lost: int, regained: int, exact: bool) -> float:
    """Two-sided: by the binomial distribution, or by chi square with Edwards' correction.

    statsmodels' mcnemar gives the same, and takes longer to import than all of this package.
    Source: McNemar 1947, Psychometrika 12:153; Edwards 1948, Psychometrika 13:185.
    """
    n = lost + regained
    if exact:
        return min(1.0, 2 * float(special.bdtr(min(lost, regained), n, 0.5)))
    return float(special.chdtrc(1, (abs(lost - regained) - 1) ** 2 / n))


def _displacement_record(changes: PairChanges, clusters: Clusters, confidence: float) -> Displacement:
    """Which side moved. A log-probability that is exactly as before has not fallen.

    Source: Razin et al. 2024 (arXiv 2410.08847) on the likelihood of chosen responses that falls.
    """
    chosen = changes.chosen_change
    fell = np.where(np.isnan(chosen), math.nan, chosen < 0)
    means = {
        "chosen_change": mean(chosen, clusters),
        "rejected_change": mean(changes.rejected_change, clusters),
        "chosen_change_per_token": mean(changes.chosen_change_per_token, clusters),
        "rejected_change_per_token": mean(changes.rejected_change_per_token, clusters),
        "displacement_rate": mean(fell, clusters),
        "chosen_share": _chosen_share(changes, clusters, confidence),
    }
    return Displacement(
        **{name: estimate.record(confidence) for name, estimate in means.items()},
        quadrants=Quadrants(**_counts(_quadrants(chosen, changes.rejected_change), QUADRANTS)),
    )


def _quadrants(chosen_change: Column, rejected_change: Column) -> FlipCodes:
    """Positions in QUADRANTS. They are those of FLIPS for two changes in place of two margins, up for right."""
    return flips(chosen_change, rejected_change)


def _chosen_share(changes: PairChanges, clusters: Clusters, confidence: float) -> Measured:
    """Mean change of the chosen side / mean change of the margin.

    Undefined where the interval of the latter includes 0 or there is none: a share of what may be nothing says nothing.
    """
    margin_change = mean(changes.margin_change, clusters)
    low, high = margin_change.interval(confidence)
    if low > 0 or high < 0:
        return ratio(changes.chosen_side_change, changes.margin_change, clusters)
    return Estimate(math.nan, math.nan, margin_change.n, margin_change.n_prompts)


def _is(codes: FlipCodes, code: int) -> Column:
    return np.where(codes < 0, math.nan, codes == code)


def _counts(codes: FlipCodes, names: tuple[str, ...]) -> dict[str, int | None]:
    """How many pairs have each code; None throughout where one is undefined."""
    if (codes < 0).any():
        return dict.fromkeys(names)
    return dict(zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True))
