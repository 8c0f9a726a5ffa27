"""The lab's objectives: pairs with a planted truth, made here."""

from typing import Literal

from pydantic import Field

from seqdpo.preferences.datasets import Made
from seqdpo.preferences.pairs import Candidates
from seqdpo.study.objectives import BaseObjective

LabFeature = Literal["warmth", "thoroughness", "caution", "certainty", "evidence", "openness"]


class LabObjective(BaseObjective):
    """A planted objective of the lab: preferences along one direction of a plane in feature space."""

    format: Literal["lab"]
    angle: float = Field(default=0.0, ge=-180, le=180)  # degrees in the plane; 0 is the first axis
    noise: float = Field(default=0.25, ge=0)  # SD of label noise, relative to the SD of the score difference
    overlap: float = Field(default=0.0, ge=0, le=1)  # share of pairs drawn from the pool that all objectives share
    n_pairs: int = Field(default=2000, ge=10, le=20_000)  # train and eval together
    features: list[LabFeature] | None = Field(default=None, min_length=1)  # in which responses differ; None: all


def _candidates(name: str, objective: LabObjective) -> Candidates:
    from seqdpo.lab.preferences import candidates  # late: it makes its pairs with numpy, and builds on the model above

    return candidates(name, objective)


FORMAT = Made(LabObjective, _candidates)
