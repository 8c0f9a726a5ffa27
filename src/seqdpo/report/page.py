"""report.html: the findings of a run on one page, down to the single pair."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from seqdpo.report.audit import HOW_TO_TEST, checkpoint_facts
from seqdpo.report.html import html
from seqdpo.report.mechanism import mechanism_lines
from seqdpo.report.payload import payload
from seqdpo.report.source import ReportSource

Record = Mapping[str, Any]

#: Shown beside the word, so that colour is never alone.
ICONS = {
    "DEGRADED": "▼",
    "MIXED": "◆",
    "REDISTRIBUTED": "⇅",
    "STABLE": "＝",
    "POSITIVE TRANSFER": "▲",
    "INCONCLUSIVE": "?",
    "UNDEFINED": "–",
}
_TOLERANCES = "margin {margin:.0%} of what was learned, accuracy {accuracy}, flips {flips}; confidence {confidence:.0%}"
#: Texts of these settings are there to be read at once; others may be harmful.
HARMLESS_SETTINGS = "lab-"
#: What a pair's way from one checkpoint to another means.
FLIP_WORDS = {
    "kept": "stayed right",
    "lost": "turned wrong",
    "regained": "turned right",
    "never": "stayed wrong",
    "tied": "margin of 0",
}


def page(source: ReportSource) -> str:
    """The whole of report.html."""
    results = source.results
    mechanism = results.get("mechanism") or {}
    return html(
        "page.html.jinja",
        payload(source),
        blurred=may_harm(source.study),
        source=source,
        results=results,
        verdicts=[_verdict(i, cell, results["study"]) for i, cell in enumerate(results["cells"])],
        orders=[_order(record) for record in results["orders"] if record["final_accuracy"]],
        matrices=_matrices(results["score_matrix"]),
        method=how_measured(source),
        functions=[one for one in mechanism.get("kl_and_path", []) if one["from"] != "base"],
        flip_words=FLIP_WORDS,
        mechanism_lines=mechanism_lines(mechanism),
    )


def may_harm(study: Record) -> bool:
    """Whether texts of this study are hidden until asked for."""
    return not str(study.get("setting") or "").startswith(HARMLESS_SETTINGS)


def _verdict(number: int, cell: Record, study: Record) -> dict[str, Any]:
    verdict, recipe = cell["verdict"], cell["recipe"]
    of_recipe = recipe[recipe["quantity"]] if recipe["quantity"] else None
    return {
        "number": number,
        "cell": cell,
        "word": verdict["verdict"] + (f", {verdict['degree']}" if verdict["degree"] else ""),
        "icon": ICONS[verdict["verdict"]],
        "tone": verdict["verdict"].lower().replace(" ", "-"),
        "sentence": verdict["sentence"],
        "recipe": of_recipe,
        "advice": _advice(verdict, of_recipe, study),
    }


def _advice(verdict: Record, recipe: Record | None, study: Record) -> list[str]:
    """What to do next, where something is open."""
    found = []
    if verdict["verdict"] == "INCONCLUSIVE":
        needed = verdict["n_needed"]
        found.append(
            f"Score about {needed:,} held-out pairs to settle it (max_eval_pairs)."
            if needed
            else "More pairs would not settle it; train more control stages or seeds."
        )
    if recipe is not None and recipe["statement"] != "ATTRIBUTABLE" and recipe["draws_needed"]:
        draws = recipe["draws_needed"]
        how = (
            HOW_TO_TEST
            if study.get("kind") == "audit"
            else "Run again with placebo: {draws} to tell the change from run noise"
        )
        found.append(f"{how.format(draws=draws).capitalize()}.")
    return found


def _order(record: Record) -> dict[str, Any]:
    """Which order did better, and by how much."""
    accuracy = record["final_accuracy"]
    return {
        "split": record["split"],
        "best": _winner(accuracy["best"], {one["order"]: one["average"] for one in accuracy["orders"]}),
        "best_by_worst": _winner(
            accuracy["best_by_worst_objective"], {one["order"]: one["worst_objective"] for one in accuracy["orders"]}
        ),
        "orders": accuracy["orders"],
        "differences": [one for one in record["first_minus_last"] if one["measure"] == "margin"],
        "n": accuracy["n"],
    }


def _winner(order: str | None, scores: Mapping[str, Record | None]) -> dict[str, Any] | None:
    """An order, and whether its interval lies above those of all others; None where there is no best."""
    if order is None:
        return None
    own = scores[order]
    others = [score for name, score in scores.items() if name != order]
    clear = (
        own is not None
        and own["low"] is not None
        and all(score is not None and score["high"] is not None and score["high"] < own["low"] for score in others)
    )
    return {"order": order, "is_clear": clear}


def _matrices(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """A table for each seed and order: checkpoints down, objectives across."""
    tables = []
    for (seed, order), group in groupby(rows, key=lambda row: (row["seed"], row["order"])):
        own = list(group)
        names = list(dict.fromkeys(row["objective"] for row in own))
        lines: dict[tuple[int, int], dict[str, Any]] = {}
        for row in own:
            line = lines.setdefault(
                (row["stage"], row["placebo"]),
                {"checkpoint": row["checkpoint"], "placebo": row["placebo"], "cells": {}},
            )
            line["cells"][row["objective"]] = row
        tables.append({"seed": seed, "order": order, "objectives": names, "lines": list(lines.values())})
    return tables


def how_measured(source: ReportSource) -> list[tuple[str, str]]:
    """Reference, adapter, controls, tolerances, pairs and hashes, as label and text."""
    study, manifest = source.study, source.manifest
    identity, parameters = manifest["identity"], manifest.get("parameters", {})
    facts = {
        "model": study.get("model_name_or_path"),
        "reference of the loss": study.get("reference"),
        "margins are against": "the base model",
        **checkpoint_facts(manifest),
        "adapter": f"LoRA r = {study['lora_r']}, {study.get('adapter_mode')}" if "lora_r" in study else None,
        "trainable parameters": f"{parameters['trainable']:,} of {parameters['total']:,}" if parameters else None,
        "beta, learning rate": f"{study['beta']}, {study['learning_rate']}" if "learning_rate" in study else None,
        "seeds": ", ".join(map(str, study.get("seeds", []))),
        "control stages": _controls(study.get("placebo")),
        "tolerances": _TOLERANCES.format(**source.results["method"]["tolerances"]),
        "intervals": source.results["method"]["intervals"],
        "engine": manifest.get("engine"),
        "pairs": "; ".join(_account(name, one) for name, one in source.dropped.items()),
        **{
            f"hash of {name.replace('_', ' ')}": str(value)[:16] for name, value in identity.items() if name != "seqdpo"
        },
        "seqdpo": identity.get("seqdpo"),
    }
    return [(label, str(text)) for label, text in facts.items() if text not in (None, "")]


def _controls(n: int | None) -> str | None:
    """What the stages named ~placebo1 and so on are."""
    if not n:
        return None
    return (
        f"{n} beside each later stage (~placebo1 to ~placebo{n}): the same start, pairs, steps and learning rate; each "
        "pair's label drawn, anew for each of them, with the probability that the starting checkpoint gives it"
    )


def _account(name: str, record: Record) -> str:
    dropped = sum(record["dropped"].values())
    trained = f"{record['train']:,} trained, " if record["train"] else ""
    kept = f"{name}: {trained}{record['eval']:,} held out"
    return f"{kept}, {dropped:,} of {record['read']:,} dropped"
