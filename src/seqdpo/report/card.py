"""report.md: the card that goes with the adapters."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from seqdpo.hub import MODEL_ID
from seqdpo.report.page import how_measured
from seqdpo.report.source import ReportSource
from seqdpo.study.checkpoints import Checkpoint, Node


def card(source: ReportSource) -> str:
    """Markdown with the YAML head of a Hugging Face model card."""
    environment = Environment(
        loader=PackageLoader("seqdpo.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"plain": plain, "score": _score}
    final = [row for row in source.results["score_matrix"] if not row["placebo"] and row["split"] == "eval"]
    return environment.get_template("card.md.jinja").render(
        source=source,
        results=source.results,
        scores=final,
        method=how_measured(source),
        base=base_on_the_hub(source.study, source.manifest),
        adapter=_last_adapter(final),
    )


class HubModel(NamedTuple):
    """A model of the hub at a commit."""

    name: str
    commit: str


def base_on_the_hub(study: Mapping[str, Any], manifest: Mapping[str, Any]) -> HubModel | None:
    """The base model where others can find it, as the manifest names it; None for a folder and the lab's own."""
    name, _, commit = str(manifest["identity"]["model"]).rpartition("@")
    if name != study.get("model_name_or_path") or not MODEL_ID.fullmatch(name):
        return None
    return HubModel(name, commit)


def _last_adapter(scores: Sequence[Mapping[str, Any]]) -> str:
    """Where the last checkpoint of the scores lies in the run folder."""
    path = Checkpoint.parse(scores[-1]["checkpoint"]).path
    return f"stages/{Node(scores[-1]['seed'], path).folder}/adapter"


def plain(text: Any) -> str:
    """Text without meaning to Markdown or HTML, on one line."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", one_line)


def _score(estimate: Any, form: str = "+.2f") -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "–"
    return format(value, form) + ("" if low is None else f" ({low:{form}} to {high:{form}})")
