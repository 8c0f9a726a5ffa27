"""The study of a run folder, as it was written there; by this release or an older one."""

from typing import Any

import yaml

from seqdpo.run.finished import read_mapping
from seqdpo.run.folder import RunFolder
from seqdpo.study.config import Study
from seqdpo.study.file import study_from


def read_study(folder: RunFolder) -> Study:
    """Keys that an older release had are left out, those that it did not have take their default.

    Raises: DataError if study.yaml cannot be read; ConfigError if it is no study.
    """
    return study_from(_known(read_mapping(folder.study, yaml.safe_load)), str(folder.study))


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in Study.model_fields}
