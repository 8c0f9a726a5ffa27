"""The commented study file that `seqdpo init` writes."""

from collections.abc import Iterator
from typing import Any

import yaml

from seqdpo.study.config import Study
from seqdpo.study.objectives import Objective
from seqdpo.study.settings import SETTINGS

#: The heading above the first key of each group.
SECTIONS = {
    "lora_r": "the adapter",
    "loss_type": "the loss, named as in TRL's DPOConfig",
    "learning_rate": "the optimiser, named as in transformers.TrainingArguments",
    "max_length": "the text",
    "setting": "the preferences",
    "orders": "the tree of stages",
    "margin_tolerance": "the verdicts: what counts as a change, fixed before the training",
    "output_dir": "where everything goes",
}


def study_template(setting: str) -> str:
    """A study file of a named setting: every key with its value and a comment."""
    values = {**SETTINGS[setting].defaults, "setting": setting, "output_dir": f"runs/{setting}"}
    lines = [f"# {setting}: {SETTINGS[setting].relation}", "# Look first: seqdpo plan THIS_FILE", ""]
    for name, field in Study.model_fields.items():
        if name in SECTIONS:
            lines += ["", f"# {SECTIONS[name]}"]
        if name == "objectives":
            lines += ["# objectives:                 # in place of setting, or to read the same names from elsewhere"]
            lines += [f"#   {line}" for line in _objective_lines(SETTINGS[setting].objectives)]
            continue
        value = values.get(name, field.get_default(call_default_factory=True))
        comment = f"  # {field.description}" if field.description else ""
        lines.append(f"{_pair(name, value):<30}{comment}".rstrip())
    return "\n".join(lines) + "\n"


def _objective_lines(objectives: dict[str, Objective]) -> Iterator[str]:
    for name, objective in objectives.items():
        shown = objective.model_dump(mode="json", exclude_none=True)
        yield f"{name}: {yaml.safe_dump(shown, default_flow_style=True, sort_keys=False, width=1000).strip()}"


def _pair(name: str, value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return f"{name}: {text.removesuffix('...' + chr(10)).strip()}"
