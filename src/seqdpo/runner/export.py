"""`seqdpo export`: the adapter of a variant in a folder of its own, to load or to serve."""

import shutil
from pathlib import Path
from typing import NamedTuple

from seqdpo.errors import ArgumentError, ConfigError
from seqdpo.files import folder_written_whole, read_sealed, write_text
from seqdpo.lab.model import lab_model_path
from seqdpo.layout import NODE_FILE, check_run_folder
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.records import read_record
from seqdpo.study.checkpoints import Node, is_together, parse_order, taught_together
from seqdpo.study.keys import TreeKeys
from seqdpo.study.stored import read_study
from seqdpo.study.tree import tracks
from seqdpo.wording import did_you_mean, listed

PLAIN = "plain"
LAB_MODEL = "lab"


class Exported(NamedTuple):
    """What was written, and how it is loaded."""

    node: Node
    lines: list[str]  # of Python


def export(root: Path, target: Path, variant: str, order: str | None = None, seed: int | None = None) -> Exported:
    """Copies the adapter at the end of an order, with its checksums verified.

    `variant`: of the study, `plain` for its own keys; `order` and `seed` are needed where there are several, but for
    the seed, which else is the first.

    Raises: ConfigError if the folder is no study's run or the stage is not done; ArgumentError for a variant, order or
        seed that it does not have, or a target that is there; DataError if the adapter is spoilt.
    """
    folder = RunFolder(root)
    check_run_folder(folder)
    study = read_study(folder)
    node = _end(study, variant, order, seed)
    if target.exists():
        raise ArgumentError(["dir"], f" = {str(target)!r}: is there already; expected a new folder. Name another.")
    identity = read_sealed(folder.manifest).get("identity") or {}
    source = folder.adapter(node)
    if source is None or read_record(folder, node, identity) is None:
        raise ConfigError(
            f"{folder.stage(node) / NODE_FILE}: no such file; expected a finished stage. Run the study again."
        )
    base = str(lab_model_path()) if study.model_name_or_path == LAB_MODEL else study.model_name_or_path
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        f"base = AutoModelForCausalLM.from_pretrained({base!r})",
        f"policy = PeftModel.from_pretrained(base, {str(target)!r})",
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    with folder_written_whole(target) as path:
        shutil.copytree(source, path, dirs_exist_ok=True)
        write_text(path / "README.md", _readme(node, base, lines))
    return Exported(node, lines)


def _end(keys: TreeKeys, variant: str, order: str | None, seed: int | None) -> Node:
    """The last stage of the order that is meant."""
    known = [PLAIN, *keys.variants]
    if variant not in known:
        near = did_you_mean(variant, known)
        raise ArgumentError(["variant"], f" = {variant!r}: not in this run; expected one of {listed(known)}.{near}")
    joint = variant != PLAIN and keys.variants[variant].joint
    wanted = "" if variant == PLAIN or joint else variant
    ends = [
        Node(0, path, 0, wanted).upto(len(path))
        for path, own in tracks(keys)
        if own == wanted and is_together(path[0]) == joint
    ]
    names = [end.checkpoint for end in ends]
    if order is not None:
        ends = [end for end in ends if order in (end.checkpoint, end.plain.checkpoint) or _is_joint_of(end, order)]
    if len(ends) != 1:
        found = "not given" if order is None else f"{order!r}"
        raise ArgumentError(["order"], f" = {found}: expected one of {listed(names)}. Name one.")
    seeds = keys.seeds
    if seed is not None and seed not in seeds:
        raise ArgumentError(["seed"], f" = {seed}: not in this run; expected one of {', '.join(map(str, seeds))}.")
    return Node(seeds[0] if seed is None else seed, ends[0].path, 0, ends[0].variant)


def _is_joint_of(end: Node, order: str) -> bool:
    return is_together(end.path[0]) and set(parse_order(order)) == set(taught_together(end.path[0]))


def _readme(node: Node, base: str, lines: list[str]) -> str:
    code = "\n".join(lines)
    return (
        f"# {node.checkpoint}, seed {node.seed}\n\nA LoRA adapter on `{base}`, written by seqdpo. PEFT loads it, and "
        f"so does whatever serves PEFT's adapters.\n\n```python\n{code}\n```\n"
    )
