"""From a YAML file and flags to a `Study`, with every problem named at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from seqdpo.errors import ConfigError
from seqdpo.study.audit import Audit
from seqdpo.study.checkpoints import typed
from seqdpo.study.config import Study
from seqdpo.study.keys import Keys
from seqdpo.study.other_tools import answer
from seqdpo.study.problems import MAX_VALUE, bulleted, problems_of
from seqdpo.values import MOST_VALUES, holds_too_much
from seqdpo.wording import brief

_File = TypeVar("_File", bound=Keys)
CORRECT_STUDY = "Correct it. What each key means is shown by: seqdpo init hh-rlhf --output -"
CORRECT_AUDIT = "Correct it. docs/audit.md says what each key means."


def load_study(path: str | Path, flags: Sequence[str] = (), **keys: Any) -> Study:
    """The study of a YAML file, with keys such as `learning_rate=1e-5`, or as flags, laid over it.

    Raises: ConfigError that lists every problem found, each with its key and the nearest valid one.
    """
    return _study(Path(path), parse_flags(flags) | keys)


def study_of(arguments: Sequence[str]) -> Study:
    """The study of a command line: one file, and flags before and after it.

    Raises: as `load_study`; ConfigError if there is another number of files.
    """
    files, flags = _files_and_flags(arguments)
    if len(files) != 1:
        found = ", ".join(files) or "none"
        raise ConfigError(f"command line: study files: {found}; expected one. Write one with: seqdpo init SETTING")
    return _study(Path(files[0]), flags)


def audit_of(arguments: Sequence[str], checkpoints: Sequence[str] = ()) -> Audit:
    """The audit of a command line: at most one file, flags, and checkpoints such as `helpful=PATH`.

    Raises: as `load_study`; ConfigError if there are several files.
    """
    files, flags = _files_and_flags(arguments)
    if len(files) > 1:
        raise ConfigError(f"command line: audit files: {', '.join(files)}; expected at most one.")
    for checkpoint in checkpoints:
        name, equals, source = checkpoint.partition("=")
        if not equals:
            raise ConfigError(f"command line: --checkpoint {checkpoint}: no path; expected --checkpoint NAME=PATH.")
        flags[f"checkpoints.{typed(name)}"] = source
    if not files:
        return audit_from(_laid_over({}, flags), "command line")
    path = Path(files[0])
    return audit_from(_laid_over(read_yaml(path), flags), _named(path, flags))


def study_from(values: Mapping[str, Any], where: str) -> Study:
    """A checked study from plain values; `where` names them in messages."""
    return _checked(Study, values, CORRECT_STUDY, where)


def audit_from(values: Mapping[str, Any], where: str) -> Audit:
    """A checked audit from plain values; `where` names them in messages."""
    return _checked(Audit, values, CORRECT_AUDIT, where)


def _checked(kind: type[_File], values: Mapping[str, Any], remedy: str, where: str) -> _File:
    problems = problems_of(values, kind)
    if problems:
        raise ConfigError(f"{where}: {bulleted(problems)}\n{remedy}")
    return kind.model_validate(values)


def parse_flags(flags: Sequence[str]) -> dict[str, Any]:
    """`["--learning-rate", "1e-5", "--placebo=2"]` as `{"learning_rate": 1e-5, "placebo": 2}`.

    Dots reach into objectives: `--objectives.helpful.max_eval_pairs 200`. Values are read as YAML.
    """
    others, values = _files_and_flags(flags)
    if others:
        raise ConfigError(f"command line: {others[0]!r} is not expected here; expected --key value.")
    return values


def study_yaml(study: Keys) -> str:
    """The resolved study or audit as YAML that loads to an equal one."""
    values = study.model_dump(mode="json")
    if not values.get("variants"):
        values.pop("variants", None)  # a study without them is written as it always was
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _files_and_flags(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """What belongs to no flag, and the flags with their values."""
    others: list[str] = []
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            others.append(argument)
            continue
        key, equals, value = argument[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(_no_value(argument))
            value = rest.pop(0)
        values[key.replace("-", "_") if "." not in key else _dotted_key(key)] = _yaml_value(f"--{key}", value)
    return others, values


def _no_value(flag: str) -> str:
    key = flag[2:].replace("-", "_")
    told = None if key in Study.model_fields else answer(key)
    problem = f"is not a key of a study; {told}" if told else f"has no value; expected {flag} VALUE"
    return f"command line: {flag} {problem}."


def _study(path: Path, flags: Mapping[str, Any]) -> Study:
    return study_from(_laid_over(read_yaml(path), flags), _named(path, flags))


def _named(path: Path, flags: Mapping[str, Any]) -> str:
    return f"{path} with flags" if flags else str(path)


def _laid_over(values: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in flags.items():
        _lay_over(values, key, value)
    return values


def _dotted_key(key: str) -> str:
    # an objective's name may hold a dash, so only the first and the last part are keys of ours
    parts = key.split(".")
    return ".".join([parts[0].replace("-", "_"), *parts[1:-1], parts[-1].replace("-", "_")])


def _yaml_value(flag: str, text: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(
            f"command line: {flag} = {brief(text, MAX_VALUE)} cannot be read; expected a YAML value. Quote it."
        ) from None


def _lay_over(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(
                f"command line: --{key}: {parent!r} is a value, not a group of keys; expected --{parent} VALUE."
            )
    values[last] = value


class _StrictLoader(yaml.SafeLoader):
    """YAML without silent last-one-wins: a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, expected: str = "a study file") -> dict[str, Any]:
    """The keys of a YAML file.

    Raises: ConfigError if it cannot be read, or holds no keys.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected {expected}. Write one with: seqdpo init") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; expected {expected}. Give the file in it.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Change its rights or copy it.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not UTF-8; expected text. Convert it, for example with iconv."
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{path}{line}: {error.problem}; expected YAML, one `key: value` a line. Correct it."
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}; expected YAML, a text. Correct it.") from None
    except (ValueError, RecursionError) as error:  # a date such as 2026-02-30, a thousand brackets
        raise ConfigError(f"{path}: a value cannot be read as YAML ({error}). Put text between quotes.") from None
    if holds_too_much(values):
        raise ConfigError(f"{path}: holds more than {MOST_VALUES:,} values; expected a study. Take out its aliases.")
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{path}: holds {found}; expected `key: value` lines. See one with: seqdpo init hh-rlhf")
    return values
