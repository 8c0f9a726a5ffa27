"""From `--executor NAME --address A --executor-args K=V,...` to what runs the nodes."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from seqdpo.errors import ConfigError
from seqdpo.runner.study import Elsewhere
from seqdpo.wording import did_you_mean, listed

ExecutorName = Literal["here", "ray", "slurm"]


def chosen_executor(name: ExecutorName, address: str | None, arguments: str | None) -> Elsewhere | None:
    """None: in this process.

    Raises: ConfigError if an argument is not of this executor, or its extra is not installed.
    """
    if address is not None and name != "ray":
        raise ConfigError(f"--address = {address!r} with --executor {name}; expected it with --executor ray. Drop it.")
    match name:
        case "here":
            if arguments:
                raise ConfigError(f"--executor-args = {arguments!r} with --executor here, which has none. Drop them.")
            return None
        case "ray":
            module = _module("ray", "ray")
            values = _parsed(arguments, module.ARGUMENTS)
            _check_known(values, module.ARGUMENTS)
            return partial(module.execute, address=address, arguments=values)
        case "slurm":
            module = _module("slurm", "submitit")
            return partial(module.execute, arguments=_parsed(arguments, module.ARGUMENTS))


def _module(name: str, library: str) -> ModuleType:
    try:
        import_module(library)
    except ImportError:
        raise ConfigError(
            f"--executor {name}: {library} is not installed; expected it. Install it: pip install 'seqdpo[{name}]'"
        ) from None
    return import_module(f"{__package__}.{name}")


def _parsed(text: str | None, kinds: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """`workers=4,partition=gpu` as values of their kinds; what has none stays text."""
    values: dict[str, Any] = {}
    for part in text.split(",") if text else []:
        key, equals, value = part.strip().partition("=")
        kind = kinds.get(key, str)
        try:
            values[key] = kind(value)
        except ValueError:
            equals = ""
        if not (key and equals and value):
            raise ConfigError(f"--executor-args: {part!r} cannot be read; expected NAME=VALUE,NAME=VALUE. Correct it.")
    return values


def _check_known(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for key in values.keys() - kinds.keys():
        raise ConfigError(f"--executor-args: {key!r} is unknown; expected {listed(kinds)}.{did_you_mean(key, kinds)}")
