"""What the datasets library reads: folders that it saved, and the hub."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqdpo.errors import ConfigError, DataError
from seqdpo.hub import DATASET_ID, hub_or_cache, kept_snapshot, why_not
from seqdpo.preferences.files import data_extension, nonempty, not_found
from seqdpo.preferences.sources.sides import Splits, Table
from seqdpo.wording import first_line

_ROWS_AT_ONCE = 256
_MEDIA = ("Image", "Audio", "Video", "Pdf")  # features that want libraries of their own to be decoded


def saved_splits(folder: Path) -> Splits:
    """A folder written by `save_to_disk` of the datasets library."""
    import datasets  # late: a second to import, and most sources do without it

    try:
        with _quiet():
            saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # of many kinds; all mean that the folder is not what it looks like
        raise DataError(
            f"{folder}: cannot be loaded ({first_line(error)}); expected a folder as save_to_disk leaves it. "
            "Save it again."
        ) from error
    return _dataset_splits({"": saved} if isinstance(saved, datasets.Dataset) else saved, str(folder))


def hub_splits(name: str, revision: str | None, place: Mapping[str, str | None]) -> Splits:
    """A dataset of the hub; `place` has the configuration (`name`) or the folder (`data_dir`) in it."""
    if not DATASET_ID.fullmatch(name) or data_extension(Path(name)):
        raise ConfigError(
            not_found("dataset_name", name) + " Check the path, or give a hub id such as 'Anthropic/hh-rlhf'."
        )
    try:
        loaded = load_from_hub(name, name=place.get("name"), data_dir=place.get("data_dir"), revision=revision)
    except Exception as error:  # from datasets, huggingface_hub and its HTTP client, of many kinds
        because = why_not("dataset", name, revision, error) or _library_reason(error)
        raise ConfigError(f"{not_found('dataset_name', name)} {because}") from error
    return _dataset_splits(loaded, name)


def load_from_hub(
    dataset_id: str, *, name: str | None, data_dir: str | None, revision: str | None
) -> Mapping[str, Iterable[dict[str, Any]]]:
    """All splits of a dataset on the hub, from the local cache where it has them."""
    import datasets

    with _quiet(), hub_or_cache("dataset", dataset_id, revision):
        loaded: Mapping[str, Iterable[dict[str, Any]]] = datasets.load_dataset(
            kept_snapshot(dataset_id, revision) or dataset_id, name=name, data_dir=data_dir, revision=revision
        )
    return loaded


def _dataset_splits(splits: Mapping[str, Iterable[dict[str, Any]]], name: str) -> Splits:
    result: Splits = {}
    for split, rows in splits.items():
        where = f"{name} ({split})" if split else name
        result[split] = [Table(where, nonempty(_undecoded(rows), where))]
    return result


def _undecoded(rows: Any) -> Iterable[dict[str, Any]]:
    """The rows, pictures and sounds in them as they are stored: who trains on text need not have what decodes them."""
    features = repr(getattr(rows, "features", None))
    if not any(f"{media}(" in features for media in _MEDIA):
        yield from rows
        return
    for table in rows.with_format("arrow").iter(_ROWS_AT_ONCE):
        yield from table.to_pylist()


def _library_reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"From the hub it could not be loaded: {first_line(error)}. Check subset and dataset_revision."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps progress bars and notices of the datasets library off the user's screen."""
    import datasets

    had_bars = not datasets.are_progress_bars_disabled()
    verbosity = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        if had_bars:
            datasets.enable_progress_bars()
        datasets.logging.set_verbosity(verbosity)
