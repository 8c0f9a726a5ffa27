"""The Hugging Face hub: whether it answers, asked once, and which commit of a model its cache holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from seqdpo.errors import RunError

SECONDS_TO_ANSWER = 10.0


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Within, the hub's libraries read only what they have kept if the hub does not answer.

    Left to themselves they ask again and again, half a minute for each file.
    """
    if hub_answers():
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@cache
def hub_answers() -> bool:
    """Whether the hub can be reached, whatever it says; False under HF_HUB_OFFLINE=1."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS_TO_ANSWER)
    except Exception:  # of the HTTP client, which is another one from version to version
        return False
    return True


def cached_commit(model_id: str, revision: str) -> str:
    """The commit of a model that has just been read through the hub's cache.

    Asked of the cache, whose layout is the hub client's contract: what transformers keeps of it in a configuration
    changes from release to release.
    Raises: RunError if the cache does not have the model's configuration.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    config = try_to_load_from_cache(model_id, "config.json", revision=revision)
    if not isinstance(config, str):
        raise RunError(
            f"{constants.HF_HUB_CACHE}: no config.json of {model_id!r} at {revision!r}; expected it where the model "
            "was just read from. Set HF_HUB_CACHE to a folder to write in, or download the model and give its folder."
        )
    return Path(config).parent.name  # …/snapshots/<commit>/config.json
