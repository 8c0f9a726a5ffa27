"""Everything a study needs before a weight is loaded: its preferences, read, split and tokenised."""

from collections.abc import Callable
from typing import TypeVar

from seqdpo.errors import ConfigError, DataError, Problems
from seqdpo.lab.model import lab_model_path
from seqdpo.policy.load import context_length, load_config, load_tokenizer
from seqdpo.preferences.held_out import held_out_candidates
from seqdpo.preferences.prepare import Preferences, prepare
from seqdpo.preferences.sources import read_candidates
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.runner.design import check_learning_rates
from seqdpo.study.audit import Audit
from seqdpo.study.keys import InputKeys, ModelKeys, TextKeys

#: The model_name_or_path of the built-in model.
LAB = "lab"

Progress = Callable[[str], None]
K = TypeVar("K", bound=ModelKeys)


def with_model_path(keys: K) -> K:
    """The keys with the lab's name replaced by its folder."""
    if keys.model_name_or_path != LAB:
        return keys
    return keys.model_copy(update={"model_name_or_path": str(lab_model_path())})


def read_preferences(keys: InputKeys, progress: Progress) -> tuple[Preferences, Tokeniser]:
    """The preferences of a study whose model path is resolved.

    Raises: ConfigError and DataError for whatever is wrong with the model's folder, the data or the template.
    """
    problems = Problems()
    with problems.collected():
        tokeniser = _tokeniser(keys, keys)
    candidates = {}
    for name, objective in keys.objectives.items():
        with problems.collected():
            candidates[name] = read_candidates(name, objective)
    problems.raise_all()
    preferences = prepare(keys, candidates, tokeniser, progress)
    _check_vocabulary(keys, preferences, tokeniser)
    check_learning_rates(keys, preferences)
    return preferences, tokeniser


def read_held_out(audit: Audit, progress: Progress) -> tuple[Preferences, Tokeniser]:
    """The preferences of an audit whose model path is resolved, all of them held out.

    Raises: as `read_preferences`.
    """
    problems = Problems()
    with problems.collected():
        tokeniser = _tokeniser(audit, audit)
    with problems.collected():
        candidates = held_out_candidates(audit.objectives, audit.trained_on)
    problems.raise_all()
    preferences = prepare(audit.tree(), candidates, tokeniser, progress)
    _check_vocabulary(audit, preferences, tokeniser)
    return preferences, tokeniser


def _tokeniser(keys: ModelKeys, text: TextKeys) -> Tokeniser:
    problems = Problems()
    with problems.collected():
        check_max_length(keys, text)
    with problems.collected():
        tokeniser = Tokeniser(
            load_tokenizer(keys),
            text.max_length,
            text.excess_length_strategy,
            chat_template_kwargs=keys.chat_template_kwargs,
        )
    problems.raise_all()
    return tokeniser


def check_max_length(keys: ModelKeys, text: TextKeys) -> None:
    """Raises: ConfigError if the model cannot read sequences of max_length."""
    longest = context_length(keys)
    if longest is not None and text.max_length > longest:
        raise ConfigError(
            f"max_length = {text.max_length}: the model of {keys.model_name_or_path!r} reads at most {longest} "
            f"tokens; expected at most that. Set max_length: {longest}."
        )


def _check_vocabulary(keys: ModelKeys, preferences: Preferences, tokeniser: Tokeniser) -> None:
    """A token beyond the embedding would end the run inside torch, on some accelerators without a word."""
    size = getattr(load_config(keys).get_text_config(), "vocab_size", None)
    if size is None:
        return
    for name, objective in preferences.objectives.items():
        for pair, tokens in objective.pairs:
            highest = max(int(ids.max()) for ids in tokens[:3])
            if highest >= size:
                raise DataError(
                    f"objective {name!r}, pair {pair.pair_id}: the token {tokeniser.tokenizer.decode([highest])!r} has "
                    f"id {highest}, but the model of {keys.model_name_or_path!r} has {size} tokens; expected ids "
                    "below that. Give the tokenizer that belongs to the model, or a model with room for its tokens."
                )
