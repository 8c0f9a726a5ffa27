"""The study of a run folder, as it was written there; by this release or an older one."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from seqdpo.errors import ConfigError
from seqdpo.files import read_mapping
from seqdpo.layout import RunFiles
from seqdpo.study.audit import Audit
from seqdpo.study.config import Study
from seqdpo.study.file import audit_from, study_from
from seqdpo.study.flat import flat
from seqdpo.study.keys import Keys, MachineKeys, SaveKeys, TrackKeys

#: Keys that do not change a stage that is already in the tree; a run may be continued with others.
GROWING_KEYS = {
    "orders",
    "seeds",
    "placebo",
    "checkpoints",
    "output_dir",
    "generate",
    *SaveKeys.model_fields,
    *MachineKeys.model_fields,
    *TrackKeys.model_fields,
}


def stored_values(folder: RunFiles) -> Mapping[str, Any]:
    """study.yaml as it stands, of a folder that has stages.

    Raises: DataError if it cannot be read; ConfigError where scores were given, and nothing can be made from stages.
    """
    values: Mapping[str, Any] = read_mapping(folder.study, yaml.safe_load)
    if values.get("kind") == "scores":
        raise ConfigError(
            f"{folder.root}: is of scores from elsewhere. Analyse them again: seqdpo analyse --scores FILE"
        )
    return values


def read_stored(folder: RunFiles) -> Study | Audit:
    """Keys that an older release had are left out, those that it did not have take their default.

    Raises: as `stored_values`; ConfigError if it is neither a study nor an audit.
    """
    values = stored_values(folder)
    if "checkpoints" in values:
        return audit_from(_known(values, Audit), str(folder.study))
    return study_from(_known(values, Study), str(folder.study))


def read_study(folder: RunFiles) -> Study:
    """The same of a folder whose stages can be trained.

    Raises: as `read_stored`; ConfigError for an audit.
    """
    found = read_stored(folder)
    if isinstance(found, Audit):
        raise ConfigError(f"{folder.root}: is an audit, which trained nothing; expected a study's run. Give another.")
    return found


def differing_keys(here: Keys, there: Keys) -> Iterator[tuple[str, Any, Any]]:
    """Every dotted key in which two studies differ, with both values; but for GROWING_KEYS and variants of one."""
    values = [study.model_dump(mode="json", exclude=GROWING_KEYS) for study in (here, there)]
    both = set.intersection(*(set(of.get("variants", {})) for of in values))
    for of in values:
        of["variants"] = {name: keys for name, keys in of.get("variants", {}).items() if name in both}
    one, other = (dict(flat(of)) for of in values)
    for key in one | other:
        if one.get(key) != other.get(key):
            yield key, one.get(key), other.get(key)


def joined(study: Study, other: Study) -> Study:
    """One study whose tree has the stages of both; `all` orders stay all."""
    orders: str | list[list[str]] = "all"
    if "all" not in (study.orders, other.orders):
        orders = [list(order) for order in dict.fromkeys([*study.all_orders(), *other.all_orders()])]
    seeds = list(dict.fromkeys([*study.seeds, *other.seeds]))
    tree = {"orders": orders, "seeds": seeds, "placebo": max(study.placebo, other.placebo)}
    mine, yours = study.model_dump(mode="json"), other.model_dump(mode="json")
    return Study.model_validate(mine | tree | {"variants": mine["variants"] | yours["variants"]})


def _known(values: Mapping[str, Any], kind: type[Keys]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in kind.model_fields}
