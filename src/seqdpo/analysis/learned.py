"""What each stage taught of its own objective, and what is there of every objective when an order ends."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from seqdpo.analysis.claims import FEWEST_PROMPTS
from seqdpo.analysis.estimates import Estimate, defined, effective_prompts, mean
from seqdpo.analysis.evidence import ranking_accuracies
from seqdpo.analysis.multiplicity import holm_levels
from seqdpo.analysis.panel import At, Panel
from seqdpo.analysis.schema import AtTheEnd, EndWord, Interval, Learned, LearnedWord, Tolerances
from seqdpo.analysis.shares import ShareChange, share_change
from seqdpo.study.checkpoints import Checkpoint, is_together, parse_order


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a checkpoint has an objective: its margins against the base, and how many of them are above 0."""

    panel: Panel
    at: At
    margin: Estimate
    right_less_wrong: ShareChange  # above 0 where the accuracy is above one half
    below_base: ShareChange  # ranking accuracy less that of the base
    tolerance: float

    def p_values(self) -> dict[str, float]:
        """One-sided: `there` takes both margin and accuracy, `missing` one of two, `below` is on ranking accuracy."""
        if effective_prompts(self.panel.clusters) < FEWEST_PROMPTS - 1e-9:
            return {"there": 1.0, "missing": 1.0, "below": 1.0}
        missing = (self.margin.p_below(0), self.right_less_wrong.p_below(2 * self.tolerance))
        return {
            "there": max(self.margin.p_above(0), self.right_less_wrong.p_above(0)),
            "missing": min(1.0, 2 * min(missing)),
            "below": self.below_base.p_below(-self.tolerance),
        }


def standings(panels: Iterable[Panel], tolerances: Tolerances) -> dict[tuple[int, str, str, str], Standing]:
    """By seed, checkpoint, objective and split: of every stage's own objective, and of all objectives at the ends."""
    return {
        (at.seed, panel.names[at], panel.objective, panel.split): _standing(panel, at, tolerances)
        for panel in panels
        for at in _asked(panel)
    }


def levels(of: Sequence[Standing], confidence: float) -> list[float]:
    """The level of each, by Holm over all of them: one-sided, so that the two-sided intervals agree with the words."""
    return holm_levels([min(one.p_values().values()) for one in of], (1 - confidence) / 2)


def learned_word(standing: Standing, level: float) -> LearnedWord:
    p_values = standing.p_values()
    if p_values["there"] <= level:
        return "LEARNED"
    return "NOT LEARNED" if p_values["missing"] <= level else "INCONCLUSIVE"


def end_word(standing: Standing, level: float) -> EndWord:
    p_values = standing.p_values()
    if p_values["below"] <= level:
        return "BELOW BASE"
    if p_values["there"] <= level:
        return "PRESENT"
    return "ABSENT" if p_values["missing"] <= level else "INCONCLUSIVE"


def learned_records(panels: Sequence[Panel], tolerances: Tolerances) -> tuple[list[Learned], list[AtTheEnd]]:
    """A card for every stage on its own objective, and the state of each objective at the end of every order."""
    found = standings(panels, tolerances)
    level_of: dict[tuple[int, str, str, str], float] = {}
    for keys in _by_variant(found):
        of = [found[key] for key in keys]
        level_of |= zip(keys, levels(of, tolerances.confidence), strict=True)
    cards = [
        _learned_record(standing, level_of[key], tolerances.confidence)
        for key, standing in found.items()
        if _trains(standing.at, standing.panel.objective)
    ]
    ends = []
    for panel in panels:
        for seed, order in panel.orders():
            last = At(seed, order, panel.stages(seed, order)[-1])
            key = (seed, panel.names[last], panel.objective, panel.split)
            if last.stage and key in found:
                ends.append(_end_record(found[key], order, level_of[key], tolerances.confidence))
    return cards, ends


def _by_variant(found: Iterable[tuple[int, str, str, str]]) -> Iterable[list[tuple[int, str, str, str]]]:
    """What is tried beside the plain orders changes no word on them."""
    grouped: dict[tuple[str, bool], list[tuple[int, str, str, str]]] = {}
    for key in found:
        grouped.setdefault((Checkpoint.parse(key[1]).variant, is_together(key[1])), []).append(key)
    return grouped.values()


def _asked(panel: Panel) -> Iterator[At]:
    """The checkpoints that teach the panel's objective, and the last of each order; each name once."""
    named: dict[tuple[int, str], At] = {}
    for seed, order in panel.orders():
        stages = panel.stages(seed, order)
        for stage in stages:
            at = At(seed, order, stage)
            if stage and (_trains(at, panel.objective) or stage == stages[-1]):
                named.setdefault((seed, panel.names[at]), at)
    yield from named.values()


def _trains(at: At, objective: str) -> bool:
    return parse_order(at.order)[at.stage - 1] == objective


def _standing(panel: Panel, at: At, tolerances: Tolerances) -> Standing:
    scores, clusters = panel.checkpoints[at], panel.clusters
    of_policy, of_base = ranking_accuracies(scores)
    return Standing(
        panel=panel,
        at=at,
        margin=mean(scores.margin, clusters),
        right_less_wrong=share_change(2 * scores.accuracy - 1, clusters, scores.margin),
        below_base=share_change(of_policy - of_base, clusters, scores.margin),
        tolerance=tolerances.accuracy,
    )


def _learned_record(standing: Standing, level: float, confidence: float) -> Learned:
    panel, at = standing.panel, standing.at
    before = panel.checkpoints.get(at._replace(stage=at.stage - 1))
    scores, clusters = panel.checkpoints[at], panel.clusters
    nothing = np.zeros(len(clusters))
    gain = mean(scores.margin - (nothing if before is None else before.margin), clusters)
    word = learned_word(standing, level)
    accuracy = _accuracy(standing, confidence)
    return Learned(
        seed=at.seed,
        checkpoint=panel.names[at],
        objective=panel.objective,
        split=panel.split,
        word=word,
        margin=standing.margin.record(confidence),
        gain=gain.record(confidence),
        accuracy=accuracy,
        accuracy_before=None if before is None else defined(float(np.mean(before.accuracy))),
        sentence=_sentence(word, panel, gain.record(confidence), accuracy),
    )


def _end_record(standing: Standing, order: str, level: float, confidence: float) -> AtTheEnd:
    of_policy, of_base = ranking_accuracies(standing.panel.checkpoints[standing.at])
    return AtTheEnd(
        seed=standing.at.seed,
        order=order,
        objective=standing.panel.objective,
        split=standing.panel.split,
        word=end_word(standing, level),
        margin=standing.margin.record(confidence),
        accuracy=_accuracy(standing, confidence),
        ranking_accuracy_of_base=defined(float(np.mean(of_base))),
        ranking_accuracy=defined(float(np.mean(of_policy))),
    )


def _accuracy(standing: Standing, confidence: float) -> Interval:
    """The accuracy with the interval of right less wrong: accuracy = (1 + that) / 2."""
    found = standing.right_less_wrong.record(confidence)
    value, low, high = (None if one is None else (1 + one) / 2 for one in (found.value, found.low, found.high))
    return Interval(value=value, low=low, high=high, confidence=confidence, n=found.n, n_prompts=found.n_prompts)


def _sentence(word: LearnedWord, panel: Panel, gain: Interval, accuracy: Interval) -> str:
    openings: dict[LearnedWord, str] = {
        "LEARNED": f"{panel.objective} was learned",
        "NOT LEARNED": f"{panel.objective} was not learned",
        "INCONCLUSIVE": f"whether {panel.objective} was learned is open",
    }
    figures = f"n = {gain.n:,} pairs of {gain.n_prompts:,} prompts"
    if accuracy.value is None or accuracy.low is None or gain.value is None or gain.low is None:
        return f"{openings[word]} ({figures})."
    found = (
        f"{openings[word]}: {accuracy.value:.0%} [{accuracy.low:.0%}, {accuracy.high:.0%}] of its pairs are right, "
        f"its stage changed the mean margin by {gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}] ({figures})."
    )
    return found if word != "NOT LEARNED" else f"{found} {_to_learn(gain.low > 0)}"


def _to_learn(moved: bool) -> str:
    longer = "its stage longer or with a higher learning rate"
    if moved:
        return f"The stage moved it the right way, not far enough: train {longer}."
    return f"The stage is not shown to have moved it the right way: check its labels, or train {longer}."
