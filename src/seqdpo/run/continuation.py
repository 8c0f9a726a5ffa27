"""May a run be continued in a folder? Only with the same study, model, data and program."""

import json
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import yaml

from seqdpo.errors import ConfigError, DataError
from seqdpo.files import file_hash
from seqdpo.policy.adapters import WEIGHTS_FILE
from seqdpo.run.folder import NODE_FILE, RunFolder, read_node
from seqdpo.study.checkpoints import Node
from seqdpo.study.config import Study
from seqdpo.study.flat import flat
from seqdpo.study.tree import stage_tree

#: Keys that do not change a stage that is already in the tree; a run may be continued with others.
GROWING_KEYS = {"orders", "seeds", "placebo", "output_dir"}
MAX_LISTED = 10
REMEDY = "Use another output_dir, or remove this folder."


def check_continuation(folder: RunFolder, study: Study, identity: dict[str, Any]) -> None:
    """Lets a new folder pass, and one that holds stages of the same study. Inputs not in `identity` are not compared.

    Raises: ConfigError that names every key of the study, and every input, that differs.
    """
    if not folder.manifest.is_file():
        if any(folder.root.glob(f"stages/*/{NODE_FILE}")):
            raise ConfigError(
                f"{folder.manifest}: no such file, beside finished stages; expected it to say of which study they are. "
                f"Put it back. {REMEDY}"
            )
        return
    problems = [*_different_keys(folder, study), *_different_inputs(folder, identity)]
    if problems:
        more = [f"  and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        listed = [f"  - {problem}" for problem in problems[:MAX_LISTED]]
        raise ConfigError(
            "\n".join([f"output_dir = {str(folder.root)!r}: holds another study.", *listed, *more])
            + f"\nExpected the same study, to continue it. {REMEDY}"
        )


def unfinished_nodes(folder: RunFolder, study: Study) -> list[Node | None]:
    """The nodes of the tree that are still to be done, parents first; None is the base.

    Raises: DataError if a finished stage has changed since, or was trained from another checkpoint than the one
        that is there now.
    """
    unfinished: list[Node | None] = []
    for node in [None, *stage_tree(study)]:
        record = read_node(folder.stage(node))
        if record is None:
            unfinished.append(node)
        elif node is not None and _parent_changed(folder, node, record, unfinished):
            raise DataError(
                f"{folder.stage(node)}: was trained from another checkpoint than {folder.stage(node.parent)} has. "
                "Remove this stage's folder and run again."
            )
    return unfinished


def _parent_changed(
    folder: RunFolder, node: Node, record: Mapping[str, Any], unfinished: Container[Node | None]
) -> bool:
    parent = node.parent
    return parent is not None and (parent in unfinished or record.get("parent_adapter") != adapter_hash(folder, parent))


def adapter_hash(folder: RunFolder, node: Node | None) -> str | None:
    """The hash of a checkpoint's weights; None for the base."""
    adapter = folder.adapter(node)
    return None if adapter is None else file_hash(adapter / WEIGHTS_FILE)


def _different_keys(folder: RunFolder, study: Study) -> list[str]:
    earlier = dict(flat(_read(folder.study, yaml.safe_load)))
    now = dict(flat(study.model_dump(mode="json")))
    return [
        f"{key} = {now.get(key)!r} here; {earlier.get(key)!r} there"
        for key in now | earlier
        if key.partition(".")[0] not in GROWING_KEYS and now.get(key) != earlier.get(key)
    ]


def _different_inputs(folder: RunFolder, identity: dict[str, Any]) -> list[str]:
    earlier = _read(folder.manifest, json.loads).get("identity")
    if not isinstance(earlier, dict):
        raise ConfigError(f"{folder.manifest}: identity = {earlier!r}; expected hashes of model and data. {REMEDY}")
    return [
        f"the {name.replace('_', ' ')} is another one: {_short(value)} here, {_short(earlier.get(name))} there"
        for name, value in identity.items()
        if value != earlier.get(name)
    ]


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "problem", None) or str(error)  # yaml's own text is four lines
        raise ConfigError(f"{path}: cannot be read ({reason}). {REMEDY}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds {str(value)[:40]!r}; expected what an earlier run wrote there. {REMEDY}")
    return value


def _short(value: Any) -> str:
    return str(value)[:16]
