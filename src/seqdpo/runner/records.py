"""A stage's records: trained.json when its adapter is on disk, node.json when all of it is.

Each says what the stage is, everything that shaped it, and the checksums of its files, so that no stage is taken for
another one's and nothing spoilt is believed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqdpo.errors import DataError
from seqdpo.files import check_hash, file_hash, read_sealed, reading
from seqdpo.layout import NODE_FILE, WEIGHTS_FILE
from seqdpo.preferences.pairs import content_hash
from seqdpo.runner.folder import RunFolder
from seqdpo.study.checkpoints import Node, checkpoint_of, reference_of
from seqdpo.study.keys import MachineKeys, ModelKeys, NodeKeys, SaveKeys, TrackKeys, Variant

#: Raised whenever the same study would give other numbers; the release's own version is but a note.
STAGE_FORMAT = 1
MANIFEST_VERSION = 1
#: Under these names a record has the weights of the checkpoints it was made from, in the order of `study.tree.needs`.
MADE_FROM = ("parent_adapter", "plain_adapter")
#: What these keys name is in the identity by its content.
_NAMES = {
    *("model_name_or_path", "model_revision", "trust_remote_code", "chat_template_path"),
    *("load_in_4bit", "load_in_8bit"),
}


_UNSHAPING = {*SaveKeys.model_fields, *MachineKeys.model_fields, *TrackKeys.model_fields}


class SpoiltError(DataError):
    """A stage's record or a file of it cannot be believed; it can be set aside and computed again."""

    def __init__(self, file: Path, found: str) -> None:
        super().__init__(f"{file}: {found}.")
        self.file = file


def stage_identity(keys: NodeKeys, model: str, data: str, chat_template: str | None) -> dict[str, Any]:
    """Everything that shapes the numbers of a study's stages, besides their place in the tree."""
    shaping = {name: value for name, value in keys.model_dump(mode="json").items() if name in _shaping_keys()}
    return {
        "model": model,
        "data": data,
        "chat_template": chat_template,
        "keys": content_hash(shaping),
        "stage_format": STAGE_FORMAT,
    }


def variant_hashes(variants: Mapping[str, Variant]) -> dict[str, Any]:
    """Of each variant's keys, as a further part of a study's identity; no part where there are none."""
    hashes = {name: content_hash(variant.model_dump(mode="json")) for name, variant in variants.items()}
    return {"variants": hashes} if hashes else {}


def identity_of(node: Node | None, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of a study's identity shapes a stage: of the variants its own alone, where it is known."""
    own = {name: value for name, value in identity.items() if name != "variants"}
    if node is not None and node.variant in (hashes := identity.get("variants", {})):
        own["variant"] = hashes[node.variant]
    return own


def _shaping_keys() -> set[str]:
    assert set(ModelKeys.model_fields) >= _NAMES
    return set(NodeKeys.model_fields) - _UNSHAPING - _NAMES


def place_of(node: Node | None) -> dict[str, Any]:
    """What a record says of where its stage stands, whoever trained it."""
    if node is None:
        return {"checkpoint": checkpoint_of(None), "stage": 0}
    variant = {"variant": node.variant} if node.variant else {}
    return {
        "checkpoint": node.checkpoint,
        "objective": node.objective,
        "path": list(node.path),
        "stage": node.stage,
        "seed": node.seed,
        "placebo": node.placebo,
        "parent": checkpoint_of(node.parent),
    } | variant


def place_in_tree(node: Node | None, keys: NodeKeys) -> dict[str, Any]:
    """The same of a stage of a study, and how it was built on others; `keys` are those of the stage."""
    if node is None:
        return place_of(node)
    reference = checkpoint_of(reference_of(node, keys.reference))
    return place_of(node) | {"reference": reference, "adapter_mode": keys.adapter_mode}


def read_record(
    folder: RunFolder,
    node: Node | None,
    identity: Mapping[str, Any],
    name: str = NODE_FILE,
    hash_of: Callable[[Path], str] = file_hash,
) -> dict[str, Any] | None:
    """What a stage's record says; None if there is none. `hash_of`: how the checksums of its files are found.

    Raises: SpoiltError if the record cannot be read, or a file is missing or has changed since; DataError if the
        record is of another stage, of other keys, or of other inputs.
    """
    path = folder.stage(node) / name
    if not path.exists():
        return None
    record = _parsed(path)
    check_belongs(path, record, node, identity)
    _check_files(path, record["files"], hash_of)
    return record


def check_belongs(path: Path, record: Mapping[str, Any], node: Node | None, identity: Mapping[str, Any]) -> None:
    """Raises: DataError if what the record of a path says is of another stage, of other keys, or of other inputs."""
    _check_place(path, node, record)
    _check_identity(path, identity_of(node, identity), record)


def stored_manifest(folder: RunFolder) -> dict[str, Any]:
    """manifest.json, with what the base's record adds where workers ran it; where it is gone, spoilt or another run's,
    what that record says of the run.

    Raises: DataError if that cannot be read either, or is itself another run's.
    """
    path = folder.stage(None) / NODE_FILE
    record = read_sealed(path)
    known = {
        name: record.get(name) for name in ("identity", "environment", "engine", "without_gradient", "model_notes")
    }
    try:
        manifest = read_sealed(folder.manifest)
    except DataError:
        manifest = {}
    there, here = manifest.get("identity") or {}, known["identity"] or {}
    if manifest and all(there[name] == here[name] for name in there.keys() & here.keys()):
        unsaid = {name: value for name, value in known.items() if value is not None and manifest.get(name) is None}
        return manifest | unsaid
    if manifest and _is_of_this_study(folder, manifest):
        raise DataError(
            f"{path}: is of another run than {folder.manifest.name} and {folder.study.name}; expected the same. Move "
            f"{path.parent} away and run again."
        )
    return {"schema_version": MANIFEST_VERSION, **known, "parameters": None, "notes": {}}


def _is_of_this_study(folder: RunFolder, manifest: Mapping[str, Any]) -> bool:
    hashes = manifest.get("files") or {}
    return folder.study.is_file() and hashes.get(folder.study.name) == file_hash(folder.study)


def adapter_hash(folder: RunFolder, node: Node | None) -> str | None:
    """The hash of a checkpoint's weights; None for the base."""
    adapter = folder.adapter(node)
    return None if adapter is None else file_hash(adapter / WEIGHTS_FILE)


def check_adapter(folder: RunFolder, node: Node | None) -> None:
    """Reads a checkpoint's weights whole before something is built on them.

    Raises: DataError if they are not those that its record names.
    """
    if node is None:
        return
    path = folder.stage(node) / NODE_FILE
    name = f"adapter/{WEIGHTS_FILE}"
    expected, file = read_sealed(path)["files"].get(name), path.parent / name
    if expected is not None:
        check_hash(file, expected, path.name, "Run the study again: it is set aside, and made again.")


def _parsed(path: Path) -> dict[str, Any]:
    try:
        record = read_sealed(path)
        record["files"] = dict(record["files"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error.__context__, PermissionError):  # nothing is wrong with the stage
            raise
        raise SpoiltError(path, "cannot be read, or is not what was written") from None
    return record


def _check_place(path: Path, node: Node | None, record: Mapping[str, Any]) -> None:
    expected = {"checkpoint": checkpoint_of(node)} | ({} if node is None else {"seed": node.seed})
    found = {name: record.get(name) for name in expected}
    if found != expected:
        raise DataError(
            f"{path}: is of {_named(found)}; expected {_named(expected)}. A stage's folder was moved: put it back, or "
            f"remove {path.parent} and run again."
        )


def _named(place: Mapping[str, Any]) -> str:
    seed = f" of seed {place['seed']}" if "seed" in place else ""
    return f"{place['checkpoint']!r}{seed}"


def _check_identity(path: Path, identity: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Records of older releases may lack a part, which study.yaml and manifest.json then answer for."""
    there = record.get("identity") or {}
    for name in identity.keys() & there.keys():
        if identity[name] != there[name]:
            raise DataError(
                f"{path}: {name.replace('_', ' ')} = {str(there[name])[:16]}; expected {str(identity[name])[:16]}: the "
                f"stage is of another study. Move {path.parent} away and run again."
            )


def _check_files(path: Path, files: Mapping[str, str], hash_of: Callable[[Path], str]) -> None:
    for name, expected in files.items():
        file = path.parent / name
        with reading(file):
            found = hash_of(file) if file.is_file() else "no file"
        if found != expected:
            raise SpoiltError(file, f"checksum = {found[:16]}; expected {expected[:16]} as in {path.name}")
