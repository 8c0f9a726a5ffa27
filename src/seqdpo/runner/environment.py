"""What a result depends on besides the study: versions, device, code."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import seqdpo
from seqdpo.policy.load import device
from seqdpo.policy.ranks import this_process

PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors"),
    *("pyarrow", "numpy", "scipy"),
)

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def environment() -> dict[str, Any]:
    """Versions, device and code of this process, as manifest.json and `seqdpo env` show them."""
    return {
        "seqdpo": seqdpo.__version__,
        "git_commit": _git_commit(Path(seqdpo.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": _device_name(),
        "cpu": processor(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "processes": this_process().size,
        "cuda": torch.version.cuda,
        "command": " ".join(sys.argv),
    }


def processor() -> str | None:
    """The CPU's name, by which torch and we choose how to multiply."""
    return torch.cpu.get_capabilities().get("cpu_name")


def peak_memory_meter() -> Callable[[], int | None]:
    """Begins to watch; the function says the most bytes held since: on the accelerator if there is one, else resident.

    It gives None where the system only tells the peak of the whole process. A new meter resets an earlier one.
    """
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated
    try:
        _CLEAR_REFS.write_text("5")  # resets VmHWM: proc(5)
    except OSError:  # not Linux, or a container that does not allow it
        return lambda: None
    return lambda: _resident("VmHWM")


def _resident(field: str) -> int | None:
    """Bytes of one line of /proc/self/status."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    kilobytes = next((line.split()[1] for line in lines if line.startswith(f"{field}:")), None)
    return None if kilobytes is None else int(kilobytes) * 1024


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device_name() -> str:
    found = device()
    return torch.cuda.get_device_name(found) if found.type == "cuda" else found.type


def _git_commit(folder: Path) -> str | None:
    """The commit of the source tree, with `+changes` where files differ from it; None for an installed package."""
    try:
        run = ["git", "-C", str(folder)]
        commit = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        tracked = subprocess.run([*run, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=False)
        changes = subprocess.run([*run, "status", "--porcelain", "."], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    if tracked.returncode != 0:
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
