"""What a study file may say about one objective: one model per data format."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag


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

    max_train_pairs: int | None = Field(default=None, ge=1)
    max_eval_pairs: int | None = Field(default=None, ge=1)


class SourcedObjective(BaseObjective):
    """An objective that is read from files or from the hub."""

    dataset_name: Source
    dataset_revision: str | None = None


class HhRlhfObjective(SourcedObjective):
    """HH-RLHF: whole dialogues, the better one as `chosen`."""

    format: Literal["hh-rlhf"]
    dataset_name: Source = "Anthropic/hh-rlhf"
    subset: Literal["helpful-base", "harmless-base", "helpful-online", "helpful-rejection-sampled"]


class HelpSteer2Objective(SourcedObjective):
    """HelpSteer2: two rated responses to a prompt; the one with the preferred rating of `attribute` is chosen."""

    format: Literal["helpsteer2"]
    dataset_name: Source = "nvidia/HelpSteer2"
    attribute: Literal["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
    prefer: Literal["higher", "lower"] = "higher"
    min_gap: int = Field(default=1, ge=1, le=4)


class PkuSafeRlhfObjective(SourcedObjective):
    """PKU-SafeRLHF: the more helpful (`better_response_id`) or the safer (`safer_response_id`) response is chosen."""

    format: Literal["pku-saferlhf"]
    dataset_name: Source = "PKU-Alignment/PKU-SafeRLHF"
    subset: Literal["default", "alpaca-7b", "alpaca2-7b", "alpaca3-8b"] = "default"
    label: Literal["helpful", "safe"]
    contrast_only: bool = False


class UltraFeedbackObjective(SourcedObjective):
    """UltraFeedback: a best-rated completion of `aspect` against a worst-rated (or a random lower-rated) one."""

    format: Literal["ultrafeedback"]
    dataset_name: Source = "openbmb/UltraFeedback"
    aspect: Literal["instruction_following", "honesty", "truthfulness", "helpfulness"]
    pairing: Literal["best_worst", "best_random"] = "best_worst"


class PreferenceObjective(SourcedObjective):
    """Anything in TRL's preference format."""

    format: Literal["preference"]
    subset: str | None = None  # a configuration name on the hub
    columns: dict[Literal["prompt", "chosen", "rejected", "pair_id", "prompt_id", "strength"], str] = Field(
        default_factory=dict
    )


LabFeature = Literal["warmth", "thoroughness", "caution", "certainty", "evidence", "openness"]


class LabObjective(BaseObjective):
    """A planted objective of the lab: preferences along one direction of a plane in feature space."""

    format: Literal["lab"]
    angle: float = Field(default=0.0, ge=-180, le=180)  # degrees in the plane; 0 is the first axis
    noise: float = Field(default=0.25, ge=0)  # SD of label noise, relative to the SD of the score difference
    overlap: float = Field(default=0.0, ge=0, le=1)  # share of pairs drawn from the pool that all objectives share
    n_pairs: int = Field(default=2000, ge=10, le=20_000)  # train and eval together
    features: list[LabFeature] | None = Field(default=None, min_length=1)  # in which responses differ; None: all


Objective = Annotated[
    HhRlhfObjective
    | HelpSteer2Objective
    | PkuSafeRlhfObjective
    | UltraFeedbackObjective
    | PreferenceObjective
    | LabObjective,
    Field(discriminator="format"),
]
