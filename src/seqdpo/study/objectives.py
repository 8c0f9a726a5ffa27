"""What a study file may say about one objective: what all data formats share, and the register of the formats."""

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

#: Each format, and its module in `seqdpo.preferences.datasets`. A new format is such a module and a line here.
#: By name, and imported when first asked for: the modules build on the classes below.
FORMATS = {
    "hh-rlhf": "hh_rlhf",
    "helpsteer2": "helpsteer2",
    "pku-saferlhf": "pku_saferlhf",
    "ultrafeedback": "ultrafeedback",
    "preference": "preference",
    "lab": "lab",
}
#: Arguments of a chat template that are set where it is applied, whatever a study or a row says.
RESERVED_TEMPLATE_ARGUMENTS = {"tokenize", "add_generation_prompt", "continue_final_message", "chat_template"}


def _name(path: str) -> str:
    """A leading `~` as a shell reads it; as it stands where there is no such home."""
    if "\0" in path:
        raise ValueError("expected no null character in it")
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        return path


#: A path or a hub id.
Name: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(_name)]


class SplitPaths(BaseModel):
    """Separate sources for training and evaluation pairs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Name
    eval: Name


def _source_kind(value: Any) -> str:
    return "(paths)" if isinstance(value, dict | SplitPaths) else "(name)"


#: Tags in parentheses keep pydantic to one of the kinds in its messages; study/file.py takes them out.
Source: TypeAlias = Annotated[
    Annotated[Name, Tag("(name)")] | Annotated[SplitPaths, Tag("(paths)")], Discriminator(_source_kind)
]


class BaseObjective(BaseModel):
    """What all formats share. Limits that are None take the study's."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: str
    max_train_pairs: int | None = Field(default=None, ge=1)
    max_eval_pairs: int | None = Field(default=None, ge=1)


class SourcedObjective(BaseObjective):
    """An objective that is read from files or from the hub."""

    dataset_name: Source
    dataset_revision: str | None = None
    dataset_train_split: str | None = None  # names in the source, as TRL calls them; None: found by their words
    dataset_test_split: str | None = None


@cache
def format_of(name: str) -> Any:
    """The register's entry of a format: a `Sourced` or a `Made` of `seqdpo.preferences.datasets`."""
    return import_module(f"seqdpo.preferences.datasets.{FORMATS[name]}").FORMAT


def objective_models() -> dict[str, type[BaseObjective]]:
    """The model of each format, in the order of FORMATS."""
    return {name: format_of(name).objective for name in FORMATS}


if TYPE_CHECKING:
    Objective: TypeAlias = BaseObjective


def __getattr__(name: str) -> Any:
    """`Objective`, which is any of the models by its `format`, and each model by its own name."""
    if name == "Objective":
        return Annotated[Union[tuple(objective_models().values())], Field(discriminator="format")]  # noqa: UP007
    for model in objective_models().values() if name.endswith("Objective") else ():
        if model.__name__ == name:
            return model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
