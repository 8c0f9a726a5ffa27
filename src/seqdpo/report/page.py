"""report.html: the findings of a run on one page, down to the single pair."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from seqdpo.analysis.generations import answered_pairs, count_answers, engines
from seqdpo.analysis.preflight import came
from seqdpo.analysis.schema import (
    Bounds,
    Cell,
    FinalAccuracy,
    Findings,
    FirstMinusLast,
    NothingLearned,
    OrderEnd,
    Orders,
    PairMeasure,
    Reasons,
    Score,
    Tolerances,
    Word,
    WorstObjective,
)
from seqdpo.preferences.drops import left_out
from seqdpo.report import base_model
from seqdpo.report.audit import checkpoint_facts
from seqdpo.report.finished import Run
from seqdpo.report.html import html
from seqdpo.report.mechanism_sentences import mechanism_sentences
from seqdpo.report.payload import payload
from seqdpo.report.print_preflight import came_line
from seqdpo.report.print_variants import passes
from seqdpo.report.recipe_line import recipe_line
from seqdpo.report.words import AT_THE_END, FLIP_WORDS, LEARNED, SIDES, TAGS, UNITS, VERDICTS, VerdictWord
from seqdpo.study.checkpoints import BASE

#: Texts of these settings are there to be read at once; others may be harmful.
HARMLESS_SETTINGS = "lab-"


def page(run: Run, measure: PairMeasure = "margin") -> str:
    """The whole of report.html, in a measure."""
    whole = run.findings.in_measure(measure)
    findings = whole.plain()
    verdicts = [_shown_verdict(i, cell) for i, cell in enumerate(whole.cells)]
    mechanism = findings.mechanism
    return html(
        "page.html.jinja",
        payload(run, measure),
        measure=measure,
        unit=UNITS[measure],
        sides=SIDES[measure],
        measures=_measures(run.findings.plain()),
        model=base_model.shown(run),
        blurred=may_harm(run.study),
        run=run,
        findings=findings,
        learned=[(one, LEARNED[one.word]) for one in findings.learned],
        at_the_end=[(one, AT_THE_END[one.word]) for one in findings.at_the_end],
        tags=TAGS,
        verdicts=[one for one in verdicts if one.cell in findings.cells],
        variants=findings.variants,
        verdicts_of_variants=[one for one in verdicts if one.cell not in findings.cells],
        passes=passes,
        orders=[_shown_orders(one, one.final_accuracy, measure) for one in findings.orders if one.final_accuracy],
        matrices=_matrices(findings.score_matrix),
        method=how_measured(run),
        answers=[] if run.generations is None else count_answers(run.generations),
        engines=[] if run.generations is None else engines(run.generations),
        answered={} if run.generations is None else answered_pairs(run.generations),
        several_seeds=len(run.study.get("seeds", [])) > 1,
        foretold=_foretold(run),
        distances=[one for one in mechanism.kl_and_path if one.from_ != BASE] if mechanism else [],
        flip_words={name: word.meaning for name, word in FLIP_WORDS.items()},
        mechanism_sentences=mechanism_sentences(mechanism) if mechanism else [],
    )


def _foretold(run: Run) -> list[tuple[str, list[str]]]:
    """Of each stage that a preflight was made of and that has run: its name, and forecasts beside what came."""
    rows = [] if run.preflight is None else came(run.preflight, run.findings)
    named = groupby(rows, key=lambda row: f"{row.stage.checkpoint} (seed {row.stage.seed})")
    return [(name, [came_line(row) for row in group]) for name, group in named]


def may_harm(study: Mapping[str, Any]) -> bool:
    """Whether texts of this study are hidden until asked for."""
    return not str(study.get("setting") or "").startswith(HARMLESS_SETTINGS)


class _Measured(NamedTuple):
    """A cell by the name of its checkpoint, and its records in every measure."""

    cell: Cell
    records: list[tuple[Cell, VerdictWord]]


def _measures(findings: Findings) -> list[_Measured]:
    """Every cell in every measure, the margin first; none where the margin is the only one."""
    of = [findings.cells, *(one.cells for one in findings.other_measures)]
    alike = zip(*of, strict=True) if len(of) > 1 else ()
    return [_Measured(cells[0], [(cell, VERDICTS[cell.verdict.verdict]) for cell in cells]) for cells in alike]


class _ShownVerdict(NamedTuple):
    number: int
    cell: Cell
    look: VerdictWord
    recipe: str
    numbers: str  # the verdict's own, before and after and in control stages
    multiverse: list[tuple[str, list[tuple[float, Word, VerdictWord]]]]  # by measure: tolerance, word and its look


def _shown_verdict(number: int, cell: Cell) -> _ShownVerdict:
    reasons, strip = cell.verdict.reasons, []
    if isinstance(reasons, Reasons):
        for measure, group in groupby(reasons.multiverse, key=lambda one: one.measure):
            strip.append((measure, [(one.tolerance, one.verdict, VERDICTS[one.verdict]) for one in group]))
    look, numbers = VERDICTS[cell.verdict.verdict], _numbers(reasons, cell.measure)
    return _ShownVerdict(number, cell, look, recipe_line(cell.recipe), numbers, strip)


def _numbers(reasons: Reasons | NothingLearned, measure: PairMeasure) -> str:
    """`86% → 26% right, margin +3.39 → -2.76 nats; control stages -1 points, -0.22 nats`; '' with nothing learned."""
    if not isinstance(reasons, Reasons):
        return ""
    unit, controls = UNITS[measure], reasons.controls
    moved = (
        f"{reasons.accuracy_before:.0%} → {reasons.accuracy_after:.0%} right, {measure.replace('_', ' ')} "
        f"{reasons.margin_before:+.2f} → {reasons.margin_after:+.2f} {unit}"
    )
    if controls is None:
        return moved
    return (
        f"{moved}; control stages: {100 * controls.accuracy_change:+.0f} points, {controls.margin_change:+.2f} {unit}"
    )


class _Winner(NamedTuple):
    order: str
    is_clear: bool  # its interval lies above those of all others


class _ShownOrders(NamedTuple):
    """Which order did better, and by how much."""

    best: _Winner
    best_by_worst: _Winner
    orders: Sequence[OrderEnd]
    differences: list[FirstMinusLast]


def _shown_orders(record: Orders, accuracy: FinalAccuracy, measure: PairMeasure) -> _ShownOrders:
    ends = accuracy.orders
    return _ShownOrders(
        best=_winner(accuracy.best, {one.order: one.average for one in ends}),
        best_by_worst=_winner(accuracy.best_by_worst_objective, {one.order: one.worst_objective for one in ends}),
        orders=ends,
        differences=[one for one in record.first_minus_last if one.measure == measure],
    )


def _winner(order: str, scores: Mapping[str, Bounds | WorstObjective | None]) -> _Winner:
    own = scores[order]
    others = [score for name, score in scores.items() if name != order]
    clear = (
        own is not None
        and own.low is not None
        and all(score is not None and score.high is not None and score.high < own.low for score in others)
    )
    return _Winner(order, clear)


class _Line(NamedTuple):
    """A checkpoint and its scores by objective."""

    checkpoint: str
    placebo: int
    scores: dict[str, Score]


class _Matrix(NamedTuple):
    """One seed and order: checkpoints down, objectives across."""

    seed: int
    order: str
    objectives: list[str]
    lines: list[_Line]


def _matrices(rows: Sequence[Score]) -> list[_Matrix]:
    tables = []
    for (seed, order), group in groupby(rows, key=lambda row: (row.seed, row.order)):
        own = list(group)
        lines: dict[tuple[int, int], _Line] = {}
        for row in own:
            line = lines.setdefault((row.stage, row.placebo), _Line(row.checkpoint, row.placebo, {}))
            line.scores[row.objective] = row
        tables.append(_Matrix(seed, order, list(dict.fromkeys(row.objective for row in own)), list(lines.values())))
    return tables


def how_measured(run: Run) -> list[tuple[str, str]]:
    """Reference, adapter, controls, tolerances, pairs and hashes, as label and text."""
    study, manifest, method = run.study, run.manifest, run.findings.method
    identity, parameters = manifest["identity"], manifest.get("parameters", {})
    facts = {
        "model": base_model.shown(run),
        "reference of the loss": study.get("reference"),
        "margins are against": "the base model",
        **checkpoint_facts(manifest),
        "adapter": f"LoRA r = {study['lora_r']}, {study.get('adapter_mode')}" if "lora_r" in study else None,
        "trainable parameters": f"{parameters['trainable']:,} of {parameters['total']:,}" if parameters else None,
        "beta, learning rate": f"{study['beta']}, {study['learning_rate']}" if "learning_rate" in study else None,
        "seeds": ", ".join(map(str, study.get("seeds", []))),
        "control stages": _controls(study.get("placebo")),
        "tolerances": _tolerances(method.tolerances),
        "intervals": method.intervals,
        "engine": manifest.get("engine"),
        "pairs": "; ".join(_account(name, one) for name, one in run.dropped.items()),
        **{
            f"hash of {name.replace('_', ' ')}": str(value)[:16] for name, value in identity.items() if name != "seqdpo"
        },
        "seqdpo": identity.get("seqdpo"),
    }
    return [(label, str(text)) for label, text in facts.items() if text not in (None, "")]


def _tolerances(of: Tolerances) -> str:
    return (
        f"margin {of.margin:.0%} of what was learned, accuracy {of.accuracy}, flips {of.flips}; "
        f"confidence {of.confidence:.0%}"
    )


def _controls(n: int | None) -> str | None:
    """What the stages named ~placebo1 and so on are."""
    if not n:
        return None
    return (
        f"{n} beside each later stage (~placebo1 to ~placebo{n}): the same start, pairs, steps and learning rate; each "
        "pair's label drawn, anew for each of them, with the probability that the starting checkpoint gives it"
    )


def _account(name: str, record: Mapping[str, Any]) -> str:
    by_limits, wrong = left_out(record["dropped"])
    trained = f"{record['train']:,} trained, " if record["train"] else ""
    kept = f"{name}: {trained}{record['eval']:,} held out"
    return f"{kept}; of {record['read']:,} read, {by_limits:,} over the study's limits and {wrong:,} dropped"
