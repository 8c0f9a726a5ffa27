"""The keys of a study file in groups, so that a function takes the keys it reads and no others.

`seqdpo.study.config.Study` is all of them together, and can be given wherever one group is asked for.
"""

import re
from itertools import permutations
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from seqdpo.study.losses import LOSSES
from seqdpo.study.objectives import RESERVED_TEMPLATE_ARGUMENTS, Name, Objective
from seqdpo.study.settings import SETTINGS
from seqdpo.study.variants import spelled_out
from seqdpo.wording import did_you_mean

OBJECTIVE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
#: Part of the name of a folder: on no file system may it end in a dot, or begin with a dash in a shell.
VARIANT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,38}[A-Za-z0-9])?")
REFERENCE = re.compile(r"base|previous|stage:[1-9][0-9]*")
#: `orders: all` of more objectives than this is thousands of stages; the user names the orders instead.
MAX_OBJECTIVES_FOR_ALL_ORDERS = 5
#: More than anybody can run; a slip of the finger is told before a tree of millions of stages is made.
MOST_SEEDS, MOST_CONTROLS = 1000, 100


def _objective_name(name: str) -> str:
    if not OBJECTIVE_NAME.fullmatch(name) or name == "base" or name.startswith("placebo"):
        raise ValueError(
            f"{name!r} cannot name an objective; expected letters, digits, '-' and '_' (at most 40), "
            "not 'base' and not beginning with 'placebo'"
        )
    return name


def _reference(value: str) -> str:
    if not REFERENCE.fullmatch(value):
        raise ValueError("expected 'base', 'previous' or 'stage:<k>' with k from 1")
    return value


def _reference_of_variant(value: str) -> str:
    if value != "spo" and not REFERENCE.fullmatch(value):
        raise ValueError("expected 'base', 'previous', 'spo' or 'stage:<k>' with k from 1")
    return value


def _variant_name(name: str) -> str:
    if not VARIANT_NAME.fullmatch(name) or name == "plain":
        raise ValueError(
            f"{name!r} cannot name a variant; expected letters, digits, '.', '-' and '_' (at most 40, the first and "
            "the last a letter or digit), not 'plain'"
        )
    return name


def _loss_type(value: str) -> str:
    if value not in LOSSES:
        near = did_you_mean(value, LOSSES)
        raise ValueError(f"expected one of {', '.join(LOSSES)}" + (f".{near}" if near else ""))
    return value


def _word_or_list(value: Any) -> str:
    return "(word)" if isinstance(value, str) else "(list)"


def _placebo_count(value: Any) -> Any:
    """`true` means one control stage beside every later stage."""
    return int(value) if isinstance(value, bool) else value


def _unique_seeds(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("the same seed stands twice; expected each seed once")
    return seeds


def _template_arguments(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    reserved = sorted(RESERVED_TEMPLATE_ARGUMENTS & arguments.keys())
    if reserved:
        raise ValueError(f"{', '.join(reserved)} is not for users to set; expected variables of the chat template")
    return arguments


def _tracker_names(value: Any) -> Any:
    """As transformers has it: a name alone, or `none`."""
    if isinstance(value, str):
        return [] if value == "none" else [value]
    return value


class Keys(BaseModel):
    """What all groups share: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class ModelKeys(Keys):
    """The base model and its tokenizer."""

    model_name_or_path: Name = Field(description="hub id, local folder, or 'lab' for the built-in one")
    model_revision: str | None = Field(default=None, description="branch, tag or commit on the hub")
    trust_remote_code: bool = Field(default=False, description="run model code that comes with the weights")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the frozen base weights")
    load_in_4bit: bool = Field(
        default=False, description="keep the base's linear layers in NF4 (bitsandbytes): other numbers, less memory"
    )
    load_in_8bit: bool = Field(default=False, description="the same in 8 bits, LLM.int8")
    chat_template_path: Name | None = Field(
        default=None,
        description="Jinja file, or a tokenizer folder, whose chat template replaces the model's",
    )
    chat_template_kwargs: Annotated[dict[str, JsonValue], AfterValidator(_template_arguments)] = Field(
        default_factory=dict, description="arguments for the chat template, as {enable_thinking: false}"
    )

    @model_validator(mode="after")
    def _check_bits(self) -> Self:
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit = True and load_in_8bit = True; expected one of them")
        return self


class AdapterKeys(Keys):
    """The LoRA adapter, and how a later stage builds on an earlier one."""

    lora_r: int = Field(default=32, ge=1, le=65_536, description="rank")
    lora_alpha: float = Field(default=64, gt=0, description="the update is scaled by lora_alpha / lora_r")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    lora_target_modules: Annotated[
        Annotated[Literal["all-linear"], Tag("(word)")] | Annotated[list[str], Field(min_length=1), Tag("(list)")],
        Discriminator(_word_or_list),
    ] = Field(default="all-linear", description="all linear layers but the head, or a list of module names")
    adapter_mode: Literal["continue", "new_on_merged", "stack"] = Field(
        default="continue",
        description="how a later stage builds on the earlier adapter: train it on, merge it and train a new one, "
        "or keep it beside a new one",
    )


class PolicyKeys(AdapterKeys, ModelKeys):
    """The base with an adapter around it."""


class LossKeys(Keys):
    """What a stage minimises; named as in TRL's DPOConfig."""

    loss_type: Annotated[str, AfterValidator(_loss_type)] = Field(default="sigmoid", description=", ".join(LOSSES))
    beta: float = Field(default=0.3, gt=0, description="strength of the pull towards the reference; tau of ipo")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="of robust: the probability that a label is turned around"
    )
    ld_alpha: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="weight of a response's tokens beyond the length of the pair's shorter one (LD-DPO); null: 1",
    )
    reference: Annotated[str, AfterValidator(_reference)] = Field(
        default="base", description="the policy in DPO's denominator: base, previous, or stage:<k>"
    )

    @model_validator(mode="after")
    def _check_smoothing(self) -> Self:
        if self.label_smoothing and not LOSSES[self.loss_type].smooths:
            smoothing = ", ".join(repr(name) for name, loss in LOSSES.items() if loss.smooths)
            raise ValueError(
                f"label_smoothing = {self.label_smoothing} with loss_type = {self.loss_type!r}, which does not read it "
                f"(nor does TRL's); expected label_smoothing 0, or loss_type {smoothing}"
            )
        return self

    def reference_stage(self) -> int:
        """The k of `reference: stage:<k>`."""
        return int(self.reference.removeprefix("stage:"))


class OptimiserKeys(Keys):
    """How a stage minimises it; named as in transformers.TrainingArguments."""

    learning_rate: float = Field(default=5e-5, gt=0)
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial"
    ] = "linear"
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1, description="share of the steps; or give warmup_steps")
    warmup_steps: int = Field(default=0, ge=0)
    num_train_epochs: int = Field(default=1, ge=1, description="epochs a stage")
    per_device_train_batch_size: int = Field(default=8, ge=1)
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, description="pairs a step = this x per_device_train_batch_size"
    )
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, ge=0, description="0 switches clipping off")
    gradient_checkpointing: bool = Field(default=False, description="less memory, about a third more time")
    tokens_per_batch: int | None = Field(
        default=None,
        ge=16,
        description="tokens in one forward pass; changes speed and memory, not results; null: 1024 on a CPU, 8192 "
        "on an accelerator",
    )

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.warmup_ratio > 0 and self.warmup_steps > 0:
            raise ValueError(
                f"warmup_ratio = {self.warmup_ratio} and warmup_steps = {self.warmup_steps}; expected one of them"
            )
        return self

    @property
    def pairs_per_step(self) -> int:
        return self.per_device_train_batch_size * self.gradient_accumulation_steps


class StageKeys(OptimiserKeys, LossKeys):
    """All that training one stage reads."""


class Variant(StageKeys):
    """What later stages do otherwise than the study says: any key of a stage, and the remedies.

    The keys that were given (`model_fields_set`) are laid over the study's; all others are the study's own.
    """

    reference: Annotated[str, AfterValidator(_reference_of_variant)] = Field(
        default="base", description="as in a study, or spo: the previous checkpoint, and its way from the base"
    )
    spo_weight: float = Field(default=1.0, ge=0, description="of the way from the base, with reference: spo")
    replay: float = Field(default=0.0, ge=0, lt=1, description="share of every step's pairs from earlier objectives")
    replay_added: bool = Field(default=False, description="beside the step's own pairs, not in their place")
    ewc: float = Field(default=0.0, ge=0, description="pull back to the stage's start, by Fisher information")
    ewc_pairs: int = Field(default=200, ge=1, description="training pairs of each earlier objective that make it")
    l2_to_previous: float = Field(default=0.0, ge=0, description="the same pull on every weight alike")
    project: bool = Field(default=False, description="take from every update what raises the earlier objectives' loss")
    interpolate: float | None = Field(
        default=None, gt=0, lt=1, description="no training: this share of the way that the plain stage went"
    )
    joint: bool = Field(default=False, description="one stage on all objectives of an order at once, from the base")

    @model_validator(mode="after")
    def _check_smoothing(self) -> Self:
        return self  # with the study's own keys, by `Study`

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        return self

    @model_validator(mode="after")
    def _check_remedy(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("no key; expected one at least, for without it is the plain stage")
        if alone := [name for name in ("interpolate", "joint") if getattr(self, name)]:
            others = sorted(self.model_fields_set - {alone[0]})
            if others:
                raise ValueError(f"{alone[0]} with {', '.join(others)}; expected {alone[0]} alone")
        for name, of in (("replay_added", "replay"), ("ewc_pairs", "ewc")):
            if name in self.model_fields_set and of not in self.model_fields_set:
                raise ValueError(f"{name} without {of}; expected both")
        if "spo_weight" in self.model_fields_set and self.reference != "spo":
            raise ValueError("spo_weight without reference: spo; expected both")
        return self

    @model_serializer(mode="wrap")
    def _only_what_was_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}

    @property
    def is_trained(self) -> bool:
        """Whether its stages are; the others' checkpoints are made of those of plain stages."""
        return self.interpolate is None

    @property
    def remembers(self) -> bool:
        """Whether its stages read training pairs of earlier objectives."""
        return bool(self.replay or self.ewc or self.project)


class TextKeys(Keys):
    """How long a text may be."""

    max_length: int = Field(default=1024, ge=8, description="tokens of a prompt with one response")
    excess_length_strategy: Literal["drop", "truncate", "raise"] = Field(
        default="drop", description="for pairs over max_length; truncate takes the oldest prompt turns first"
    )


class DataKeys(Keys):
    """The objectives and their pairs."""

    setting: str | None = Field(default=None, description="a named set of objectives; or name them yourself")
    objectives: dict[Annotated[str, AfterValidator(_objective_name)], Objective] = Field(default_factory=dict)
    max_eval_pairs: int | None = Field(default=2000, ge=1, description="per objective, drawn by hash")

    @model_validator(mode="after")
    def _fill_in_the_setting(self) -> Self:
        if self.setting is not None and self.setting not in SETTINGS:
            near = did_you_mean(self.setting, SETTINGS)
            hint = f".{near}" if near else ""
            raise ValueError(f"setting = {self.setting!r} is unknown; expected one of {', '.join(SETTINGS)}{hint}")
        if self.setting is None and not self.objectives:
            raise ValueError("neither setting nor objectives is given; expected one of them")
        if (
            self.setting is not None
            and self.objectives
            and set(self.objectives) != set(SETTINGS[self.setting].objectives)
        ):
            raise ValueError(
                f"setting = {self.setting!r} has the objectives {', '.join(SETTINGS[self.setting].objectives)}, but "
                f"objectives names {', '.join(self.objectives)}; expected the same names, or only one of the two keys"
            )
        if self.setting is not None and not self.objectives:
            object.__setattr__(self, "objectives", dict(SETTINGS[self.setting].objectives))
        return self

    def eval_limit(self, objective: str) -> int | None:
        return self.objectives[objective].max_eval_pairs or self.max_eval_pairs


class SplitKeys(DataKeys):
    """Which of the pairs are trained on."""

    max_train_pairs: int | None = Field(default=None, ge=1, description="per objective, drawn by hash")
    eval_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="share of prompts held out where the source has no test split"
    )

    def train_limit(self, objective: str) -> int | None:
        return self.objectives[objective].max_train_pairs or self.max_train_pairs


class TreeKeys(SplitKeys):
    """The stages: every order of objectives, every seed, the control stages."""

    orders: Annotated[
        Annotated[Literal["all"], Tag("(word)")] | Annotated[list[list[str]], Tag("(list)")],
        Discriminator(_word_or_list),
    ] = Field(default="all", description="all, or a list of lists")
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], AfterValidator(_unique_seeds)] = Field(
        default_factory=lambda: [0], min_length=1, max_length=MOST_SEEDS
    )
    placebo: Annotated[int, BeforeValidator(_placebo_count)] = Field(
        default=1, ge=0, le=MOST_CONTROLS, description="control stages beside every later stage; true = 1, false = 0"
    )
    variants: Annotated[dict[Annotated[str, AfterValidator(_variant_name)], Variant], BeforeValidator(spelled_out)] = (
        Field(default_factory=dict, description="standard, or named sets of keys for the later stages")
    )

    adapter_name_or_path: Name | None = Field(
        default=None, description="an adapter that was trained before, folder or hub id: the first stage of every order"
    )
    adapter_revision: str | None = Field(default=None, description="its branch, tag or commit on the hub")
    learned: str | None = Field(default=None, description="the objective that it learned")

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.adapter_name_or_path is None:
            for name in ("learned", "adapter_revision"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} = {getattr(self, name)!r} without adapter_name_or_path; expected both")
            return self
        if self.learned is None:
            raise ValueError(
                "adapter_name_or_path without learned; expected the objective that the adapter learned, one of "
                f"{', '.join(self.objectives)}"
            )
        if self.learned not in self.objectives:
            near = did_you_mean(self.learned, self.objectives)
            raise ValueError(f"learned = {self.learned!r}; expected one of {', '.join(self.objectives)}.{near}")
        for order in [] if self.orders == "all" else self.orders:
            if order[:1] != [self.learned]:
                raise ValueError(
                    f"orders: {order} with learned = {self.learned!r}; expected orders that begin with {self.learned!r}"
                )
        return self

    @model_validator(mode="after")
    def _check_variants(self) -> Self:
        lower: dict[str, str] = {}
        for name in self.variants:
            if lower.setdefault(name.lower(), name) != name:
                raise ValueError(
                    f"variants: {lower[name.lower()]!r} and {name!r} differ in capitals alone, which some file systems "
                    "do not tell apart; expected other names"
                )
        joint = [name for name, variant in self.variants.items() if variant.joint]
        if len(joint) > 1:
            raise ValueError(f"variants: joint in {' and '.join(joint)}; expected it once")
        if joint and self.adapter_name_or_path is not None:
            raise ValueError(
                f"variants.{joint[0]}: joint trains all objectives from the base, and adapter_name_or_path = "
                f"{self.adapter_name_or_path!r} begins elsewhere; expected one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_orders(self) -> Self:
        if self.orders == "all":
            if len(self.objectives) > MAX_OBJECTIVES_FOR_ALL_ORDERS:
                raise ValueError(
                    f"orders = 'all' of {len(self.objectives)} objectives; expected at most "
                    f"{MAX_OBJECTIVES_FOR_ALL_ORDERS}. List the orders you want"
                )
            return self
        if not self.orders:
            raise ValueError("orders = []; expected 'all' or at least one list of objectives")
        for number, order in enumerate(self.orders, 1):
            _check_order(number, order, list(self.objectives))
        if len({tuple(order) for order in self.orders}) != len(self.orders):
            raise ValueError("orders: the same order stands twice; expected each order once")
        return self

    def all_orders(self) -> list[tuple[str, ...]]:
        """The orders of the study, `all` spelled out."""
        if self.orders == "all":
            orders = permutations(self.objectives)
            return [order for order in orders if self.learned is None or order[0] == self.learned]
        return [tuple(order) for order in self.orders]

    def later_variants(self) -> dict[str, Variant]:
        """Those that change later stages: all but `joint`, which has none."""
        return {name: variant for name, variant in self.variants.items() if not variant.joint}

    def joint_orders(self) -> list[tuple[str, ...]]:
        """What one stage trains at once, where a variant asks for it: the objectives of each order of two or more."""
        if not any(variant.joint for variant in self.variants.values()):
            return []
        sets = [tuple(name for name in self.objectives if name in order) for order in self.all_orders()]
        return [of for of in dict.fromkeys(sets) if len(of) > 1]

    def trained_objectives(self) -> list[str]:
        """The objectives that some order trains; the others are only evaluated."""
        names = dict.fromkeys(name for order in self.all_orders() for name in order)
        return [name for name in names if name != self.learned]


class MechanismKeys(StageKeys):
    """What is measured beside the scores, of the loss and the steps that train."""

    mechanism_share: float = Field(
        default=0.1, gt=0, description="at most so many passes for all of it, as a share of a stage's training passes"
    )
    gradient_trace_points: int = Field(
        default=20, ge=0, description="at most so many points at which objectives' gradients are compared; 0: none"
    )
    mechanism_pairs: int = Field(
        default=200, ge=0, description="at most so many held-out pairs an objective for KL, forecast and path; 0: none"
    )


class SaveKeys(Keys):
    """When a stage is kept while it trains; changes no result."""

    save_minutes: float = Field(
        default=10, ge=0, description="a stage that trains is kept so often, to go on with after an interruption"
    )


class MachineKeys(Keys):
    """Which machines may share a run; every stage records its own."""

    mixed_machines: bool = Field(
        default=True, description="false: refuse a device, processor or release other than the base was scored with"
    )


class TrackKeys(Keys):
    """Who else hears of a stage's numbers; changes no result."""

    report_to: Annotated[
        list[Literal["tensorboard", "wandb", "mlflow", "trackio"]], BeforeValidator(_tracker_names)
    ] = Field(
        default_factory=list, description="experiment trackers, a run for each stage; files are written without them"
    )


class NodeKeys(TrackKeys, MachineKeys, SaveKeys, MechanismKeys, StageKeys, PolicyKeys):
    """All that one node of the tree reads, its texts and labels aside; all but SaveKeys, MachineKeys and TrackKeys
    shapes what it leaves."""


class InputKeys(TreeKeys, TextKeys, NodeKeys):
    """All that is read before anything is trained: the model, the texts, the pairs and the tree of stages."""


class VerdictKeys(Keys):
    """What counts as a change; fixed before the training."""

    margin_tolerance: float = Field(
        default=0.1, gt=0, lt=1, description="mean-margin change that counts as none, as a share of what was learned"
    )
    accuracy_tolerance: float = Field(default=0.02, gt=0, lt=0.5, description="accuracy change that counts as none")
    flip_tolerance: float = Field(
        default=0.02, gt=0, lt=0.5, description="share of flipped pairs beyond the control stages' that counts as none"
    )
    confidence: float = Field(
        default=0.95, ge=0.8, lt=1, description="1 - confidence: risk of a wrong claim, all cells"
    )
    looks: int = Field(
        default=1, ge=1, le=10, description="numbers of control stages at which recipes are tested; they share the risk"
    )


class DesignKeys(VerdictKeys, InputKeys):
    """What decides what a study can show."""


def _check_order(number: int, order: list[str], names: list[str]) -> None:
    unknown = [name for name in order if name not in names]
    if unknown:
        raise ValueError(
            f"orders, entry {number}: {unknown[0]!r} is no objective of this study; expected {', '.join(names)}"
        )
    if not order or len(set(order)) != len(order):
        raise ValueError(f"orders, entry {number} = {order}; expected each objective at most once, at least one")
