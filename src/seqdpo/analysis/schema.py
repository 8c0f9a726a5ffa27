"""The findings: every record of results.json, what a builder makes and a reader reads. docs/results.md says the rest.

A key of the file is the field's name without an underscore at its end (`from_` is `from`), and keys stand in the order
of the fields. Undefined numbers are None. A new key needs a new SCHEMA_VERSION.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from seqdpo.errors import ArgumentError, DataError
from seqdpo.files import REMEDY
from seqdpo.study.checkpoints import Checkpoint, is_together
from seqdpo.wording import brief

SCHEMA_VERSION = 5

Word: TypeAlias = Literal[
    "DEGRADED", "STABLE", "REDISTRIBUTED", "POSITIVE TRANSFER", "MIXED", "BELOW BASE", "INCONCLUSIVE", "UNDEFINED"
]
#: DEGRADED by its margin: how much is left. STABLE: whether the accuracy was shown to hold, too.
Degree: TypeAlias = Literal["partial", "lost", "extent open", "margin only"]
#: What is true beside the verdict.
Tag: TypeAlias = Literal["redistributed", "scale only", "below base"]
Class: TypeAlias = Literal["fell", "held", "rose", "unresolved"]
Excess: TypeAlias = Literal["found", "ruled out", "open", "untested"]
Quantity: TypeAlias = Literal["margin", "accuracy", "flips"]
DecidedBy: TypeAlias = Literal["margin", "accuracy", "flips", "scale", "scatter", "base"]
RecipeBasis: TypeAlias = Literal["control stages", "control stages in every seed", "seeds"]
LearnedWord: TypeAlias = Literal["LEARNED", "NOT LEARNED", "INCONCLUSIVE"]
EndWord: TypeAlias = Literal["PRESENT", "ABSENT", "BELOW BASE", "INCONCLUSIVE"]
RecipeStatement: TypeAlias = Literal["ATTRIBUTABLE", "NOT SEPARABLE FROM RUN NOISE", "UNTESTED"]
Opposition: TypeAlias = Literal["opposed", "near-orthogonal", "aligned", "unresolved"]
Side: TypeAlias = Literal["below 0", "above 0", "open"]
Books: TypeAlias = Literal["confirmed", "contradicted", "unresolved"]
PathStatement: TypeAlias = Literal["first-order", "curved", "unresolved"]
#: What changes, flips, quartiles, slices and verdicts are made of; margin decides.
PairMeasure: TypeAlias = Literal["margin", "ln_margin", "ln_margin_base_corrected"]
#: Of a share: whether it is shown to be another than that of the plain order.
ThanPlain: TypeAlias = Literal["more", "less", "open"]
QuartileBasis: TypeAlias = Literal["cross_fitted", "excess_over_placebo"]

R = TypeVar("R", bound="Record")
OfOrder = TypeVar("OfOrder", "Cell", "AtTheEnd", "Score", "Transfer", "Length")  # records of an order
#: Of a key that stands in the file only where it has something.
IF_THERE = MappingProxyType({"only": "where it has something"})


def _key(field: str) -> str:
    return field.removesuffix("_")


class Record:
    """Base of all records."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(alias_generator=_key, extra="forbid", strict=True)


def to_json(found: Any) -> Any:
    """A record, or a list of them, as plain dicts and lists for JSON."""
    if is_dataclass(found):
        shown = [one.name for one in fields(found) if one.metadata is not IF_THERE or getattr(found, one.name)]
        return {_key(name): to_json(getattr(found, name)) for name in shown}
    if isinstance(found, Mapping):
        return {key: to_json(value) for key, value in found.items()}
    return [to_json(value) for value in found] if isinstance(found, list | tuple) else found


def findings_from_json(text: str, path: Path) -> "Findings":
    """What a results.json of this SCHEMA_VERSION holds; `path` is where it was read.

    Raises: DataError that names the first wrong key, if it holds anything else.
    """
    try:
        return _findings().validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path}: {key} = {brief(first['input'], 60)}: {first['msg']}; expected findings as this release writes "
            f"them. {REMEDY}"
        ) from None


@cache
def _findings() -> "TypeAdapter[Findings]":
    return TypeAdapter(Findings)


def extended(record: Record, kind: type[R], **more: Any) -> R:
    """A record of a kind that has the fields of another and more."""
    return kind(**{field.name: getattr(record, field.name) for field in fields(record)}, **more)  # type: ignore[arg-type]


# numbers with their intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds(Record):
    """A number with its interval; what it is over, and the confidence, is said elsewhere."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval(Bounds):
    """A mean over pairs with its t interval, standard error clustered by prompt."""

    confidence: float
    n: int
    n_prompts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Interval):
    """A change, held against its tolerance."""

    tolerance: float
    class_: Class


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcessFlips(Interval):
    """Share of pairs that flipped beyond those that flipped in the control stages; the class is that of flips alone."""

    tolerance: float
    class_: Excess
    n_controls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BeyondControls(Record):
    """A number of the real run less the mean of its control stages, as one further draw of theirs: t, k - 1 df."""

    excess: float
    low: float
    high: float
    confidence: float
    p: float | None
    n_controls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested(Interval):
    p: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast(Interval):
    """A difference of two groups of pairs: `p` over the pairs, and beside the same difference in control stages."""

    p: float | None
    beyond_controls: BeyondControls | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PointInterval(Bounds):
    """A number over the points of a stage, whose error is that over blocks of pairs."""

    confidence: float
    n_points: int
    n_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Average(Bounds):
    """A mean of the objectives' means."""

    n: int
    n_objectives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OverSeeds(Bounds):
    n_seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstObjective(Record):
    objective: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    n_prompts: int


# cells


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstBase(Record):
    """What the policy itself prefers beside what the base did: nothing has to have been learned for that."""

    ranking_accuracy_of_base: float | None
    ranking_accuracy_when_taught: float | None
    ranking_accuracy_after: float | None
    ranking_accuracy_change: Judged
    margin_of_base: Interval
    margin_change: Judged | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlMovement(Record):
    """What training on these pairs does by itself: the mean change over the control stages."""

    n_controls: int
    margin_change: float
    share_of_gain: float
    accuracy_change: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Component(Bounds):
    """A part of the change: over the pairs, beside its mean over the control stages, and its p against those."""

    in_controls: float | None
    run_noise: float | None
    p: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape(Record):
    """margin after = shift + scale x margin in the control stages + scatter."""

    confidence: float
    n_controls: int
    shift: Component
    scale: Component
    scatter: Component
    trimmed_change: Interval
    share_fell: Tested


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere(Record):
    """The verdict at other tolerances and in other measures."""

    measure: str
    tolerance: float
    verdict: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasons(Record):
    """What a verdict rests on."""

    gain: Interval
    margin_before: float
    margin_after: float
    margin_change: Judged
    retention: Interval
    accuracy_before: float
    accuracy_after: float
    accuracy_change: Judged
    excess_flips: ExcessFlips | None
    base: AgainstBase
    controls: ControlMovement | None
    shape: Shape
    multiverse: tuple[Elsewhere, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingLearned(Record):
    """Why there is no verdict on what was learned."""

    gain: Interval
    accuracy_when_taught: Interval
    base: AgainstBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Record):
    verdict: Word
    degree: Degree | None
    decided_by: DecidedBy | None
    redistribution: Excess
    tags: tuple[Tag, ...]
    n_needed: int | None
    prompts_needed: int | None
    level: float | None
    reasons: Reasons | NothingLearned
    scope: str
    sentence: str

    @property
    def words(self) -> str:
        """`DEGRADED, partial`; `DEGRADED, accuracy` where the margin did not move."""
        of_accuracy = self.decided_by == "accuracy" and self.verdict in ("DEGRADED", "POSITIVE TRANSFER")
        degree = "accuracy" if of_accuracy else self.degree
        return self.verdict + (f", {degree}" if degree else "")

    @property
    def retention(self) -> Interval | None:
        """The share of the learned margin that is left; None where nothing was learned."""
        return self.reasons.retention if isinstance(self.reasons, Reasons) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned(Record):
    """Did a stage teach its own objective?"""

    seed: int
    checkpoint: str
    objective: str
    split: str
    word: LearnedWord
    margin: Interval
    gain: Interval
    accuracy: Interval
    accuracy_before: float | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AtTheEnd(Record):
    """An objective under the last checkpoint of an order."""

    seed: int
    order: str
    objective: str
    split: str
    word: EndWord
    margin: Interval
    accuracy: Interval
    ranking_accuracy_of_base: float | None
    ranking_accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfRecipe(Record):
    """Whether one quantity's change lies outside what control stages and seeds produce."""

    statement: RecipeStatement
    basis: RecipeBasis | None
    excess: float | None
    low: float | None
    high: float | None
    confidence: float
    p: float | None
    p_holm: float | None
    run_noise: float | None
    next_run_low: float | None
    next_run_high: float | None
    n_seeds: int
    n_seeds_alike: int | None
    n_controls: int
    draws_needed: int | None
    seeds_needed: int | None
    assumes: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Record):
    quantity: Quantity | None
    margin: OfRecipe
    accuracy: OfRecipe
    flips: OfRecipe

    @property
    def read(self) -> OfRecipe | None:
        """That of `quantity`, which stands out most."""
        found: OfRecipe | None = None if self.quantity is None else getattr(self, self.quantity)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips(Record):
    """Pairs by what became of them; None where one is undefined."""

    kept: int | None
    lost: int | None
    regained: int | None
    never: int | None
    tied: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar(Record):
    n: int | None
    p: float | None
    exact: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quadrants(Record):
    """Pairs by where their two log-probabilities went."""

    chosen_up_rejected_up: int | None
    chosen_up_rejected_down: int | None
    chosen_down_rejected_up: int | None
    chosen_down_rejected_down: int | None
    either_unchanged: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Displacement(Record):
    """Which side moved."""

    chosen_change: Interval
    rejected_change: Interval
    chosen_change_per_token: Interval
    rejected_change_per_token: Interval
    displacement_rate: Interval
    chosen_share: Interval
    quadrants: Quadrants


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Record):
    """What happened to the pairs of a cell."""

    n: int
    margin_change: Interval
    ln_margin_change: Interval
    accuracy_change: Interval
    d_z: float | None
    spearman_margin_before_after: float | None
    flips: Flips
    negative_flip_rate: Interval
    positive_flip_rate: Interval
    net_flip_rate: Interval
    mcnemar: McNemar
    displacement: Displacement


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasedQuartile(Record):
    biased: Literal[True]
    quartile: str
    margin_above: float | None
    margin_up_to: float | None
    n: int
    n_prompts: int
    margin_change: Interval
    accuracy_change: Interval
    lost: int
    regained: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossFittedQuartile(Record):
    quartile: str
    margin_above: float | None
    margin_up_to: float | None
    n: int
    n_prompts: int
    margin_change: Interval
    accuracy_change: Interval
    lost: int
    regained: int
    p_holm: float | None
    beyond_controls: BeyondControls | None
    run_p_holm: float | None

    @property
    def tested(self) -> Interval:
        """The change that `p_holm` is of."""
        return self.margin_change


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcessQuartile(Record):
    quartile: str
    margin_above: float | None
    margin_up_to: float | None
    n: int
    n_prompts: int
    excess_margin_change: Interval
    excess_accuracy_change: Interval
    lost: int
    regained: int
    lost_in_controls: float
    regained_in_controls: float
    p_holm: float | None
    beyond_controls: BeyondControls | None
    run_p_holm: float | None

    @property
    def tested(self) -> Interval:
        """The change that `p_holm` is of."""
        return self.excess_margin_change


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasedTable(Record):
    biased: Literal[True]
    text: str
    rows: tuple[BiasedQuartile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossFittedTable(Record):
    rows: tuple[CrossFittedQuartile, ...]
    q4_minus_q1: Contrast


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcessTable(Record):
    rows: tuple[ExcessQuartile, ...]
    q4_minus_q1: Contrast


@dataclass(frozen=True, slots=True, kw_only=True)
class Slopes(Record):
    """Nats of change for each nat of margin when taught."""

    biased: Interval
    correlation_between_seeds: float | None
    corrected: Interval | None
    excess_over_placebo: Interval | None
    excess_corrected: Interval | None
    beyond_controls: BeyondControls | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuartileFinding(Record):
    basis: QuartileBasis
    redistributed_between_quartiles: bool
    rose: tuple[str, ...]
    fell: tuple[str, ...]
    sentence: str
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quartiles(Record):
    """The change of a cell by the margin when taught: either `finding` or `withheld` is there."""

    n_other_seeds: int
    n_controls: int
    as_in_the_study: BiasedTable
    cross_fitted: CrossFittedTable | None
    excess_over_placebo: ExcessTable | None
    slope: Slopes
    redistribution_index: float | None
    finding: QuartileFinding | None
    withheld: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthOfChange(Record):
    n: int
    spearman_margin_change_length: float | None
    margin_change_at_same_length: Interval
    margin_change_length_slope: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice(Record):
    column: str
    value: str
    n: int
    n_prompts: int
    margin_before: float | None
    margin_after: float | None
    margin_change: Interval
    accuracy_before: float | None
    accuracy_after: float | None
    accuracy_change: Interval
    lost: int | None
    regained: int | None
    retention: Interval | None
    difference_from_rest: Contrast
    q: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(Record):
    """What later stages did to an earlier objective between two checkpoints."""

    measure: PairMeasure
    seed: int
    order: str
    objective: str
    split: str
    taught: str
    from_: str
    to: str
    n: int
    n_prompts: int
    n_effective: float
    verdict: Verdict
    recipe: Recipe
    next: str
    change: Change
    quartiles: Quartiles
    length: LengthOfChange
    slices: tuple[Slice, ...]

    @property
    def later(self) -> tuple[str, ...]:
        """The objectives of the stages between the two checkpoints."""
        return Checkpoint.parse(self.to).since(Checkpoint.parse(self.from_))


# scores, transfer and orders


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Record):
    """R[i, j]: a checkpoint on an objective."""

    seed: int
    order: str
    stage: int
    checkpoint: str
    placebo: int
    objective: str
    split: str
    n: int
    n_prompts: int
    margin: Bounds
    reward_margin: Bounds
    ln_margin: Bounds
    ln_margin_base_corrected: Bounds
    accuracy: Bounds
    ranking_accuracy: Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOfObjective(Record):
    objective: str
    stage: int | None
    n: int
    n_prompts: int
    final: Bounds | None
    when_taught: Bounds | None
    forgetting: Bounds | None
    forward_transfer: Bounds | None
    plasticity: Bounds | None
    intransigence: Bounds | None
    retention: Bounds | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Record):
    """The metrics of continual learning of one order and measure."""

    split: str
    seed: int
    order: str
    measure: str
    final_average: Average | None
    incremental_average: Average | None
    backward_transfer: Average | None
    forgetting: Average | None
    forward_transfer: Average | None
    plasticity: Average | None
    intransigence: Average | None
    worst_objective: WorstObjective | None
    objectives: tuple[TransferOfObjective, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedOfOrders(Record):
    seed: int
    first: tuple[str, ...]
    last: tuple[str, ...]
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstMinusLast(Record):
    objective: str
    measure: str
    n: int
    n_prompts: int
    seeds: tuple[SeedOfOrders, ...]
    over_seeds: OverSeeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind(Bounds):
    over_seeds: OverSeeds


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderEnd(Record):
    order: str
    average: Bounds
    worst_objective: WorstObjective | None
    best_minus_this: Behind | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalAccuracy(Record):
    """Which order ends best."""

    seeds: tuple[int, ...]
    best: str
    best_by_worst_objective: str
    n: int
    n_objectives: int
    orders: tuple[OrderEnd, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders(Record):
    """What the order changed, of one set of objectives."""

    split: str
    objectives: tuple[str, ...]
    orders: tuple[str, ...]
    first_minus_last: tuple[FirstMinusLast, ...]
    final_accuracy: FinalAccuracy | None


# length


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyByLength(Record):
    chosen_longer: Interval
    rejected_longer: Interval
    same_length: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class SignDisagreement(Record):
    ln_margin: Interval
    ln_margin_base_corrected: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Length(Record):
    """How the margins of one checkpoint and objective hang on length."""

    seed: int
    order: str
    stage: int
    checkpoint: str
    objective: str
    split: str
    n: int
    chosen_tokens: Interval
    rejected_tokens: Interval
    length_difference: Interval
    longer_wins_accuracy: Interval
    margin_at_same_length: Interval
    margin_length_slope: Interval
    accuracy_by_length: AccuracyByLength
    spearman_margin_length: float | None
    spearman_ln_margin_length: float | None
    sign_disagreement: SignDisagreement


# mechanism; docs/mechanism.md has these


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability(Record):
    """The share of a batch's squared gradient norm that is not its noise."""

    current: float | None
    earlier: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account(Record):
    """Did the steps, times the earlier gradient, add up to what happened to the loss?"""

    predicted: PointInterval
    actual: Interval
    share: float | None
    statement: Books


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePoint(Record):
    step: int
    dot: float | None
    current_norm: float
    earlier_norm: float
    raw_cosine: float | None
    cosine: float | None
    preconditioned_dot: float | None
    update_dot: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGradients(Record):
    layer: int | None
    raw_cosine: float | None
    reliability: Reliability
    cosine: PointInterval
    update_dot: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleGradients(Record):
    module: str
    raw_cosine: float | None
    reliability: Reliability
    cosine: PointInterval
    update_dot: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients(Record):
    """A later stage's gradients beside those of an earlier objective."""

    seed: int
    from_: str
    to: str
    placebo: int
    objective: str
    n_points: int
    n_blocks: int
    pairs_per_batch: int
    raw_cosine: float | None
    reliability: Reliability
    cosine: PointInterval
    point_cosine: PointInterval
    beyond_control: PointInterval | None
    near_orthogonal: float
    statement: Opposition
    side: Side
    share_below_zero: float
    preconditioned_dot: PointInterval
    account: Account
    trace: tuple[TracePoint, ...]
    layers: tuple[LayerGradients, ...]
    modules: tuple[ModuleGradients, ...]
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement(Record):
    """What a stage did to the whole adapter."""

    seed: int
    from_: str
    to: str
    placebo: int
    update_norm: float | None
    previous_norm: float | None
    new_norm: float | None
    weight_norm: float | None
    cosine: float | None
    parallel_norm: float | None
    perpendicular_norm: float | None
    relative_update: float | None
    relative_to_weights: float | None
    cosine_beyond_controls: BeyondControls | None
    update_norm_beyond_controls: BeyondControls | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kl(Record):
    """KL(previous || new) a token."""

    chosen: Interval
    rejected: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast(Record):
    """How well one gradient ranked the changes that came."""

    spearman: float | None
    low: float | None
    high: float | None
    confidence: float
    n: int
    n_prompts: int
    actual_change: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStep(Record):
    a: float
    margin: Interval
    accuracy: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class PathOfObjective(Record):
    """One objective's pairs along the line between two checkpoints."""

    steps: tuple[PathStep, ...]
    margin_change: Interval
    slope_prediction: Interval
    departure: Interval
    second_order_part: Interval
    statement: PathStatement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BestPlace(Record):
    a: float
    objective: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    n_prompts: int
    at_one: WorstObjective


@dataclass(frozen=True, slots=True, kw_only=True)
class BestPlaces(Record):
    accuracy: BestPlace | None
    margin: BestPlace | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KlAndPathOfObjective(Record):
    objective: str
    n: int
    kl: Kl
    forecast: Forecast | None
    path: PathOfObjective | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KlAndPath(Record):
    """What a stage did to the policy as a function."""

    seed: int
    from_: str
    to: str
    placebo: int
    objectives: tuple[KlAndPathOfObjective, ...]
    best_for_worst_objective: BestPlaces | None
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism(Record):
    gradients: tuple[Gradients, ...]
    movement: tuple[Movement, ...]
    kl_and_path: tuple[KlAndPath, ...]


# the whole


@dataclass(frozen=True, slots=True)
class Tolerances(Record):
    """What counts as no change; fixed in the study file before the training."""

    margin: float = 0.1  # share of the margin that was learned
    accuracy: float = 0.02
    flips: float = 0.02  # share of the pairs that flip beyond those that flip in the control stages
    confidence: float = 0.95  # 1 - confidence is the risk of a wrong claim over all cells together
    looks: int = 1  # at how many numbers of control stages the recipe may be tested; each has its part of that risk


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(Record):
    """How intervals are made, what a tie counts, how undefined is written."""

    intervals: str
    ties: str
    undefined: str
    tolerances: Tolerances


@dataclass(frozen=True, slots=True, kw_only=True)
class OfMeasure(Record):
    """The cells and orders in another measure than the margin."""

    measure: PairMeasure
    cells: tuple[Cell, ...]
    orders: tuple[Orders, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathCost(Record):
    """What a checkpoint took from the base on, with all that it is made of; None: not known."""

    trained_pairs: float | None  # read forward and backward: a pair of an epoch is one
    scored_pairs: float | None  # read forward, for references and labels
    seconds: float | None  # of training, on the machine that ran it


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareOfPlain(Bounds):
    """Of an earlier objective the share that is left, of the new one the share that the plain stage's gain would be."""

    objective: str
    n: int
    n_prompts: int
    minus_plain: Bounds  # the same share less that of the plain order, pair by pair
    than_plain: ThanPlain | None  # None: it is the plain one
    by_seed: tuple[float | None, ...]
    chosen_logp_change: float | None  # mean change of the chosen responses' log-probability, nats; of an earlier
    # objective since it was taught, of the new one over its stage


@dataclass(frozen=True, slots=True, kw_only=True)
class OfControl(Record):
    """What the same number's control stages of all seeds kept of each earlier objective, and of the new one."""

    number: int
    kept: tuple[float | None, ...]
    learned: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantOutcome(Record):
    """What one variant of an order ends with."""

    variant: str  # plain: the study's own keys
    keys: Mapping[str, Any]
    checkpoint: str
    joint: bool  # trained on all objectives at once: the ceiling, compared with nobody
    chosen: bool  # of a remedy tried at several strengths, the one that was chosen on the other half
    kept: tuple[ShareOfPlain, ...]  # of each earlier objective
    learned: ShareOfPlain
    controls: tuple[OfControl, ...]
    cost: PathCost | None
    on_front: bool  # no other is, by these numbers, as good in all and better in one
    beaten_by: tuple[str, ...]  # others that are better in every objective, with intervals that part


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants(Record):
    """The variants of one order, side by side."""

    order: str
    split: str
    seeds: tuple[int, ...]
    confidence: float
    pairs: str  # what the shares are over
    outcomes: tuple[VariantOutcome, ...]
    sentence: str  # what to take
    projection: str | None  # what `project` says of the opposition of gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings(Record):
    """The content of results.json."""

    schema_version: int
    study: Mapping[str, Any]  # keys of the study as they are
    method: Method
    cells: tuple[Cell, ...]
    learned: tuple[Learned, ...]
    at_the_end: tuple[AtTheEnd, ...]
    score_matrix: tuple[Score, ...]
    transfer: tuple[Transfer, ...]
    orders: tuple[Orders, ...]
    length: tuple[Length, ...]
    other_measures: tuple[OfMeasure, ...]
    mechanism: Mechanism | None
    variants: tuple[Variants, ...] = field(default=(), metadata=IF_THERE)

    def plain(self) -> "Findings":
        """The same without what variants and joint stages ended with; `variants` stays."""
        if not self.variants:
            return self
        mechanism = self.mechanism and replace(
            self.mechanism, movement=tuple(one for one in self.mechanism.movement if _is_plain(one.to))
        )
        measures = tuple(
            replace(one, cells=_plain_of(one.cells), orders=_plain_orders(one.orders)) for one in self.other_measures
        )
        return replace(
            self,
            cells=_plain_of(self.cells),
            at_the_end=_plain_of(self.at_the_end),
            score_matrix=_plain_of(self.score_matrix),
            transfer=_plain_of(self.transfer),
            length=_plain_of(self.length),
            learned=tuple(one for one in self.learned if _is_plain(one.checkpoint)),
            orders=_plain_orders(self.orders),
            other_measures=measures,
            mechanism=mechanism,
        )

    def in_measure(self, measure: PairMeasure) -> "Findings":
        """The same with cells and orders in a measure: `margin`, `ln_margin` or `ln_margin_base_corrected`.

        Raises: ArgumentError for any other.
        """
        if measure == "margin":
            return self
        of = {one.measure: one for one in self.other_measures}
        if measure not in of:
            raise ArgumentError(["measure"], f" = {measure!r}: expected one of margin, {', '.join(of)}.")
        return replace(self, cells=of[measure].cells, orders=of[measure].orders)

    def __repr__(self) -> str:
        """Short: in full it fills screens."""
        return f"Findings of {len(self.cells)} cells: {', '.join(cell.verdict.words for cell in self.cells) or 'none'}"


def _is_plain(name: str) -> bool:
    """Of an order or a checkpoint: whether it was trained with the study's own keys, an objective at a time."""
    return not Checkpoint.parse(name).variant and not is_together(name)


def _plain_of(records: tuple[OfOrder, ...]) -> tuple[OfOrder, ...]:
    return tuple(one for one in records if _is_plain(one.order))


def _plain_orders(records: tuple[Orders, ...]) -> tuple[Orders, ...]:
    return tuple(one for one in records if all(map(_is_plain, one.orders)))
