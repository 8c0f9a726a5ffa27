"""Does the margin only follow the length of the responses? And does its change?"""

from seqdpo.analysis.association import fit_line, spearman
from seqdpo.analysis.changes import all_or_nothing, flipped
from seqdpo.analysis.estimates import Clusters, mean
from seqdpo.analysis.margins import Column, PairScores, share_above_zero
from seqdpo.analysis.panel import At, Mask, Panel
from seqdpo.analysis.schema import AccuracyByLength, Length, LengthOfChange, SignDisagreement


def length_record(panel: Panel, at: At, confidence: float) -> Length:
    """How the margins of one checkpoint hang on length.

    The length difference is that of the chosen response less that of the rejected one, in tokens. Undefined numbers are
    None; a NaN in any pair leaves only the n defined.
    """
    scores, clusters = panel.checkpoints[at], panel.clusters
    groups = _by_length(_difference(scores))  # of the tokens as they are: a NaN elsewhere leaves their n known
    (scores,) = all_or_nothing(scores)
    difference, margin, ln_margin = _difference(scores), scores.margin, scores.ln_margin
    line = fit_line(margin, difference, clusters)
    disagreement = {name: flipped(margin, getattr(scores, name)) for name in ("ln_margin", "ln_margin_base_corrected")}
    accuracy = scores.accuracy
    estimates = {
        "chosen_tokens": mean(scores.chosen_tokens, clusters),
        "rejected_tokens": mean(scores.rejected_tokens, clusters),
        "length_difference": mean(difference, clusters),
        "longer_wins_accuracy": mean(share_above_zero(difference), clusters),
        "margin_at_same_length": line.at_zero,
        "margin_length_slope": line.slope,
    }
    return Length(
        seed=at.seed,
        order=at.order,
        stage=at.stage,
        checkpoint=panel.names[at],
        objective=panel.objective,
        split=panel.split,
        n=len(clusters),
        **{name: estimate.record(confidence) for name, estimate in estimates.items()},
        accuracy_by_length=AccuracyByLength(
            **{name: mean(accuracy[pairs], clusters[pairs]).record(confidence) for name, pairs in groups.items()}
        ),
        spearman_margin_length=spearman(margin, difference),
        spearman_ln_margin_length=spearman(ln_margin, difference),
        sign_disagreement=SignDisagreement(
            **{name: mean(column, clusters).record(confidence) for name, column in disagreement.items()}
        ),
    )


def length_change_record(
    before: PairScores, after: PairScores, clusters: Clusters, confidence: float
) -> LengthOfChange:
    """How the change of the margin between two checkpoints of a panel hangs on length; as `length_record`."""
    change, difference = after.margin - before.margin, _difference(before)
    line = fit_line(change, difference, clusters)
    return LengthOfChange(
        n=len(clusters),
        spearman_margin_change_length=spearman(change, difference),
        margin_change_at_same_length=line.at_zero.record(confidence),
        margin_change_length_slope=line.slope.record(confidence),
    )


def _difference(scores: PairScores) -> Column:
    return scores.chosen_tokens - scores.rejected_tokens


def _by_length(difference: Column) -> dict[str, Mask]:
    """Which pairs (n_pairs,) are of each kind."""
    return {"chosen_longer": difference > 0, "rejected_longer": difference < 0, "same_length": difference == 0}
