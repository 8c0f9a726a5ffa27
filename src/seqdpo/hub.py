"""The Hugging Face hub: whether it answers for a repository, why it does not give it, which commit its cache holds."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Literal

from seqdpo.errors import RunError
from seqdpo.wording import first_line

Kind = Literal["model", "dataset"]

SECONDS_TO_ANSWER = 10.0
MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
DATASET_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@contextmanager
def hub_or_cache(kind: Kind, repository: str, revision: str | None) -> Iterator[None]:
    """Within, the hub's libraries read only what they have kept if the hub does not answer for this repository.

    Left to themselves they ask again and again, half a minute for each file, and say each time so on the screen; or
    they take another revision, where they have that and the hub has not the one that is asked for.
    Raises: the hub client's error if the hub refuses the repository or the revision.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    trouble = _trouble(kind, repository, revision)
    if trouble is not None and not _passes(trouble):
        raise trouble
    offline, verbosity = constants.HF_HUB_OFFLINE, logging.get_verbosity()
    constants.HF_HUB_OFFLINE = offline or trouble is not None
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)


def why_not(kind: Kind, repository: str, revision: str | None, error: BaseException) -> str | None:
    """Why the hub did not give a repository, and what to do about it; None where it is not the hub that hinders.

    `error` is what a library raised when it loaded the repository within `hub_or_cache`.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set, so the hub is not asked{_not_kept(kind)} Unset it, or {_download(kind)}"
    trouble = _trouble(kind, repository, revision)
    refusal = _refusal(kind, repository) if trouble is None else None
    for one in [refusal, *_chain(error)]:
        told = one and _told(kind, repository, revision, one)
        # of a hub in trouble, what the libraries say is that they do not ask, and that they have not kept a file
        if trouble and one and (_passes(one) or (told is None and isinstance(one, FileNotFoundError))):
            return _told(kind, repository, revision, trouble)
        if told:
            return told
    return None


def why_not_written(error: BaseException) -> str | None:
    """Why the hub did not take what was sent to it, and what to do; None where it is not the hub that hinders."""
    from huggingface_hub import constants, errors

    chain = _chain(error)
    status = next((status for one in chain if (status := _status(one))), None)
    if status == HTTPStatus.UNAUTHORIZED:
        return "The hub does not accept your token (401). For a valid one, log in: hf auth login, or set HF_TOKEN."
    if status == HTTPStatus.FORBIDDEN:
        return (
            "The hub forbids it to your token (403); expected one that may write to this name. Check the owner, and "
            f"make a token that may write: {constants.ENDPOINT}/settings/tokens"
        )
    if any(isinstance(one, errors.RepositoryNotFoundError) for one in chain) or status == HTTPStatus.NOT_FOUND:
        return "The hub has no such owner or name for you (404). Check it, and that your token may write there."
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "The hub fails (429 Too Many Requests). Wait some minutes, and give the same command again."
    if status and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"The hub fails ({status} {HTTPStatus(status).phrase}). Give the same command again later."
    if status:
        return f"The hub refuses it ({status}): {first_line(chain[-1])}. Check the name."
    if any(_is_of_the_network(one) for one in chain):
        return (
            f"The hub could not be reached, or the connection broke off ({constants.ENDPOINT}). Check the network, and "
            "give the same command again."
        )
    return None


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


def is_cached(model_id: str, revision: str, files: Sequence[str]) -> bool:
    """Whether the hub's cache has one of some files of a model."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(model_id, name, revision=revision), str) for name in files)


def kept_snapshot(dataset_id: str, revision: str | None) -> str | None:
    """The folder that has the files of a dataset at a revision, within `hub_or_cache` where the hub is not asked.

    The datasets library has a cache of its own, but finds no dataset of a `data_dir` in it, and knows no revisions.
    None: the hub is asked, or there is only that other cache.
    Raises: the hub client's error if the files of the revision are not there.
    """
    from huggingface_hub import constants, errors, snapshot_download

    if not constants.HF_HUB_OFFLINE:
        return None
    try:
        return snapshot_download(dataset_id, repo_type="dataset", revision=revision, local_files_only=True)
    except errors.LocalEntryNotFoundError:
        if revision is not None:
            raise
        return None


def _trouble(kind: Kind, repository: str, revision: str | None) -> Exception | None:
    """Why the hub does not give a repository; None if it does, or it is left to the libraries to find out."""
    return _asked(kind, repository, revision) if hub_answers() else ConnectionError()


@cache
def _asked(kind: Kind, repository: str, revision: str | None) -> Exception | None:
    """The question that the libraries ask first, without their patience."""
    from huggingface_hub import HfApi, errors

    try:
        HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=SECONDS_TO_ANSWER)
    except Exception as error:
        refused = isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)
        return error if refused or _status(error) in (401, 403) or _passes(error) else None
    return None


def _refusal(kind: Kind, repository: str) -> Exception | None:
    """What the hub says to whether files of a repository may be read; libraries may have lost it."""
    from huggingface_hub import HfApi

    try:
        HfApi().auth_check(repository, repo_type=kind)
    except Exception as error:
        return error
    return None


def _passes(error: Exception) -> bool:
    """Whether an error says something about now, and not about the repository."""
    status = _status(error)
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= 500 if status else _is_of_the_network(error)


def _told(kind: Kind, repository: str, revision: str | None, error: Exception) -> str | None:
    from huggingface_hub import constants, errors

    name, status = type(error).__name__, _status(error)
    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
        return f"On the hub it is gated, and {_you()} may not read it. Ask for access at {page}, then {_log_in()}"
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"The hub has no revision {revision!r} of it; expected a branch, a tag or a commit. Check {kind}_revision."
        )
    if isinstance(error, errors.RepositoryNotFoundError) or name == "DatasetNotFoundError":
        return f"The hub has no {kind} of that name for you. Check the name; if it is private or gated, {_log_in()}"
    if status == HTTPStatus.UNAUTHORIZED:
        return f"The hub does not accept {_you()} (401); expected a valid token. For one, {_log_in()}"
    if status == HTTPStatus.FORBIDDEN:
        return f"The hub forbids it to {_you()} (403); expected a token that may read it. For one, {_log_in()}"
    if status:
        return _failing(kind, HTTPStatus(status)) if _passes(error) else None
    return _unanswered(kind, error) if _is_of_the_network(error) else None


def _unanswered(kind: Kind, error: Exception) -> str:
    from huggingface_hub import constants

    if type(error).__name__ in ("RemoteProtocolError", "ReadError"):
        return (
            f"The hub's answer broke off ({first_line(error)}); expected whole files. Run the same command again, what "
            f"is whole is kept; or {_download(kind)}"
        )
    silent = "Timeout" in type(error).__name__
    found = f"did not answer within {SECONDS_TO_ANSWER:.0f} s" if silent else "could not be reached either"
    return (
        f"The hub {found} ({constants.ENDPOINT}){_not_kept(kind)} Check the path or the network, or {_download(kind)}"
    )


def _failing(kind: Kind, status: HTTPStatus) -> str:
    later = "Wait some minutes" if status == HTTPStatus.TOO_MANY_REQUESTS else "Try again later"
    return f"The hub fails ({status} {status.phrase}){_not_kept(kind)} {later}, or {_download(kind)}"


def _not_kept(kind: Kind) -> str:
    from huggingface_hub import constants

    return f", and the {kind} is not whole in the cache ({constants.HF_HOME})."


def _download(kind: Kind) -> str:
    return f"download the {kind} and give its folder."


def _you() -> str:
    from huggingface_hub import get_token

    return "your token" if get_token() else "you without a login"


def _log_in() -> str:
    return "log in: hf auth login, or set HF_TOKEN."


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of the hub's client stands for."""
    from huggingface_hub import errors

    return error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None


def _is_of_the_network(error: BaseException) -> bool:
    of_the_client = type(error).__module__.startswith(("httpx", "httpcore"))  # by name: another one from time to time
    return isinstance(error, ConnectionError | TimeoutError) or (of_the_client and not hasattr(error, "response"))


def _chain(error: BaseException) -> list[Exception]:
    """What led to an error, first the first, and itself: libraries put the hub's errors into their own."""
    chain = [error]
    while (before := chain[0].__cause__ or chain[0].__context__) is not None and before not in chain:
        chain.insert(0, before)
    return [one for one in chain if isinstance(one, Exception)]
