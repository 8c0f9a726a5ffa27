"""An error that nobody foresaw: its traceback goes into a file, and its user reads one screen."""

import os
import tempfile
import traceback
from pathlib import Path

from seqdpo.errors import RunError
from seqdpo.runner.folder import RunFolder
from seqdpo.wording import reason


def crashed(error: Exception, root: Path | None = None) -> RunError:
    """What to tell of an error of no kind that is meant for users, once its traceback is kept.

    In events.jsonl of the run folder `root` where a run had begun there, else in a new file of the system's folder
    for temporary files.
    """
    log = _kept("".join(traceback.format_exception(error)), root)
    where = "" if log is None else f" The traceback is in {log}."
    safe = "No file is left half-written."
    if root is not None:
        safe = f"Finished stages are safe in {root}: run the same command again to go on after them."
    whose = "Nobody foresaw this, so it is a fault of seqdpo or of a library, not of your study."
    report = "Report it with that and with what `seqdpo env` prints."
    if isinstance(error, OSError):  # a full disk, a folder that has gone
        whose, report = "The system refused it.", "Mend that, or report it."
    if isinstance(error, MemoryError) or "allocate memory" in str(error):  # torch's own is a RuntimeError
        whose, report = "The memory does not suffice.", "Give it more, or lower max_length or max_train_pairs."
    return RunError(f"{type(error).__name__}: {reason(error)} {whose} {safe}{where} {report}")


def _kept(text: str, root: Path | None) -> Path | None:
    """The file that has the traceback; None where nothing can be written."""
    try:
        if root is not None and RunFolder(root).events.is_file():
            RunFolder(root).log("crashed", traceback=text)
            return RunFolder(root).events
    except OSError:
        pass
    try:
        handle, name = tempfile.mkstemp(prefix="seqdpo-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return None
    return Path(name)
