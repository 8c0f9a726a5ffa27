"""What others are told of the base model; a path of this machine is nothing to them."""

from pathlib import Path
from typing import NamedTuple

from seqdpo.hub import MODEL_ID
from seqdpo.report.finished import Run


class HubModel(NamedTuple):
    """A model of the hub at a commit."""

    name: str
    commit: str


def on_the_hub(run: Run) -> HubModel | None:
    """The base model where others can find it, as the manifest names it; None for a folder and the lab's own."""
    name, _, commit = str(run.manifest["identity"]["model"]).rpartition("@")
    if name != run.study.get("model_name_or_path") or not MODEL_ID.fullmatch(name):
        return None
    return HubModel(name, commit)


def shown(run: Run) -> str | None:
    """Its name on the hub, or the last part of a folder's path; None where the study names none."""
    given = run.study.get("model_name_or_path")
    if given is None or on_the_hub(run):
        return given
    return f"{Path(given).name} (a local folder)" if Path(given).name != given else str(given)
