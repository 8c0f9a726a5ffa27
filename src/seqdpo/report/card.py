"""report.md: the card that goes with the adapters."""

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from seqdpo.analysis.schema import Bounds, Score
from seqdpo.report.audit import loading_lines
from seqdpo.report.base_model import on_the_hub
from seqdpo.report.finished import Run
from seqdpo.report.page import how_measured
from seqdpo.report.recipe_line import recipe_line
from seqdpo.study.checkpoints import Checkpoint, Node
from seqdpo.wording import visible


def card(run: Run, adapter: str | None = None) -> str:
    """Markdown with the YAML head of a Hugging Face model card; `adapter` is where others load it from."""
    environment = Environment(
        loader=PackageLoader("seqdpo.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"plain": plain, "score": interval, "recipe_line": recipe_line}
    findings = run.findings.plain()
    final = [row for row in findings.score_matrix if not row.placebo and row.split == "eval"]
    return environment.get_template("card.md.jinja").render(
        run=run,
        findings=findings,
        scores=final,
        method=how_measured(run),
        base=on_the_hub(run),
        adapter=adapter or _last_adapter(final),
        loading=list(loading_lines(run.manifest)),
    )


def _last_adapter(scores: Sequence[Score]) -> str:
    """Where the last checkpoint of the scores lies in the run folder."""
    last = scores[-1]
    return f"stages/{Node.of(last.seed, Checkpoint.parse(last.checkpoint)).folder}/adapter"


def plain(text: Any) -> str:
    """Text without meaning to Markdown or HTML, on one line."""
    one_line = visible(" ".join(str(text).split()))
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", one_line)


def interval(estimate: Bounds, form: str = "+.2f") -> str:
    """`+0.27 (+0.21 to +0.33)`, or a dash for what is undefined."""
    value, low, high = estimate.value, estimate.low, estimate.high
    if value is None:
        return "–"
    return format(value, form) + ("" if low is None else f" ({low:{form}} to {high:{form}})")
