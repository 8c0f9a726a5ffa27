"""The commented study file that `seqdpo init` writes."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from seqdpo.study.config import Study
from seqdpo.study.keys import (
    AdapterKeys,
    DataKeys,
    Keys,
    LossKeys,
    MechanismKeys,
    ModelKeys,
    OptimiserKeys,
    SaveKeys,
    SplitKeys,
    TextKeys,
    TrackKeys,
    TreeKeys,
    VerdictKeys,
)
from seqdpo.study.objectives import Objective
from seqdpo.study.settings import SETTINGS

#: The groups of keys in the order of the file, each with its heading; what belongs to no group comes last.
SECTIONS: dict[type[Keys], str] = {
    ModelKeys: "the model",
    AdapterKeys: "the adapter",
    LossKeys: "the loss, named as in TRL's DPOConfig",
    OptimiserKeys: "the optimiser, named as in transformers.TrainingArguments",
    TextKeys: "the text",
    DataKeys: "the preferences",
    SplitKeys: "which of them are trained on",
    TreeKeys: "the tree of stages",
    MechanismKeys: "the mechanism: what is measured beside the scores",
    VerdictKeys: "the verdicts: what counts as a change, fixed before the training",
    SaveKeys: "the way back after an interruption",
    TrackKeys: "who else is told",
    Study: "where everything goes",
}


#: What a study needs to show as much as it may; a key's own default is what is least.
STANDARD = {"placebo": 4}


def study_template(setting: str) -> str:
    """A study file of a named setting: every key with its value and a comment."""
    values = {**STANDARD, **SETTINGS[setting].defaults, "setting": setting, "output_dir": f"runs/{setting}"}
    lines = [f"# {setting}: {SETTINGS[setting].relation}", "# Look first: seqdpo plan THIS_FILE"]
    written: set[str] = set()
    for group, heading in SECTIONS.items():
        names = [name for name in group.model_fields if name not in written]
        written.update(names)
        lines += ["", f"# {heading}", *(line for name in names for line in _key_lines(name, setting, values))]
    return "\n".join(lines) + "\n"


def _key_lines(name: str, setting: str, values: Mapping[str, Any]) -> Iterator[str]:
    field = Study.model_fields[name]
    if name == "objectives":
        yield "# objectives:                 # in place of setting, or to read the same names from elsewhere"
        yield from (f"#   {line}" for line in _objective_lines(SETTINGS[setting].objectives))
        return
    value = values.get(name, field.get_default(call_default_factory=True))
    comment = f"  # {field.description}" if field.description else ""
    yield f"{_pair(name, value):<30}{comment}".rstrip()


def _objective_lines(objectives: dict[str, Objective]) -> Iterator[str]:
    for name, objective in objectives.items():
        shown = objective.model_dump(mode="json", exclude_none=True)
        yield f"{name}: {yaml.safe_dump(shown, default_flow_style=True, sort_keys=False, width=1000).strip()}"


def _pair(name: str, value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return f"{name}: {text.removesuffix('...' + chr(10)).strip()}"
