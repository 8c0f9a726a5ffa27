"""Puts what a run is on the hub there: each repository whole, by one commit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqdpo.errors import ConfigError
from seqdpo.hub import why_not_written
from seqdpo.report.publication import LINEAGE_FILE, Repository
from seqdpo.wording import reason

_OF_ITSELF = {".gitattributes", "README.md"}


def push(repositories: Sequence[Repository], public: bool) -> Iterator[str]:
    """Publishes the repositories in their order; yields the address of each when it is there.

    A commit is made when all its files have been sent, so what is interrupted publishes nothing of its repository.
    Raises: ConfigError if there is no token, the hub refuses or cannot be reached, or a repository has other files.
    """
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise ConfigError(
            "push: no token of the hub; expected one that may write. Log in: hf auth login, or set HF_TOKEN."
        )
    api = HfApi()
    done: list[str] = []
    for one in repositories:
        with _refusals_told(one, done):
            _check_is_ours(api, one)
    for one in repositories:
        with _refusals_told(one, done):
            yield _published(api, one, public)
        done.append(one.name)


def _check_is_ours(api: Any, one: Repository) -> None:
    """Raises: ConfigError if the repository holds files that no push has put there."""
    from huggingface_hub import errors

    try:
        there = {file.rfilename for file in api.repo_info(one.name, repo_type=one.kind).siblings or ()}
    except errors.RepositoryNotFoundError:
        return
    if there - _OF_ITSELF and not there & {LINEAGE_FILE, "results.json"}:
        raise ConfigError(
            f"{one.name}: there is a {one.kind} of that name on the hub, with files such as {min(there - _OF_ITSELF)}; "
            "expected none, or one that seqdpo pushed. Choose another name."
        )


def _published(api: Any, one: Repository, public: bool) -> str:
    from huggingface_hub import CommitOperationAdd

    api.create_repo(one.name, repo_type=one.kind, private=not public, exist_ok=True)
    operations = [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in one.files.items()
    ]
    commit = api.create_commit(one.name, operations, repo_type=one.kind, commit_message="seqdpo push")
    return str(commit.repo_url)


@contextmanager
def _refusals_told(one: Repository, done: Sequence[str]) -> Iterator[None]:
    """What the hub's client raises as one message, which never has the token in it."""
    from huggingface_hub import get_token

    try:
        yield
    except (ConfigError, KeyboardInterrupt):
        raise
    except Exception as error:
        why = why_not_written(error) or f"The hub's client failed: {reason(error)}"
        whole = f" {', '.join(done)} is whole there." if done else ""
        text = f"push: {one.kind} {one.name}: {why} No file of it was published.{whole}"
        raise ConfigError(text.replace(get_token() or "\0", "***")) from None


def size(content: Path | bytes) -> int:
    """Bytes of a file that is to be published."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size
