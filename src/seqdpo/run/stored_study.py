"""The study of a run folder, as it was written there; by this release or an older one."""

from collections.abc import Iterator
from typing import Any

import yaml

from seqdpo.run.finished import read_mapping
from seqdpo.run.folder import RunFolder
from seqdpo.study.config import Study
from seqdpo.study.file import study_from
from seqdpo.study.flat import flat
from seqdpo.study.keys import SaveKeys

#: Keys that do not change a stage that is already in the tree; a run may be continued with others.
GROWING_KEYS = {"orders", "seeds", "placebo", "output_dir", *SaveKeys.model_fields}


def read_study(folder: RunFolder) -> Study:
    """Keys that an older release had are left out, those that it did not have take their default.

    Raises: DataError if study.yaml cannot be read; ConfigError if it is no study.
    """
    return study_from(_known(read_mapping(folder.study, yaml.safe_load)), str(folder.study))


def differing_keys(here: Study, there: Study) -> Iterator[tuple[str, Any, Any]]:
    """Every dotted key in which two studies differ, with both values; but for GROWING_KEYS."""
    one, other = (dict(flat(study.model_dump(mode="json", exclude=GROWING_KEYS))) for study in (here, there))
    for key in one | other:
        if one.get(key) != other.get(key):
            yield key, one.get(key), other.get(key)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in Study.model_fields}
