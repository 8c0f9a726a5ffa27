"""Configurations of other tools, one a stage, as one study file, with an account of what became of every key."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqdpo.errors import ConfigError, Problems
from seqdpo.study.config import Study
from seqdpo.study.file import read_yaml, study_from
from seqdpo.study.other_configs import axolotl, llama_factory, trl
from seqdpo.study.other_configs.stage_file import StageFile, Start, Tool, Written
from seqdpo.study.template import STANDARD, key_line, written_study

TOOLS = (trl.TOOL, axolotl.TOOL, llama_factory.TOOL)
_SEVERAL_DEVICES = (
    "A file does not say how many devices trained: with several, multiply gradient_accumulation_steps by their number."
)
_LIMIT = {"truncate": "Pairs over max_length are cut, as there; seqdpo cuts the oldest turns of the prompt first."}


class Imported(NamedTuple):
    """A study file, and what is to be said of it."""

    text: str
    account: list[tuple[str, list[str]]]  # headings, each with its lines


def import_study(paths: Sequence[Path]) -> Imported:
    """The study file that trains what the files train, in their order.

    Raises: ConfigError if a file cannot be read, is of no tool that is known, or trains what no study holds.
    """
    problems = Problems()
    files: list[StageFile] = []
    for path in paths:
        with problems.collected():
            files.append(_read(path))
    problems.raise_all()
    study, notes = _joined(files)
    values = {key: written.value for key, written in study.items()}
    study_from(values, ", ".join(str(path) for path in paths))
    return Imported(_text(files, study), _account(files, study, notes))


def _read(path: Path) -> StageFile:
    values = read_yaml(path, "a configuration of TRL, Axolotl or LLaMA-Factory")
    return StageFile(path, _tool(path, values), {k: v for k, v in values.items() if _says(k, v)}).read()


def _says(key: str, value: Any) -> bool:
    """Whether a key is set at all; no limit is a value."""
    return value not in (None, "", {}) or key == "max_length"


def _tool(path: Path, values: Mapping[str, Any]) -> Tool:
    if {"objectives", "setting"} & values.keys():
        raise ConfigError(f"{path}: is a study file already. Look at it with: seqdpo plan {path}")
    most = max(TOOLS, key=lambda tool: len(tool.marks & values.keys()))
    if not most.marks & values.keys():
        found = ", ".join(str(key) for key in list(values)[:5])
        raise ConfigError(
            f"{path}: keys {found}; expected a configuration of {', '.join(tool.name for tool in TOOLS)}, with keys "
            "such as dataset_name, base_model or finetuning_type. Write a study file with: seqdpo init SETTING"
        )
    return most


def _joined(files: list[StageFile]) -> tuple[dict[str, Written], list[str]]:
    """The keys of the study, and what is to be said of how the files go together."""
    study = dict(files[0].written)
    notes: list[str] = []
    for file in files[1:]:
        notes += _differences(files[0], file)
    objectives = _objectives(files)
    study["objectives"] = Written(objectives, "")
    study["orders"] = Written([list(objectives)], "the order of training; all runs the reverse, too")
    study["output_dir"] = Written("runs/" + "-".join(objectives), "")
    if len(files) > 1:
        start = files[1].tool.begins(files[1], files[0])
        notes += [f"{file.path.name}: {file.tool.begins(file, files[0]).told}." for file in files[1:]]
        study |= _of_start(start, study, files[1], notes)
        study |= _continued(files[0], files[1], notes)
        words = (f"{key}: {study[key].value}" for key in ("reference", "adapter_mode"))
        notes.append(f"Written: {', '.join(words)}. docs/audit.md has the table of all tools.")
    elif files[0].adapter:
        name = files[0].path.name
        notes.append(
            f"{name} goes on from the adapter {files[0].adapter!r}. Give the file that trained it first: "
            f"seqdpo init --from FIRST --from {name}. Without such a file write adapter_name_or_path: "
            f"{files[0].adapter} and learned: NAME, with the objective NAME and its pairs (docs/study-file.md)."
        )
    if len(objectives) > len(files):
        notes.append(
            "A file with several sources trains them mixed; here each is a stage of its own. Join their files."
        )
    if files[0].written.get("excess_length_strategy", Written("", "")).value in _LIMIT:
        notes.append(_LIMIT["truncate"])
    return study, [*notes, _SEVERAL_DEVICES]


def _of_start(start: Start, study: Mapping[str, Written], file: StageFile, notes: list[str]) -> dict[str, Written]:
    origin = f"as {file.tool.name} begins a later stage"
    mode = start.adapter_mode
    rounding = _rounding(study) if mode == "new_on_merged" else None
    if rounding is not None:
        mode = "stack"
        notes.append(f"adapter_mode: stack is new_on_merged without merging, which {rounding} would round.")
    return {"reference": Written(start.reference, origin), "adapter_mode": Written(mode, origin)}


def _continued(first: StageFile, second: StageFile, notes: list[str]) -> dict[str, Written]:
    """The first file's adapter as the study's stage 0, where the second one goes on from it and it is there already."""
    if not isinstance(second.adapter, str) or first.adapter or len(first.objectives) != 1:
        return {}
    name, left = second.path.name, str(first.output_dir or "")
    if not left or Path(left) not in (Path(second.adapter), *Path(second.adapter).parents):  # or one of its checkpoints
        notes.append(
            f"{name} goes on from {second.adapter!r}; {first.path.name} writes to {left or 'no output_dir'!r}. They "
            "are taken for the same: the study trains the first stage."
        )
        return {}
    if not (Path(second.adapter) / "adapter_config.json").is_file():
        notes.append(
            f"No adapter is at {second.adapter!r} from here: the study trains the first stage. To start from it, write "
            f"adapter_name_or_path: {second.adapter} and learned: {next(iter(first.objectives))}."
        )
        return {}
    notes.append(
        f"The adapter {second.adapter!r} is there, so that the study starts from it and does not train the first stage "
        "again. Remove adapter_name_or_path and learned to train it."
    )
    return {
        "adapter_name_or_path": Written(second.adapter, f"that {name} goes on from"),
        "learned": Written(next(iter(first.objectives)), f"what {first.path.name} trains on"),
    }


def _rounding(study: Mapping[str, Written]) -> str | None:
    """The key by which a merged adapter would be rounded."""
    for key in ("load_in_4bit", "load_in_8bit"):
        if key in study and study[key].value:
            return f"{key}: true"
    dtype = study["dtype"].value if "dtype" in study else "float32"
    return None if dtype == "float32" else f"dtype: {dtype}"


def _differences(first: StageFile, file: StageFile) -> Iterator[str]:
    """What the first file is followed in, because a study trains all its stages alike."""
    for key in sorted(first.written.keys() | file.written.keys()):
        one, other = first.written.get(key), file.written.get(key)
        values = [written.value if written else Study.model_fields[key].default for written in (one, other)]
        if values[0] != values[1] and key != "model_name_or_path":
            yield (
                f"{key}: {values[0]} in {first.path.name}, {values[1]} in {file.path.name}. A study trains its stages "
                f"alike: {values[0]} is written."
            )


def _objectives(files: list[StageFile]) -> dict[str, dict[str, Any]]:
    joined: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, objective in file.objectives.items():
            free = next(n for n in (name, *(f"{name}-{i}" for i in range(2, 1000))) if n not in joined)
            joined[free] = objective
    return joined


def _text(files: list[StageFile], study: Mapping[str, Written]) -> str:
    sources = " and ".join(f"{file.path.name} ({file.tool.name})" for file in files)
    heading = [f"# from {sources}", "# Look first: seqdpo check THIS_FILE"]
    later = STANDARD if len(study["objectives"].value) > 1 else {}  # control stages stand beside later stages
    values = later | {key: written.value for key, written in study.items()}
    return written_study(heading, values, {key: written.origin for key, written in study.items()})


def _account(files: list[StageFile], study: Mapping[str, Written], notes: list[str]) -> list[tuple[str, list[str]]]:
    objectives = study["objectives"].value.items()
    account = [("Objectives, in the order of training:", [key_line(name, value) for name, value in objectives])]
    keys = {key: written for key, written in study.items() if written.origin and key not in ("orders", "reference")}
    default = {key for key, written in keys.items() if written.by_default}
    differing = [key for key in keys if key in default and not _is_ours(key, keys[key].value)]
    account.append(("Taken over:", [_line(key, keys[key]) for key in keys if key not in {*default, "adapter_mode"}]))
    account.append(
        ("Not in the file, written because seqdpo's default is another:", [_line(k, keys[k]) for k in differing])
    )
    account.append(("Left out:", _left_out(files)))
    account.append(("Note:", [*(note for file in files for note in file.notes), *notes]))
    return [(heading, lines) for heading, lines in account if lines]


def _left_out(files: list[StageFile]) -> list[str]:
    """A line for each reason; what only one of several files holds is said to be that file's."""
    lines = []
    for why in dict.fromkeys(why for file in files for why in file.left):
        items = dict.fromkeys(item for file in files for item in file.left.get(why, ()))
        owners = {item: [file.path.name for file in files if item in file.left.get(why, ())] for item in items}
        shown = [item if len(of) == len(files) else f"{item} ({of[0]})" for item, of in owners.items()]
        lines.append(f"{', '.join(shown)}: {why}")
    return lines


def _is_ours(key: str, value: Any) -> bool:
    return bool(value == Study.model_fields[key].get_default(call_default_factory=True))


def _line(key: str, written: Written) -> str:
    return f"{key_line(key, written.value):<36} {written.origin}".rstrip()
