"""Inside a training of TRL or transformers: what it does to what the model had learned before.

from seqdpo.trl import PreferenceRetentionCallback

callback = PreferenceRetentionCallback({"helpful": "data/helpful-test.jsonl"}, learned="helpful", every=50)
trainer = DPOTrainer(model, args=args, train_dataset=harmless, processing_class=tokenizer, callbacks=[callback])
trainer.train()                          # logs retention/helpful/margin, accuracy, kept; leaves OUTPUT_DIR/retention
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from seqdpo.errors import ConfigError
from seqdpo.policy.library import put_first
from seqdpo.policy.logps import base_of
from seqdpo.runner.retention import Retention, Scores, Watched, begin_retention

log = logging.getLogger(__name__)


class PreferenceRetentionCallback(TrainerCallback):
    """Scores the held-out pairs of earlier objectives at the start, every so many steps, and at the end.

    For `trl.DPOTrainer` and any other `transformers.Trainer` (SFT, KTO, GRPO, ...). The training is not touched: its
    weights are those of a training without the callback. Every pair is scored, in batches of the callback's own.

    Args:
        objectives: pairs by objective: a file, a folder or a hub id, a `datasets.Dataset` in TRL's preference format,
            or the keys of an objective as in a study file.
        every: steps between two scorings; None: at the start and the end only.
        reference: what margins are against. "base": the model with its adapter switched off; "start": the model as it
            was when the training began; or a model.
        learned: the objective that the model had learned before this training; the findings judge what is left of it.
            None where this is its first training.
        trains: a name for what this training trains; one of `objectives` where there are pairs of it.
        stop_if_lost: ends the training once more than this share of what an objective had at the start is lost with
            confidence. The risk of a wrong stop, 1 - confidence, is shared out over objectives and planned scorings.
        output_dir: the run folder; `retention` in the trainer's output_dir if None.
        tokenizer: that of the trainer if None.
        keys: `max_length`, `max_eval_pairs`, `confidence`, ... as in an audit.

    Raises: ConfigError and DataError when the training begins, for whatever is wrong with these.
    """

    def __init__(
        self,
        objectives: Mapping[str, Any],
        *,
        every: int | None = None,
        reference: str | nn.Module = "base",
        learned: str | None = None,
        trains: str = "new",
        stop_if_lost: float | None = None,
        output_dir: str | Path | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **keys: Any,
    ) -> None:
        self._watched = Watched(dict(objectives), learned, trains, keys)
        self._every, self._reference, self._stop_if_lost = every, reference, stop_if_lost
        self._output_dir, self._tokenizer = output_dir, tokenizer
        self._retention: Retention | None = None
        self._last: tuple[int, Scores] | None = None
        self._waiting: dict[str, float] = {}  # for the trainer's next log
        _check(every, reference, learned, stop_if_lost)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        processing_class: Any = None,
        **others: Any,
    ) -> None:
        """Scores the reference and the start, and writes them down; of a training that is resumed they are there."""
        assert model is not None
        _check_whole(args)
        _check_language_model(model)
        if not state.is_world_process_zero:
            return
        if not put_first(self):
            log.warning("the trainer's trackers are not found; retention/* goes into the trainer's log_history only")
        self._retention = begin_retention(
            model,
            _reference_of(model, self._reference),
            _tokenizer_of(self._tokenizer or processing_class),
            Path(self._output_dir or Path(args.output_dir) / "retention"),
            str(base_of(model).config.name_or_path or type(base_of(model)).__name__),
            self._watched,
            state.global_step,
        )
        if self._retention.rows:  # a training that is resumed
            return
        if state.global_step:
            log.warning("no start of this training is known: it is compared with step %d", state.global_step)
        metrics = _flat(self._retention.measure(state.global_step, self._retention.start))
        state.log_history.append({**metrics, "epoch": state.epoch, "step": state.global_step})

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **others: Any,
    ) -> TrainerControl:
        """Scores where it is time, asks for a log, and for an end where too much is lost."""
        retention = self._retention
        last = state.global_step >= state.max_steps or control.should_training_stop
        if retention is None or not (last or (self._every and state.global_step % self._every == 0)):
            return control
        assert model is not None
        scores = retention.scored(model)
        self._last = (state.global_step, scores)
        self._waiting = _flat(retention.measure(state.global_step, scores))
        control.should_log = True
        if self._stop_if_lost is not None:
            level = (1 - retention.audit.confidence) / (self._n_scorings(state) * len(scores))
            lost = retention.lost(scores, self._stop_if_lost, level)
            if lost:
                log.warning("more than %.0f%% of %s is lost: stopping", 100 * self._stop_if_lost, " and ".join(lost))
                control.should_training_stop = True
        return control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **others: Any
    ) -> None:
        """What waits goes with the trainer's own numbers to its trackers and into its history."""
        if logs is not None and self._waiting:
            logs.update(self._waiting)
            state.log_history[-1].update(self._waiting)
            self._waiting = {}

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **others: Any,
    ) -> None:
        """Writes the last checkpoint and the findings."""
        if self._retention is None:
            return
        assert model is not None
        step, scores = self._last or (-1, {})
        if step != state.global_step:  # ended between two scorings
            scores = self._retention.scored(model)
            self._retention.measure(state.global_step, scores)
        self._retention.write_end(state.global_step, scores, _facts(self._watched, model, args.output_dir))

    def _n_scorings(self, state: TrainerState) -> int:
        return math.ceil(state.max_steps / self._every) if self._every else 1


def _check(every: int | None, reference: str | nn.Module, learned: str | None, stop_if_lost: float | None) -> None:
    if every is not None and every < 1:
        raise ConfigError(f"every = {every}; expected a number of steps from 1, or None.")
    if isinstance(reference, str) and reference not in ("base", "start"):
        raise ConfigError(f"reference = {reference!r}; expected 'base', 'start' or a model.")
    if reference == "start" and learned is not None:
        raise ConfigError(
            f"reference = 'start', learned = {learned!r}: against the start itself, nothing was learned before it; "
            "expected another reference. Give reference='base', or the model that learned was trained from."
        )
    if stop_if_lost is not None and not 0 < stop_if_lost < 1:
        raise ConfigError(f"stop_if_lost = {stop_if_lost}; expected a share between 0 and 1, or None.")


def _check_whole(args: TrainingArguments) -> None:
    """A process that has only a part of the weights cannot score alone."""
    plugin = getattr(args, "deepspeed_plugin", None)
    if getattr(args, "fsdp", None) or (plugin is not None and plugin.zero_stage == 3):
        raise ConfigError(
            "PreferenceRetentionCallback: the weights are spread over processes (FSDP or ZeRO-3); expected whole ones "
            "in each. Score the checkpoints afterwards with seqdpo audit."
        )


def _check_language_model(model: nn.Module) -> None:
    base = base_of(model)
    if base.get_output_embeddings() is None:
        raise ConfigError(
            f"PreferenceRetentionCallback: {type(base).__name__} gives no probabilities of tokens; expected a causal "
            "language model. Leave the callback out of this training."
        )


def _reference_of(model: nn.Module, reference: str | nn.Module) -> nn.Module | None:
    if isinstance(reference, nn.Module):
        return reference
    if reference == "start":
        return model
    if not isinstance(model, PeftModel):
        raise ConfigError(
            f"reference = 'base': {type(model).__name__} has no adapter to switch off; expected a model of PEFT. Give "
            "reference='start', or the model that margins are to be against."
        )
    return None


def _tokenizer_of(given: Any) -> PreTrainedTokenizerBase:
    tokenizer = getattr(given, "tokenizer", given)  # of a processor
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigError(
            "PreferenceRetentionCallback: the trainer has no tokenizer (processing_class); expected one. Give the "
            "callback its tokenizer."
        )
    return tokenizer


def _flat(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"retention/{name}/{key}": value for name, of in found.items() for key, value in of.items()}


def _facts(watched: Watched, model: nn.Module, output_dir: str) -> dict[str, Any]:
    """What the manifest says of the checkpoints."""
    kind = "adapter" if isinstance(model, PeftModel) else "model"
    base: dict[str, Any] = {"kind": kind, "rank": None, "stands_on": "base", "notes": []}
    end = watched.trains if watched.learned is None else f"{watched.learned}>{watched.trains}"
    start = [] if watched.learned is None else [base | {"checkpoint": watched.learned, "path": "(start)", "python": []}]
    line = f"policy = PeftModel.from_pretrained(base, {output_dir!r})"
    loaded = [line] if kind == "adapter" else [f"policy = AutoModelForCausalLM.from_pretrained({output_dir!r})"]
    return {"checkpoints": [*start, base | {"checkpoint": end, "path": output_dir, "python": loaded}]}
