"""A verdict at other tolerances and in other measures: does it hang on the choice?

Each is judged by itself at the study's confidence, on margin and accuracy alone: the strip is read as a whole, and the
verdict of the cell is the one that was fixed before.
"""

from collections.abc import Callable, Iterator

from seqdpo.analysis.cells import Cell
from seqdpo.analysis.claims import AccuracyChange, Average, MarginChange, accuracy_change, class_at
from seqdpo.analysis.estimates import mean
from seqdpo.analysis.margins import Column, PairScores, share_above_zero
from seqdpo.analysis.schema import Elsewhere, Tolerances, Word
from seqdpo.analysis.shape import trimmed_mean
from seqdpo.analysis.word import verdict_word

#: Of the study's own tolerances, for margin and accuracy alike.
MULTIPLES = (0.5, 1.0, 2.0)

#: What the verdict may be made on: a measure of the pairs, and how it is averaged over them.
MEASURES: dict[str, tuple[Callable[[PairScores], Column], Average]] = {
    "margin": (lambda scores: scores.margin, mean),
    "margin, trimmed mean": (lambda scores: scores.margin, trimmed_mean),
    "ln_margin_base_corrected": (lambda scores: scores.ln_margin_base_corrected, mean),
}


def multiverse(cell: Cell, tolerances: Tolerances) -> Iterator[Elsewhere]:
    """The word at each of MULTIPLES and MEASURES, redistribution left aside; UNDEFINED where nothing was learned."""
    level, clusters = 1 - tolerances.confidence, cell.panel.clusters
    for name, (measure, average) in MEASURES.items():
        before, after, taught = (measure(PairScores(*one)) for one in (cell.before, cell.after, cell.when_taught))
        learned = average(taught, clusters).p_above(0) <= level
        change = average(after - before, clusters)
        right = accuracy_change(share_above_zero(after) - share_above_zero(before), tolerances.accuracy, cell)
        for multiple in MULTIPLES:
            tolerance = multiple * tolerances.margin
            lower, upper = (average(after - before + sign * tolerance * taught, clusters) for sign in (1, -1))
            margin = MarginChange(change, lower, upper, right.n_effective)
            accuracy = right._replace(tolerance=multiple * tolerances.accuracy)
            word = _word(margin, accuracy, level) if learned else "UNDEFINED"
            yield Elsewhere(measure=name, tolerance=tolerance, verdict=word)


def _word(margin: MarginChange, accuracy: AccuracyChange, level: float) -> Word:
    low, high = accuracy.value.interval(1 - 2 * level)
    of_margin, of_accuracy = (class_at(one.p_values(), level, "unresolved") for one in (margin, accuracy))
    return verdict_word(of_margin, of_accuracy, "untested", not (low > 0 or high < 0))[0]
