"""Verdicts on a checkpoint: what a later stage did to an earlier objective, by a rule that was fixed before.

The rule, and how often it errs, is in docs/verdicts.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from seqdpo.analysis.cells import Cell
from seqdpo.analysis.claims import AccuracyChange, MarginChange, class_at, nothing
from seqdpo.analysis.estimates import defined, mean
from seqdpo.analysis.evidence import Evidence, OfBase, evidence, ranking_accuracies
from seqdpo.analysis.learned import levels, standings
from seqdpo.analysis.multiplicity import holm_levels
from seqdpo.analysis.multiverse import multiverse
from seqdpo.analysis.needed import Needed, needed
from seqdpo.analysis.schema import (
    AgainstBase,
    Class,
    ControlMovement,
    DecidedBy,
    Degree,
    Excess,
    ExcessFlips,
    Judged,
    NothingLearned,
    Reasons,
    Tag,
    Tolerances,
    Verdict,
    Word,
    extended,
)
from seqdpo.analysis.sentences import sentence, undefined_sentence
from seqdpo.analysis.shape import shape_record
from seqdpo.analysis.word import verdict_word

SCOPE = (
    "this checkpoint, on pairs like these: the interval is over prompts of one training run and says nothing about "
    "another run of the same recipe"
)
#: What a redistribution shows itself by, in the order in which it is named.
OF_REDISTRIBUTION: tuple[DecidedBy, ...] = ("flips", "scatter", "scale")


@dataclass(frozen=True, slots=True)
class Classes:
    """What is claimed of each quantity, at its own level."""

    margin: Class
    accuracy: Class
    flips: Excess
    scale: Excess
    scatter: Excess
    below_base: bool
    levels: Mapping[str, float]

    @property
    def redistribution(self) -> Excess:
        """Found by flips, by scatter, or, of a mean that held, by a scale that did not; ruled out only of flips."""
        found = [name for name in OF_REDISTRIBUTION if self.found_by(name)]
        if found:
            return "found"
        return self.flips

    def found_by(self, name: DecidedBy) -> bool:
        """A change of scale beside a change of the mean may be a rescaling of all pairs, so it shows nothing there."""
        return getattr(self, name) == "found" and (name != "scale" or self.margin == "held")


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rule says of a cell, before it is written down."""

    evidence: Evidence
    levels: Mapping[str, float]  # of each quantity on which something may be claimed
    classes: Classes | None  # None where nothing was learned
    word: Word
    decided_by: DecidedBy | None
    degree: Degree | None
    tags: tuple[Tag, ...]


def verdicts(cells: Sequence[Cell], tolerances: Tolerances) -> list[Verdict]:
    """The verdict of each cell, with its reasons.

    Intervals have the confidence at which their quantity was judged.
    """
    return [
        _not_learned(ruling, tolerances) if ruling.classes is None else _verdict(ruling, ruling.classes, tolerances)
        for ruling in rulings(cells, tolerances)
    ]


def rulings(cells: Sequence[Cell], tolerances: Tolerances) -> list[Ruling]:
    """By the rule of docs/verdicts.md; all claims of all cells share the risk of a wrong one (Holm)."""
    found = [evidence(cell, tolerances) for cell in cells]
    learned = [is_learned and e.defined for e, is_learned in zip(found, _learned(cells, tolerances), strict=True)]
    claims = [
        {name: p for name, p in e.claims().items() if is_learned or name == "base"} if e.defined else {}
        for e, is_learned in zip(found, learned, strict=True)
    ]
    in_order = iter(holm_levels([p for one in claims for p in one.values()], 1 - tolerances.confidence))
    at = [{name: next(in_order) for name in one} for one in claims]
    return [
        _ruling(e, of, tolerances) if is_learned else _without_gain(e, of)
        for e, of, is_learned in zip(found, at, learned, strict=True)
    ]


def _learned(cells: Sequence[Cell], tolerances: Tolerances) -> list[bool]:
    """Whether each cell's objective was learned where it was taught."""
    panels = list({id(cell.panel): cell.panel for cell in cells}.values())
    found = standings(panels, tolerances)
    of = dict(zip(found, levels(list(found.values()), tolerances.confidence), strict=True))
    keys = [(cell.seed, cell.name(cell.taught), cell.objective, cell.panel.split) for cell in cells]
    return [found[key].p_values()["there"] <= of[key] for key in keys]


def classes_of(e: Evidence, of: Mapping[str, float]) -> Classes:
    """What is claimed of each quantity; `of` holds the level of each."""
    flips: Excess = "untested" if e.flips is None else class_at(e.flips.p_values(), of["flips"], "open")
    return Classes(
        margin=class_at(e.margin.p_values(), of["margin"], "unresolved"),
        accuracy=class_at(e.accuracy.p_values(), of["accuracy"], "unresolved"),
        flips=flips,
        scale=_against_controls(e, "scale", of),
        scatter=_against_controls(e, "scatter", of),
        below_base=e.base.p_below() <= of["base"],
        levels=of,
    )


def _against_controls(e: Evidence, name: str, of: Mapping[str, float]) -> Excess:
    """By the spread of two or more control stages: nothing smaller shows what a training does by itself."""
    if name not in of or nothing(e.cell.panel.clusters):
        return "untested"
    return "found" if e.shape.of_runs.p(name) <= of[name] else "open"


def _ruling(e: Evidence, of: Mapping[str, float], tolerances: Tolerances) -> Ruling:
    classes = classes_of(e, of)
    steady = _covers_zero(e.accuracy, of["accuracy"])
    word, decided_by = verdict_word(classes.margin, classes.accuracy, classes.redistribution, steady)
    if decided_by == "flips":
        decided_by = next(name for name in OF_REDISTRIBUTION if classes.found_by(name))
    degree = _degree(word, decided_by, classes, e)
    return Ruling(e, of, classes, word, decided_by, degree, tuple(_tags(e, classes, word, steady, tolerances)))


def _without_gain(e: Evidence, of: Mapping[str, float]) -> Ruling:
    """BELOW BASE where what the base could do is lost, whatever was taught; else there is no verdict."""
    below = "base" in of and e.base.p_below() <= of["base"]
    return Ruling(e, of, None, "BELOW BASE" if below else "UNDEFINED", "base" if below else None, None, ())


def _verdict(ruling: Ruling, classes: Classes, tolerances: Tolerances) -> Verdict:
    e, of = ruling.evidence, ruling.levels
    more = Needed(None, None)
    if ruling.word == "INCONCLUSIVE":
        more = needed(e.margin, e.accuracy, of["margin"], of["accuracy"])
    reasons = _reasons(e, classes, tolerances)
    verdict = Verdict(
        verdict=ruling.word,
        degree=ruling.degree,
        decided_by=ruling.decided_by,
        redistribution=classes.redistribution,
        tags=ruling.tags,
        n_needed=more.pairs,
        prompts_needed=more.prompts,
        level=of["accuracy" if ruling.decided_by == "accuracy" else "margin"],
        reasons=reasons,
        scope=SCOPE,
        sentence="",
    )
    return replace(verdict, sentence=sentence(verdict, reasons, e.cell))


def _covers_zero(change: AccuracyChange, level: float) -> bool:
    low, high = change.value.interval(1 - 2 * level)
    return not (low > 0 or high < 0)


def _degree(word: Word, decided_by: DecidedBy, classes: Classes, e: Evidence) -> Degree | None:
    if word == "STABLE":
        return None if classes.accuracy == "held" else "margin only"
    if word != "DEGRADED" or decided_by != "margin":
        return None
    level = classes.levels["margin"]
    if e.after_beyond_tolerance.p_below(0) <= level:
        return "lost"
    return "partial" if e.after.p_above(0) <= level else "extent open"


def _tags(e: Evidence, classes: Classes, word: Word, accuracy_covers_zero: bool, tolerances: Tolerances) -> list[Tag]:
    tags: list[Tag] = []
    if classes.redistribution == "found" and word != "REDISTRIBUTED":
        tags.append("redistributed")
    if classes.margin in ("fell", "rose") and _scale_only(e, classes, accuracy_covers_zero, tolerances):
        tags.append("scale only")
    if classes.below_base:
        tags.append("below base")
    return tags


def _scale_only(e: Evidence, classes: Classes, accuracy_covers_zero: bool, tolerances: Tolerances) -> bool:
    """All margins were multiplied by one number, as far as can be told: no shift, no more scatter, no accuracy lost."""
    level = classes.levels["margin"]
    tolerance = tolerances.margin * e.gain.value
    shift, scale = e.shape.shift, e.shape.scale
    steady = classes.accuracy == "held" or (classes.accuracy == "unresolved" and accuracy_covers_zero)
    no_shift = max(shift.p_above(-tolerance), shift.p_below(tolerance)) <= level
    other = min(scale.p_below(1 - tolerances.margin), scale.p_above(1 + tolerances.margin)) <= level
    return steady and no_shift and other and classes.redistribution != "found"


def _reasons(e: Evidence, classes: Classes, tolerances: Tolerances) -> Reasons:
    before, after, clusters = e.cell.before, e.cell.after, e.cell.panel.clusters
    of = {name: 1 - 2 * level for name, level in classes.levels.items()}  # the interval that agrees with the tests
    margin_tolerance = tolerances.margin * e.gain.value
    return Reasons(
        gain=e.gain.record(tolerances.confidence),
        margin_before=mean(before.margin, clusters).value,
        margin_after=e.after.value,
        margin_change=_judged(e.margin, of["margin"], margin_tolerance, classes.margin),
        retention=e.retention.record(of["margin"]),
        accuracy_before=mean(before.accuracy, clusters).value,
        accuracy_after=mean(after.accuracy, clusters).value,
        accuracy_change=_judged(e.accuracy, of["accuracy"], tolerances.accuracy, classes.accuracy),
        excess_flips=_excess_record(e, of, classes.flips, tolerances),
        base=_base_record(e, of["base"], classes.levels["base"], tolerances),
        controls=_control_movement(e),
        shape=shape_record(e.cell, e.shape, tolerances.confidence),
        multiverse=tuple(multiverse(e.cell, tolerances)),
    )


def _judged(change: MarginChange | AccuracyChange, confidence: float, tolerance: float, found: Class) -> Judged:
    return extended(change.value.record(confidence), Judged, tolerance=tolerance, class_=found)


def _excess_record(e: Evidence, of: Mapping[str, float], found: Excess, tolerances: Tolerances) -> ExcessFlips | None:
    if e.flips is None:
        return None
    more = {"tolerance": tolerances.flips, "class_": found, "n_controls": len(e.cell.controls)}
    return extended(e.flips.value.record(of["flips"]), ExcessFlips, **more)


def _base_record(e: Evidence, confidence: float, level: float, tolerances: Tolerances) -> AgainstBase:
    base: OfBase = e.base
    after, of_base = ranking_accuracies(e.cell.after)
    taught, _ = ranking_accuracies(e.cell.when_taught)
    accuracy_class = class_at(base.ranking_accuracy.p_values(), level, "unresolved")
    of_margin = None
    if base.margin is not None:
        tolerance = tolerances.margin * base.margin_of_base.value
        found = class_at(base.margin.p_values(), level, "unresolved")
        of_margin = _judged(base.margin, confidence, tolerance, found)
    of_base_value, of_taught, of_after = (defined(float(np.mean(one))) for one in (of_base, taught, after))
    return AgainstBase(
        ranking_accuracy_of_base=of_base_value,
        ranking_accuracy_when_taught=of_taught,
        ranking_accuracy_after=of_after,
        ranking_accuracy_change=_judged(base.ranking_accuracy, confidence, tolerances.accuracy, accuracy_class),
        margin_of_base=base.margin_of_base.record(tolerances.confidence),
        margin_change=of_margin,
    )


def _control_movement(e: Evidence) -> ControlMovement | None:
    controls, before = e.cell.controls, e.cell.before
    if not controls:
        return None
    margin = float(np.mean([one.margin - before.margin for one in controls]))
    accuracy = float(np.mean([one.accuracy - before.accuracy for one in controls]))
    return ControlMovement(
        n_controls=len(controls),
        margin_change=margin,
        share_of_gain=margin / e.gain.value,
        accuracy_change=accuracy,
    )


def _not_learned(ruling: Ruling, tolerances: Tolerances) -> Verdict:
    e = ruling.evidence
    level = ruling.levels.get("base", 1 - tolerances.confidence)
    reasons = NothingLearned(
        gain=e.gain.record(tolerances.confidence),
        accuracy_when_taught=e.accuracy_when_taught.record(tolerances.confidence),
        base=_base_record(e, 1 - 2 * level, level, tolerances),
    )
    verdict = Verdict(
        verdict=ruling.word,
        degree=None,
        decided_by=ruling.decided_by,
        redistribution="untested",
        tags=(),
        n_needed=None,
        prompts_needed=None,
        level=level if ruling.decided_by else None,
        reasons=reasons,
        scope=SCOPE,
        sentence="",
    )
    return replace(verdict, sentence=undefined_sentence(verdict, reasons, e.cell, e.defined))
