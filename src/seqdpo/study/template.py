"""The commented study file that `seqdpo init` writes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from seqdpo.study.config import Study
from seqdpo.study.keys import (
    AdapterKeys,
    DataKeys,
    Keys,
    LossKeys,
    MachineKeys,
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
    MachineKeys: "the machines",
    TrackKeys: "who else is told",
    Study: "where everything goes",
}


#: What a study needs to show as much as it may; a key's own default is what is least.
STANDARD = {"placebo": 4}


def study_template(setting: str, variants: Mapping[str, Any] | None = None) -> str:
    """A study file of a named setting: every key with its value and a comment; `variants` as in a study."""
    values = {**STANDARD, **SETTINGS[setting].defaults, "setting": setting, "output_dir": f"runs/{setting}"}
    values |= {"variants": variants} if variants else {}
    heading = [f"# {setting}: {SETTINGS[setting].relation}", "# Look first: seqdpo plan THIS_FILE"]
    return written_study(heading, values, {}, SETTINGS[setting].objectives)


def written_study(
    heading: Sequence[str],
    values: Mapping[str, Any],
    origins: Mapping[str, str],
    of_setting: Mapping[str, Objective] | None = None,
) -> str:
    """A study file of `values` and defaults: every key with a comment, and in brackets where its value comes from.

    The objectives are those of `values`, or in a comment those of a setting.
    """
    lines = [*heading]
    written: set[str] = set()
    for group, title in SECTIONS.items():
        names = [name for name in group.model_fields if name not in written]
        written.update(names)
        lines += ["", f"# {title}"]
        for name in names:
            if name == "objectives":
                lines += _commented(of_setting) if of_setting else _objective_block(values[name])
            elif name == "variants" and values.get(name):
                lines += _variants_block(values[name])
            else:
                lines.append(_commented_line(name, values, origins.get(name)))
    return "\n".join(lines) + "\n"


def key_line(name: str, value: Any) -> str:
    """`name: value`, as a line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1000)
    return f"{name}: {text.removesuffix('...' + chr(10)).strip()}"


def _commented_line(name: str, values: Mapping[str, Any], origin: str | None) -> str:
    field = Study.model_fields[name]
    value = values.get(name, field.get_default(call_default_factory=True))
    told = origin if origin and origin != name else None
    comment = " ".join(text for text in (field.description, told and f"[{told}]") if text)
    return f"{key_line(name, value):<30}{f'  # {comment}' if comment else ''}".rstrip()


def _commented(objectives: Mapping[str, Objective]) -> Iterator[str]:
    yield "# objectives:                 # in place of setting, or to read the same names from elsewhere"
    shown = {name: objective.model_dump(mode="json", exclude_none=True) for name, objective in objectives.items()}
    yield from (f"# {line}" for line in _objective_block(shown)[1:])


def _objective_block(objectives: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = (_flow_line(name, objective) for name, objective in objectives.items())
    return ["objectives:", *(f"  {line}" for line in lines)]


def _variants_block(variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    head = f"{'variants:':<30}  # {Study.model_fields['variants'].description}"
    return [head, *(f"  {_flow_line(name, keys)}" for name, keys in variants.items())]


def _flow_line(name: str, objective: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(objective), default_flow_style=True, sort_keys=False, allow_unicode=True, width=1000)
    return f"{name}: {text.strip()}"
