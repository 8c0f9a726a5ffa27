"""report.md: the card that goes with the adapters."""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from seqdpo.report.audit import loading_lines
from seqdpo.report.page import how_measured
from seqdpo.report.source import ReportSource


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
        plain_model=_yaml_text(source),
        loading=[*loading_lines(source.manifest)] if "checkpoints" in source.manifest else None,
    )


def plain(text: Any) -> str:
    """Text without meaning to Markdown or HTML, on one line."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", one_line)


def _score(estimate: Any, form: str = "+.2f") -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "–"
    return format(value, form) + ("" if low is None else f" ({low:{form}} to {high:{form}})")


def _yaml_text(source: ReportSource) -> str:
    """A quoted YAML string."""
    text = " ".join(str(source.study.get("model_name_or_path")).split())
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
