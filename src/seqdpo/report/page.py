"""report.html: the findings of a run on one page, down to the single pair."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from seqdpo.analysis.generations import answered_pairs, count_answers
from seqdpo.analysis.recipes import ATTRIBUTABLE
from seqdpo.analysis.schema import (
    Bounds,
    Cell,
    FinalAccuracy,
    FirstMinusLast,
    OfRecipe,
    OrderEnd,
    Orders,
    Score,
    Tolerances,
    Verdict,
    WorstObjective,
)
from seqdpo.report import base_model
from seqdpo.report.audit import checkpoint_facts, how_to_test
from seqdpo.report.finished import Run
from seqdpo.report.html import html
from seqdpo.report.mechanism_sentences import mechanism_sentences
from seqdpo.report.payload import payload
from seqdpo.report.words import FLIP_WORDS, VERDICTS, VerdictWord
from seqdpo.study.checkpoints import BASE

#: Texts of these settings are there to be read at once; others may be harmful.
HARMLESS_SETTINGS = "lab-"


def page(run: Run) -> str:
    """The whole of report.html."""
    findings = run.findings
    mechanism = findings.mechanism
    return html(
        "page.html.jinja",
        payload(run),
        model=base_model.shown(run),
        blurred=may_harm(run.study),
        run=run,
        findings=findings,
        verdicts=[_shown_verdict(i, cell, findings.study) for i, cell in enumerate(findings.cells)],
        orders=[_shown_orders(one, one.final_accuracy) for one in findings.orders if one.final_accuracy],
        matrices=_matrices(findings.score_matrix),
        method=how_measured(run),
        answers=[] if run.generations is None else count_answers(run.generations),
        answered={} if run.generations is None else answered_pairs(run.generations),
        several_seeds=len(run.study.get("seeds", [])) > 1,
        distances=[one for one in mechanism.kl_and_path if one.from_ != BASE] if mechanism else [],
        flip_words={name: word.meaning for name, word in FLIP_WORDS.items()},
        mechanism_sentences=mechanism_sentences(mechanism) if mechanism else [],
    )


def may_harm(study: Mapping[str, Any]) -> bool:
    """Whether texts of this study are hidden until asked for."""
    return not str(study.get("setting") or "").startswith(HARMLESS_SETTINGS)


class _ShownVerdict(NamedTuple):
    number: int
    cell: Cell
    look: VerdictWord
    recipe: OfRecipe | None
    advice: list[str]


def _shown_verdict(number: int, cell: Cell, study: Mapping[str, Any]) -> _ShownVerdict:
    recipe = cell.recipe.read
    return _ShownVerdict(number, cell, VERDICTS[cell.verdict.verdict], recipe, _advice(cell.verdict, recipe, study))


def _advice(verdict: Verdict, recipe: OfRecipe | None, study: Mapping[str, Any]) -> list[str]:
    """What to do next, where something is open."""
    found = []
    if verdict.verdict == "INCONCLUSIVE":
        found.append(
            f"Score about {verdict.n_needed:,} held-out pairs to settle it (max_eval_pairs)."
            if verdict.n_needed
            else "More pairs would not settle it; train more control stages or seeds."
        )
    if recipe is not None and recipe.statement != ATTRIBUTABLE and recipe.draws_needed:
        how = how_to_test(study, f"placebo: {recipe.draws_needed}")
        found.append(f"{how[0].upper()}{how[1:]}.")
    return found


class _Winner(NamedTuple):
    order: str
    is_clear: bool  # its interval lies above those of all others


class _ShownOrders(NamedTuple):
    """Which order did better, and by how much."""

    best: _Winner
    best_by_worst: _Winner
    orders: Sequence[OrderEnd]
    differences: list[FirstMinusLast]


def _shown_orders(record: Orders, accuracy: FinalAccuracy) -> _ShownOrders:
    ends = accuracy.orders
    return _ShownOrders(
        best=_winner(accuracy.best, {one.order: one.average for one in ends}),
        best_by_worst=_winner(accuracy.best_by_worst_objective, {one.order: one.worst_objective for one in ends}),
        orders=ends,
        differences=[one for one in record.first_minus_last if one.measure == "margin"],
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
    dropped = sum(record["dropped"].values())
    trained = f"{record['train']:,} trained, " if record["train"] else ""
    kept = f"{name}: {trained}{record['eval']:,} held out"
    return f"{kept}, {dropped:,} of {record['read']:,} dropped"
