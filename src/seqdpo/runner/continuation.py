"""May a run be continued in a folder? Only with the same study, model and data."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from seqdpo.errors import ConfigError, DataError, SeqdpoError
from seqdpo.files import read_sealed
from seqdpo.layout import NODE_FILE, check_manifest_hash
from seqdpo.runner.folder import RunFolder
from seqdpo.study.audit import Audit
from seqdpo.study.config import Study
from seqdpo.study.growth import growing_keys
from seqdpo.study.keys import Keys, MachineKeys
from seqdpo.study.stored import differing_keys, read_stored

MAX_LISTED = 10
REMEDY = "Use another output_dir, or remove this folder."


def check_continuation(folder: RunFolder, study: Keys, identity: dict[str, Any]) -> None:
    """Lets a folder pass that has no finished stage, or stages of the same study.

    Inputs not in `identity` are not compared. A study.yaml or manifest.json that is spoilt or another run's is not
    compared either: every stage's own record says what shaped it (`seqdpo.runner.records`), and both are written anew.
    Raises: ConfigError that names every key of the study, and every input, that differs.
    """
    if not folder.has_finished_stage():
        return
    earlier = stored_study(folder)
    growing = set() if earlier is None else growing_keys(study, earlier)
    # a variant that was there before is compared by its keys, and its stages' own records have its hash
    inputs = {name: value for name, value in identity.items() if name != "variants"}
    if growing:
        inputs.pop("data", None)
    problems = [*_different_keys(study, earlier, growing), *_different_inputs(folder, inputs)]
    if problems:
        more = [f"  and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        listed = [f"  - {problem}" for problem in problems[:MAX_LISTED]]
        raise ConfigError(
            "\n".join([f"output_dir = {str(folder.root)!r}: holds another study.", *listed, *more])
            + f"\nExpected the same study, to continue it. {REMEDY}"
        )


def check_same_inputs(folder: RunFolder, identity: dict[str, Any]) -> None:
    """Lets a worker pass that finds the inputs for which a run folder was prepared, on its machine, too.

    Raises: ConfigError that names every one that differs.
    """
    problems = [*_different_inputs(folder, identity)]
    if problems:
        raise ConfigError(
            f"{folder.root}: {'; '.join(problems)}. Expected the inputs with which the run began. Give this machine "
            "the same model, data and release."
        )


def machine_differences(folder: RunFolder, environment: Mapping[str, Any]) -> list[str]:
    """In what a machine is another one than that which scored the base, as far as numbers may depend on it."""
    try:
        there = read_sealed(folder.stage(None) / NODE_FILE).get("environment") or {}
    except DataError:  # not scored yet
        return []
    one, other = _machine(environment), _machine(there)
    return [
        f"{name} {one[name]} here, {other[name]} there" for name in one if name in other and one[name] != other[name]
    ]


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What a record of an older release does not have is not compared."""
    packages = environment.get("packages") or {}
    parts = {name: environment.get(name) for name in ("device", "cpu", "torch_threads", "cuda", "seqdpo")}
    versions = {name: packages.get(name) for name in ("torch", "transformers", "peft")}
    return {name: value for name, value in (parts | versions).items() if value is not None}


def check_machine(folder: RunFolder, environment: Mapping[str, Any], keys: MachineKeys) -> str | None:
    """What is to be said of a machine that is another one than that which scored the base; None of one that is alike.

    Raises: ConfigError where the study wants machines that are alike.
    """
    different = machine_differences(folder, environment)
    if not different:
        return None
    if keys.mixed_machines:
        return f"another machine than scored the base ({'; '.join(different)}): each stage's node.json has its own"
    raise ConfigError(
        f"{folder.root}: {'; '.join(different)}; expected a machine like the one that scored the base, as mixed_machines "
        "is false. Run this on such a machine, or set mixed_machines: true, and each stage records its own."
    )


def stored_study(folder: RunFolder) -> Study | Audit | None:
    """The study that a folder's stages are of; None where that is not told, or its file is spoilt."""
    if not folder.has_finished_stage():
        return None
    manifest: dict[str, Any] = {}
    with suppress(DataError):
        manifest = read_sealed(folder.manifest)
    try:
        check_manifest_hash(folder.study, folder, manifest)
        return read_stored(folder)
    except SeqdpoError:
        return None


def _different_keys(study: Keys, earlier: Keys | None, growing: set[str]) -> Iterator[str]:
    """Keys that may not differ; `growing` ones ask for more than the run has."""
    for key, here, there in differing_keys(study, earlier) if earlier is not None else ():
        if key not in growing:
            yield f"{key} = {here!r} here; {there!r} there"


def _different_inputs(folder: RunFolder, identity: dict[str, Any]) -> Iterator[str]:
    """Inputs of which neither the manifest nor the base's record says what is here; one of the two may be spoilt."""
    recorded = list(_identities(folder))
    for name, value in identity.items():
        there = [one[name] for one in recorded if name in one]
        if there and value not in there:
            yield f"the {name.replace('_', ' ')} is another one: {str(value)[:16]} here, {str(there[0])[:16]} there"


def _identities(folder: RunFolder) -> Iterator[dict[str, Any]]:
    for path in (folder.manifest, folder.stage(None) / NODE_FILE):
        with suppress(DataError):
            yield read_sealed(path).get("identity") or {}
