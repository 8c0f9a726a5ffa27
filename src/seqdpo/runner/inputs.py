"""Everything a study needs before a weight is loaded: its preferences, read, split and tokenised."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from seqdpo.cache import cache_dir
from seqdpo.errors import ConfigError, DataError, Problems
from seqdpo.lab.model import lab_model_path
from seqdpo.policy.load import check_weights, count_parameters, load_config, load_tokenizer
from seqdpo.policy.trial import foresee_adapter
from seqdpo.preferences.advice import advice
from seqdpo.preferences.prepare import Preferences, prepare
from seqdpo.preferences.sources import read_candidates
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.runner.continuation import check_continuation
from seqdpo.runner.design import check_learning_rates
from seqdpo.runner.folder import RunFolder, check_output_dir
from seqdpo.study.config import Study

#: The model_name_or_path of the built-in model.
LAB = "lab"

Progress = Callable[[str], None]


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
        tokeniser = Tokeniser(
            load_tokenizer(study),
            study.max_length,
            study.excess_length_strategy,
            chat_template_kwargs=study.chat_template_kwargs,
        )
    candidates = {}
    for name, objective in study.objectives.items():
        with problems.collected():
            candidates[name] = read_candidates(name, objective)
    problems.raise_all()
    preferences = prepare(study, candidates, tokeniser, progress)
    _check_vocabulary(study, preferences, tokeniser)
    check_learning_rates(study, preferences)
    return replace(preferences, advice=tuple(advice(preferences, tokeniser, study))), tokeniser


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
        for pair, tokens in objective.pairs:
            highest = max(int(ids.max()) for ids in tokens[:3])
            if highest >= size:
                raise DataError(
                    f"objective {name!r}, pair {pair.pair_id}: the token {tokeniser.tokenizer.decode([highest])!r} has "
                    f"id {highest}, but the model of {study.model_name_or_path!r} has {size} tokens; expected ids "
                    "below that. Give the tokenizer that belongs to the model, or a model with room for its tokens."
                )


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
            for note in foresee_adapter(study, study):
                progress(note)
            check_weights(study)
        with problems.collected():
            checked = read_preferences(study, progress)
    problems.raise_all()
    return checked
