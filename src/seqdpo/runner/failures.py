"""What a failure of a run means to its user."""

from pathlib import Path

import torch

from seqdpo.errors import RunError


def run_error(error: Exception, log: Path) -> RunError:
    """The failure of a run or of a node as an error that names its log."""
    hint = (
        " One pair alone does not fit: lower max_length, or set gradient_checkpointing: true."
        if isinstance(error, torch.OutOfMemoryError)
        else ""
    )
    return RunError(f"{error}{hint}\nLog: {log}")
