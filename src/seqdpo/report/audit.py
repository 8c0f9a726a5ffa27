"""What an audit found of each checkpoint: what it is, what it stands on, how it is loaded, and what is odd about it."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

Record = Mapping[str, Any]

IMPORTS = ("import torch", "from peft import PeftModel", "from transformers import AutoModelForCausalLM")


def checkpoint_facts(manifest: Record) -> dict[str, str]:
    """Label and text of each checkpoint; none of a study's run, which trained its own."""
    return {f"checkpoint {one['checkpoint']}": _sentence(one) for one in manifest.get("checkpoints", [])}


def loading_lines(manifest: Record) -> Iterator[str]:
    """Python that makes each checkpoint's model; none of a study's run."""
    checkpoints = manifest.get("checkpoints", [])
    if checkpoints:
        yield from IMPORTS
    for one in checkpoints:
        yield ""
        yield f"# {one['checkpoint']}"
        yield from one["python"]


def print_checkpoints(console: Console, manifest: Record) -> None:
    """A few lines for each checkpoint, and how they are loaded."""
    for one in manifest["checkpoints"]:
        console.print(f"{one['checkpoint']}: {_what(one)}")
        for note in one["notes"]:
            console.print(f"  - {note}")
    console.print()


def print_loading(console: Console, manifest: Record) -> None:
    """How the last checkpoint of each kind of standing is loaded; report.md has all of them."""
    console.print("To load them:")
    for line in manifest["checkpoints"][-1]["python"]:
        console.print(f"  {line}", soft_wrap=True)
    if manifest["vllm"]:
        console.print(f"  {manifest['vllm']}", soft_wrap=True)


def _sentence(one: Record) -> str:
    notes = "".join(f"; {note}" for note in one["notes"])
    return f"{_what(one)}{notes}"


def _what(one: Record) -> str:
    rank = f", rank {one['rank']}" if one["rank"] else ""
    return f"{one['kind']}{rank}, on {one['stands_on']}; {one['path']}"
