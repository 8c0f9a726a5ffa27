"""Runs of one study from several machines, joined: the stages of the others go into the first run's folder."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqdpo.errors import ConfigError, DataError
from seqdpo.files import file_hash, folder_written_whole, read_sealed, read_table, write_sealed, write_text
from seqdpo.layout import NODE_FILE, check_run_folder
from seqdpo.runner.continuation import MAX_LISTED
from seqdpo.runner.findings import stored_manifest, write_findings
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.records import SpoiltError, adapter_hash, read_record, variant_hashes
from seqdpo.study.checkpoints import Node
from seqdpo.study.file import study_yaml
from seqdpo.study.keys import Keys, TreeKeys
from seqdpo.study.stored import differing_keys, joined, read_study
from seqdpo.study.tree import stage_tree

#: How far the base's log-probabilities may differ between machines, relative to their size: sums in another order.
SAME_BASE = 1e-4


def merge_runs(into: RunFolder, others: Sequence[RunFolder]) -> list[Node]:
    """Copies the finished stages that `into` lacks, and writes its findings anew; returns those stages.

    Raises: ConfigError if one is no run folder, or of another study, or the joined tree has stages that no run did;
        DataError if a stage is spoilt or of other inputs, or two runs trained the same stage to other weights.
    """
    for folder in (into, *others):
        check_run_folder(folder)
    study = read_study(into)
    identity = _identity(into)
    with into.locked():
        copied: list[Node] = []
        variants = study.variants
        for other in others:
            theirs = read_study(other)
            _check_same_study(into, study, other, theirs)
            _check_same_base(into, other)
            variants = variants | theirs.variants
            copied += _copy_stages(into, other, theirs, identity | variant_hashes(variants))
            study = joined(study, theirs)
        write_text(into.study, study_yaml(study))
        manifest = stored_manifest(into)
        manifest["identity"] = manifest["identity"] | variant_hashes(variants)
        write_sealed(into.manifest, manifest | {"files": {}})
        into.log("merged", runs=[str(other.root) for other in others], stages=[node.folder for node in copied])
        write_findings(into)
    return copied


def _identity(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = read_sealed(folder.stage(None) / NODE_FILE).get("identity") or {}
    return found


def _check_same_study(into: RunFolder, study: Keys, other: RunFolder, theirs: Keys) -> None:
    problems = [f"{key} = {there!r} there, {here!r} here" for key, here, there in differing_keys(study, theirs)]
    if problems:
        raise ConfigError(
            f"{other.root}: is of another study than {into.root}: {'; '.join(problems[:MAX_LISTED])}. Expected runs "
            "that differ in orders, seeds and control stages only. Merge others."
        )


def _check_same_base(into: RunFolder, other: RunFolder) -> None:
    """Margins of all stages will be against the first run's base."""
    mine, yours = (read_table(folder.stage(None) / "scores.parquet") for folder in (into, other))
    same_pairs = mine["pair_id"].equals(yours["pair_id"])
    columns = ("chosen_logp", "rejected_logp")
    if not same_pairs or not all(
        np.allclose(mine[name], yours[name], rtol=SAME_BASE, atol=0, equal_nan=True) for name in columns
    ):
        raise DataError(
            f"{other.root}: its base says something else of the held-out pairs than that of {into.root}; expected the "
            "same pairs and log-probabilities. The runs differ in data, precision or engine, and cannot be joined."
        )


def _copy_stages(into: RunFolder, other: RunFolder, theirs: TreeKeys, identity: Mapping[str, Any]) -> list[Node]:
    copied = []
    for node in stage_tree(theirs):
        theirs_record = _whole(other, node, identity)
        if theirs_record is None:
            continue
        if _whole(into, node, identity) is None:
            _copy(other.stage(node), into.stage(node))
            copied.append(node)
        elif adapter_hash(into, node) != adapter_hash(other, node):
            raise DataError(
                f"{other.stage(node)}: has other weights than {into.stage(node)}; expected each stage to be trained "
                "once. Move one of them away, with the stages that began from it."
            )
    return copied


def _whole(folder: RunFolder, node: Node, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return read_record(folder, node, identity)
    except SpoiltError as error:
        raise DataError(f"{error} Run the study again in {folder.root}: it will compute the stage again.") from None


def _copy(source: Path, target: Path) -> None:
    with folder_written_whole(target) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
        for file in source.rglob("*"):
            assert file.is_dir() or file_hash(file) == file_hash(temporary / file.relative_to(source))
