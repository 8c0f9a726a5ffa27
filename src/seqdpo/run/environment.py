"""What a result depends on besides the study: versions, device, code."""

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import seqdpo
from seqdpo.policy.load import device

PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors"),
    *("pyarrow", "numpy", "scipy", "statsmodels"),
)


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
        "cuda": torch.version.cuda,
        "command": " ".join(sys.argv),
    }


def processor() -> str | None:
    """The CPU's name, by which torch and we choose how to multiply."""
    return torch.cpu.get_capabilities().get("cpu_name")


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far: on the accelerator where there is one, else resident."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux, bytes on macOS


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
