"""The dataset card of a folder: the files that its owner says are the data, as the hub reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from seqdpo.errors import ConfigError
from seqdpo.preferences.files import contents
from seqdpo.preferences.sources.folders import file_table
from seqdpo.preferences.sources.sides import Splits
from seqdpo.wording import did_you_mean, listed


def card_splits(folder: Path, subset: str | None) -> Splits | None:
    """The splits that README.md names under `configs`; None if it names no files, or has no configuration `subset`.

    Source: https://huggingface.co/docs/hub/datasets-manual-configuration
    Raises: ConfigError for a card whose configurations or files cannot be told.
    """
    card = folder / "README.md"
    configs = [config for config in _configs(card) if config.get("data_files") or config.get("data_dir")]
    if not configs or (subset is not None and subset not in map(_name, configs)):
        return None
    config = _chosen(configs, subset, card)
    root = folder / str(config.get("data_dir") or ".")
    splits: Splits = {}
    for split, pattern in _patterns(config.get("data_files") or "*"):
        files = [file for file in sorted(root.glob(pattern)) if file.is_file() and not file.name.startswith(".")]
        if not files:
            raise ConfigError(
                f"{card}: names the data file {pattern!r}, but {str(root)!r} has {contents(root)}; expected it there. "
                "Download it, or correct the card."
            )
        splits.setdefault(split, []).extend(file_table(file) for file in files)
    return splits


def _configs(card: Path) -> list[dict[str, Any]]:
    """What stands under `configs` in the YAML between the first two lines of dashes."""
    if not card.is_file():
        return []
    before, *parts = card.read_text(encoding="utf-8-sig", errors="replace").split("---\n", 2)
    if before.strip() or len(parts) < 2:
        return []
    try:
        values = yaml.safe_load(parts[0])
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"{card}: its head cannot be read as YAML ({str(error).splitlines()[0]}); expected a dataset card. "
            "Correct it, or give the data files themselves."
        ) from None
    configs = values.get("configs") if isinstance(values, dict) else None
    return [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []


def _name(config: dict[str, Any]) -> str:
    return str(config.get("config_name") or "default")


def _chosen(configs: list[dict[str, Any]], subset: str | None, card: Path) -> dict[str, Any]:
    """The configuration `subset`; else the only one, the one that is marked as default, or the one of that name."""
    if subset is None and len(configs) > 1:
        found = [config for config in configs if config.get("default")]
        found = found or [config for config in configs if _name(config) == "default"]
    else:
        found = [config for config in configs if subset in (None, _name(config))]
    if not found:
        names = [_name(config) for config in configs]
        raise ConfigError(
            f"{card}: has the configurations {listed(names)} and no default; expected one to be named. "
            f"Set subset: {names[0]}.{did_you_mean(subset or '', names)}"
        )
    return found[0]


def _patterns(data_files: Any) -> Iterator[tuple[str, str]]:
    """(split, pattern) of what `data_files` may be: a pattern, a list of them, or either of them for each split."""
    if isinstance(data_files, dict):
        for split, path in data_files.items():
            yield from ((str(split), pattern) for pattern in _listed(path))
        return
    for entry in _listed(data_files):
        if isinstance(entry, dict):
            yield from ((str(entry.get("split", "")), pattern) for pattern in _listed(entry.get("path")))
        else:
            yield "", str(entry)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
