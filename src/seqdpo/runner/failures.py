"""What a failure of a run means to its user."""

from pathlib import Path

import torch

from seqdpo.errors import RunError


def run_error(error: Exception, log: Path) -> RunError:
    """The failure of a run or of a node as an error that names its log."""
    return RunError(f"{error}{_hint(error)}\nLog: {log}")


def _hint(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return " One pair alone does not fit: lower max_length, or set gradient_checkpointing: true."
    if isinstance(error, OSError):
        return " Finished stages are safe: mend that, and run the same command again to go on after them."
    return ""
