"""One configuration of another tool: what of it a study takes over, and what is left out and why."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from seqdpo.errors import ConfigError
from seqdpo.study.config import Study
from seqdpo.study.losses import LOSSES
from seqdpo.study.other_tools import INSTEAD, OURS
from seqdpo.study.problems import problems_of
from seqdpo.wording import brief

#: What a study needs beside the key that is looked at.
_REST = {"model_name_or_path": "any", "output_dir": "any", "setting": "hh-rlhf"}
_NO_SUCH = "seqdpo has no such key"
OFF = "switched off or unset there: nothing is lost"
#: What several tools say of an adapter or a loss that a study does not have.
INSTEAD_HERE = {
    **dict.fromkeys(
        ("peft_use_dora", "pissa_init", "additional_target", "lora_modules_to_save", "peft_layers_to_transform"),
        INSTEAD["use_dora"],
    ),
    **dict.fromkeys(("rpo_alpha", "pref_ftx", "pref_bco_weight"), "a loss beside DPO's: a study trains DPO's alone"),
    **dict.fromkeys(("f_divergence_type", "use_weighting", "dpo_use_weighting"), "another form of the loss"),
    "trust_remote_code": "code of a model is not run unless you say so. Set trust_remote_code: true if it needs that",
    "output_dir": "that folder holds what the other tool wrote; the study gets a run folder of its own",
    "special_tokens": "the tokenizer's own special tokens are used",
}


class Tool(NamedTuple):
    """Another tool, as far as its files say."""

    name: str
    #: Keys that only its files have.
    marks: frozenset[str]
    #: What it does where a file says nothing, under our keys.
    defaults: Mapping[str, Any]
    #: Takes what is its own from a file: what it trains, the data, the precision.
    read: "Callable[[StageFile], None]"
    #: How a stage after the first begins.
    begins: "Callable[[StageFile, StageFile], Start]"


class Start(NamedTuple):
    """How a later stage begins, in a study's words, and in a sentence."""

    reference: str
    adapter_mode: str
    told: str


class Written(NamedTuple):
    """A value for the study, and where it comes from."""

    value: Any
    origin: str
    by_default: bool = False  # the file says nothing; the tool does this by itself


@dataclass
class StageFile:
    """A configuration while it is read; `given` holds what no one has looked at yet."""

    path: Path
    tool: Tool
    given: dict[str, Any]
    written: dict[str, Written] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)  # reason -> `key = value`
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    objectives: dict[str, dict[str, Any]] = field(default_factory=dict)
    adapter: Any = None  # that the stage begins from, as the file names it
    output_dir: Any = None  # where its tool leaves the adapter
    merged_adapter: bool = False  # it is merged into the base, and a new one is trained

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, which then counts as looked at."""
        return self.given.pop(key, default)

    def leave(self, key: str, value: Any, why: str) -> None:
        """Says that a key has no place in the study."""
        self.left.setdefault(why.removesuffix(". Remove it"), []).append(f"{key} = {brief(value, 40)}")

    def write(self, ours: str, value: Any, theirs: str) -> None:
        """Puts a value into the study, or says why it cannot stand there."""
        try:
            checked = getattr(Study.model_validate(_REST | {ours: value}), ours)
        except ValidationError:
            found = problems_of(_REST | {ours: value}, Study)[0]
            self.leave(theirs, value, found.partition("; ")[2] or found)
            if not Study.model_fields[ours].is_required():
                default = Study.model_fields[ours].get_default(call_default_factory=True)
                self.written[ours] = Written(default, f"in place of {theirs} = {brief(value, 40)}")
        else:
            self.written[ours] = Written(checked, theirs)

    def fill(self, ours: str, value: Any, how: str = "") -> None:
        """Puts what the tool does by itself into the study, where the file says nothing."""
        origin = f"{self.tool.name}'s default{how and f': {how}'}"
        self.written.setdefault(ours, Written(value, origin, by_default=True))

    def read(self) -> "StageFile":
        """Reads the whole file.

        Raises: ConfigError if it is no training that a study can hold.
        """
        rank_stabilised = self.take("use_rslora") or self.take("peft_use_rslora")
        self.output_dir = self.given.get("output_dir")
        self.tool.read(self)
        for key in list(self.given):
            self._read_key(key, self.given.pop(key))
        if self.problems:
            raise ConfigError("\n".join(f"{self.path}: {problem}." for problem in self.problems))
        for ours, value in self.tool.defaults.items():
            if ours != "warmup_ratio" or "warmup_steps" not in self.written:
                self.fill(ours, value)
        if rank_stabilised:
            self._write_scale()
        return self

    def _read_key(self, theirs: str, value: Any) -> None:
        ours = theirs if theirs in Study.model_fields else OURS.get(theirs)
        if theirs in INSTEAD_HERE or ours is None:
            why = INSTEAD_HERE.get(theirs) or INSTEAD.get(theirs, _NO_SUCH)
            self.leave(theirs, value, OFF if value in (False, 0, "none", "no", []) else why)
        else:
            _SPECIAL.get(ours, StageFile.write)(self, ours, value, theirs)

    def _write_scale(self) -> None:
        """rsLoRA divides alpha by the root of the rank: plain LoRA with a larger alpha is the same adapter."""
        rank, alpha = self.written["lora_r"].value, self.written["lora_alpha"].value
        told = f"the scale of rsLoRA: {alpha:g} x sqrt({rank})"
        self.written["lora_alpha"] = Written(alpha * rank**0.5, told)


def _write_targets(file: StageFile, ours: str, value: Any, theirs: str) -> None:
    """`all`, a list, or names between commas."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    every = names in (["all"], ["all-linear"])
    file.write(ours, "all-linear" if every else names, theirs)


def _write_loss(file: StageFile, ours: str, value: Any, theirs: str) -> None:
    """TRL takes a list of losses; another loss would be another study."""
    losses = value if isinstance(value, list) else [name.strip() for name in str(value).split(",")]
    if len(losses) == 1 and losses[0] in [*LOSSES]:
        file.write(ours, losses[0], theirs)
    else:
        file.problems.append(f"{theirs} = {brief(value)}; expected one of {', '.join(LOSSES)}")


def _write_warmup(file: StageFile, ours: str, value: Any, theirs: str) -> None:
    """transformers reads warm-up steps below 1 as a share of all steps."""
    share = isinstance(value, float) and 0 < value < 1
    file.write("warmup_ratio" if share else ours, value, theirs)


def _write_revision(file: StageFile, ours: str, value: Any, theirs: str) -> None:
    if value != "main":
        file.write(ours, value, theirs)


def _write_template(file: StageFile, ours: str, value: Any, theirs: str) -> None:
    """A Jinja file is read; names of templates are the tools' own."""
    if str(value).endswith((".jinja", ".j2")) or Path(str(value)).is_dir():
        file.write(ours, value, theirs)
    elif value != "tokenizer_default":
        why = "the model's own chat template is read. For another one give a Jinja file as chat_template_path; "
        file.leave(theirs, value, why + "compare with: seqdpo check STUDY.yaml --show 2")


def _write_held_out(file: StageFile, ours: str, value: Any, theirs: str) -> None:
    """A share is ours; a number of rows, or none at all, is not."""
    if isinstance(value, int | float) and 0 < value < 1:
        file.write(ours, value, theirs)
    else:
        why = "a study always holds out pairs, by prompt and as a share: eval_fraction, max_eval_pairs"
        file.leave(theirs, value, why)


def _write_checkpointing(file: StageFile, ours: str, value: Any, theirs: str) -> None:
    file.write(ours, bool(value), theirs)


_SPECIAL: Mapping[str, Callable[[StageFile, str, Any, str], None]] = {
    "lora_target_modules": _write_targets,
    "loss_type": _write_loss,
    "warmup_steps": _write_warmup,
    "model_revision": _write_revision,
    "chat_template_path": _write_template,
    "eval_fraction": _write_held_out,
    "gradient_checkpointing": _write_checkpointing,
}
