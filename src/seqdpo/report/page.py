"""The report as one HTML file: no network, no server; every script is named by its hash in the page's own policy."""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from seqdpo.report.payload import payload
from seqdpo.report.source import ReportSource

Record = Mapping[str, Any]

VENDORED = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js", "tabulator.min.js")
OWN = ("state.js", "charts.js", "table.js", "card.js", "main.js")
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


def page(source: ReportSource) -> str:
    """The whole of report.html."""
    scripts = [_asset("vendor", name) for name in VENDORED] + [_asset("assets", name) for name in OWN]
    environment = Environment(
        loader=PackageLoader("seqdpo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "interval": _interval, "percent": _percent}
    results = source.results
    return environment.get_template("page.html.jinja").render(
        source=source,
        results=results,
        verdicts=[_verdict(i, cell) for i, cell in enumerate(results["cells"])],
        orders=[_order(record) for record in results["orders"] if record["final_accuracy"]],
        matrices=_matrices(results["score_matrix"]),
        method=_method(source),
        functions=[one for one in (results.get("mechanism") or {}).get("function", []) if one["from"] != "base"],
        blurred=not str(source.study.get("setting") or "").startswith(HARMLESS_SETTINGS),
        icons=ICONS,
        policy=_policy(scripts),
        scripts=[Markup(script) for script in scripts],
        styles=[Markup(_asset("vendor", "tabulator.min.css")), Markup(_asset("assets", "page.css"))],
        payload=_packed(payload(source)),
    )


def _asset(folder: str, name: str) -> str:
    """A script or style sheet; a closing tag in it would end its element."""
    text = files("seqdpo.report").joinpath(folder, name).read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script").replace("</style", "<\\/style")


def _policy(scripts: Sequence[str]) -> str:
    """Nothing is fetched, and nothing runs but these scripts."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _packed(content: Record) -> str:
    """JSON in gzip in base64: a third of its size, and no text of it can be markup."""
    raw = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode()


def _verdict(number: int, cell: Record) -> dict[str, Any]:
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
        "advice": _advice(verdict, of_recipe),
    }


def _advice(verdict: Record, recipe: Record | None) -> list[str]:
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
        found.append(f"Run again with placebo: {recipe['draws_needed']} to tell the change from run noise.")
    return found


def _order(record: Record) -> dict[str, Any]:
    """Which order did better, and by how much."""
    accuracy = record["final_accuracy"]
    return {
        "split": record["split"],
        "best": accuracy["best"],
        "best_by_worst": accuracy["best_by_worst_objective"],
        "orders": accuracy["orders"],
        "differences": [one for one in record["first_minus_last"] if one["measure"] == "margin"],
        "n": accuracy["n"],
    }


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


def _method(source: ReportSource) -> list[tuple[str, str]]:
    """How it was measured, as label and text."""
    study, manifest = source.study, source.manifest
    identity, parameters = manifest["identity"], manifest.get("parameters", {})
    facts = {
        "model": study.get("model_name_or_path"),
        "reference of the loss": study.get("reference"),
        "margins are against": "the base model",
        "adapter": f"LoRA r = {study.get('lora_r')}, {study.get('adapter_mode')}",
        "trainable parameters": f"{parameters['trainable']:,} of {parameters['total']:,}" if parameters else None,
        "beta, learning rate": f"{study.get('beta')}, {study.get('learning_rate')}",
        "seeds": ", ".join(map(str, study.get("seeds", []))),
        "control stages beside each later stage": study.get("placebo"),
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


def _account(name: str, record: Record) -> str:
    dropped = sum(record["dropped"].values())
    kept = f"{name}: {record['train']:,} trained, {record['eval']:,} held out"
    return f"{kept}, {dropped:,} of {record['read']:,} dropped"


def _number(value: float | None, form: str = "+.2f") -> str:
    return "–" if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _interval(estimate: Record, form: str = "+.2f") -> str:
    if estimate["low"] is None:
        return _number(estimate["value"], form)
    return f"{_number(estimate['value'], form)} [{_number(estimate['low'], form)}, {_number(estimate['high'], form)}]"
