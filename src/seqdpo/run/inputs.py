"""Everything a study needs before a weight is loaded: its preferences, read, split and tokenised."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from seqdpo.cache import cache_dir
from seqdpo.errors import ConfigError, DataError, Problems
from seqdpo.lab import preferences as lab_preferences
from seqdpo.lab.model import lab_model_path
from seqdpo.policy.checks import check_weight_files
from seqdpo.policy.load import ParameterCount, count_parameters, load_config, load_tokenizer, model_hash
from seqdpo.preferences.pairs import Candidates
from seqdpo.preferences.prepare import Preferences, prepare
from seqdpo.preferences.sources import read_candidates
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.run.continuation import check_continuation
from seqdpo.run.folder import RunFolder, check_output_dir
from seqdpo.run.records import stage_identity
from seqdpo.study.config import Study
from seqdpo.study.objectives import LabObjective, Objective

#: The model_name_or_path of the built-in model.
LAB = "lab"

Progress = Callable[[str], None]


class Inputs(NamedTuple):
    """All that a study is made from, read and found right; no weights."""

    study: Study  # its model's path resolved
    parameters: ParameterCount
    preferences: Preferences
    identity: dict[str, Any]


def read_inputs(study: Study, progress: Progress) -> Inputs:
    """Raises: ConfigError and DataError for whatever is wrong with the model's files, the data or the template."""
    resolved = with_model_path(study, progress)
    parameters = count_parameters(resolved)
    check_weight_files(resolved)
    preferences, _ = read_preferences(resolved, progress)
    model = model_hash(resolved, progress)
    identity = stage_identity(resolved, model, preferences.content_hash(), preferences.chat_template_hash)
    return Inputs(resolved, parameters, preferences, identity)


def with_model_path(study: Study, progress: Progress) -> Study:
    """The study with the lab's name replaced by its folder; it is trained on first use."""
    if study.model_name_or_path != LAB:
        return study
    try:
        return study.model_copy(update={"model_name_or_path": str(lab_model_path(progress))})
    except OSError as error:
        raise ConfigError(
            f"{cache_dir()}: the lab's model cannot be kept there: {error.strerror or error}; expected a folder to "
            "write in. Name another one with the environment variable SEQDPO_CACHE."
        ) from error


def read_preferences(study: Study, progress: Progress) -> tuple[Preferences, Tokeniser]:
    """The preferences of a study whose model path is resolved.

    Raises: ConfigError and DataError for whatever is wrong with the model's folder, the data or the template.
    """
    problems = Problems()
    with problems.collected():
        check_max_length(study)
    with problems.collected():
        tokeniser = Tokeniser(load_tokenizer(study), study.max_length, study.excess_length_strategy)
    candidates = {}
    for name, objective in study.objectives.items():
        with problems.collected():
            candidates[name] = _candidates(name, objective)
    problems.raise_all()
    preferences = prepare(study, candidates, tokeniser, progress)
    _check_vocabulary(study, preferences, tokeniser)
    return preferences, tokeniser


def check_max_length(study: Study) -> None:
    """Raises: ConfigError if the model cannot read sequences of max_length."""
    longest = getattr(load_config(study).get_text_config(), "max_position_embeddings", None)
    if longest is not None and study.max_length > longest:
        raise ConfigError(
            f"max_length = {study.max_length}: the model of {study.model_name_or_path!r} reads at most {longest} "
            f"tokens; expected at most that. Set max_length: {longest}."
        )


def _check_vocabulary(study: Study, preferences: Preferences, tokeniser: Tokeniser) -> None:
    """A token beyond the embedding would end the run inside torch, on some accelerators without a word."""
    size = getattr(load_config(study).get_text_config(), "vocab_size", None)
    if size is None:
        return
    for name, objective in preferences.objectives.items():
        for pair, tokens in [*objective.train, *objective.eval]:
            highest = max(int(ids.max()) for ids in tokens[:3])
            if highest >= size:
                raise DataError(
                    f"objective {name!r}, pair {pair.pair_id}: the token {tokeniser.tokenizer.decode([highest])!r} has "
                    f"id {highest}, but the model of {study.model_name_or_path!r} has {size} tokens; expected ids "
                    "below that. Give the tokenizer that belongs to the model, or a model with room for its tokens."
                )


def _candidates(name: str, objective: Objective) -> Candidates:
    if isinstance(objective, LabObjective):
        return lab_preferences.candidates(name, objective)
    return read_candidates(objective)


def check_study(study: Study, progress: Progress) -> tuple[Preferences, Tokeniser]:
    """Everything that `run` would look at before it loads weights.

    Raises: one error that names every problem of the output folder, the model, the data and the template.
    """
    problems = Problems()
    with problems.collected():
        check_output_dir(Path(study.output_dir))
        check_continuation(RunFolder(Path(study.output_dir)), study, {})
    with problems.collected():
        study = with_model_path(study, progress)
        with problems.collected():
            count_parameters(study)
            check_weight_files(study)
        with problems.collected():
            checked = read_preferences(study, progress)
    problems.raise_all()
    return checked
