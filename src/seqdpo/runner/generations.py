"""generations.parquet: what every checkpoint of a run answers to the same held-out prompts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from torch import nn
from transformers import PreTrainedModel

from seqdpo.errors import ArgumentError
from seqdpo.files import read_sealed, write_sealed, write_table
from seqdpo.layout import check_run_folder
from seqdpo.policy.adapters import loaded_adapter
from seqdpo.policy.foreign import foreign_policy
from seqdpo.policy.generate import answer, end_ids
from seqdpo.policy.lineage import lineage, with_references
from seqdpo.policy.load import load_model
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.report.finished import Run, read_run
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.inputs import read_held_out, read_preferences, with_model_path
from seqdpo.study.audit import Audit
from seqdpo.study.checkpoints import BASE
from seqdpo.study.keys import ModelKeys, TreeKeys
from seqdpo.study.stored import read_stored
from seqdpo.study.tree import stage_tree
from seqdpo.tables import GENERATIONS_SCHEMA
from seqdpo.wording import did_you_mean, listed

#: Tokens of an answer at most, unless another number is asked for.
MAX_NEW_TOKENS = 256


class _Checkpoint(NamedTuple):
    seed: int
    name: str
    policy: Callable[[PreTrainedModel], AbstractContextManager[nn.Module]]


class _Asked(NamedTuple):
    """A run, ready to answer."""

    keys: ModelKeys
    preferences: Preferences
    tokeniser: Tokeniser
    checkpoints: list[_Checkpoint]


def generate(
    root: str | Path,
    n: int,
    objectives: Sequence[str] = (),
    max_new_tokens: int = MAX_NEW_TOKENS,
    say: Callable[[str], None] = lambda text: None,
) -> Run:
    """Writes what every real checkpoint answers to the first `n` held-out prompts of some objectives, or of all.

    The first ones by pair_id, a hash, so that they are drawn as by chance; a prompt counts once.
    Raises: ConfigError if it is no finished run, or its model or data are gone; ArgumentError for an objective that
        the run does not have.
    """
    folder = RunFolder(Path(root))
    check_run_folder(folder)
    read_run(root)  # refuses what is not finished, before a model is loaded
    asked = _asked(folder, say)
    _check_objectives(objectives, asked.preferences)
    with folder.locked():
        say(f"loading {asked.keys.model_name_or_path}")
        base = load_model(asked.keys)
        prompts = {name: _prompts(asked.preferences.objectives[name].eval, n) for name in objectives or _names(asked)}
        rows: list[dict[str, Any]] = []
        for checkpoint in asked.checkpoints:
            say(f"{checkpoint.name}: answers {sum(map(len, prompts.values()))} prompts")
            with checkpoint.policy(base) as policy:
                rows += _answers(policy, checkpoint, prompts, asked.tokeniser, max_new_tokens)
        write_table(folder.generations, pa.Table.from_pylist(rows, GENERATIONS_SCHEMA))
        manifest = read_sealed(folder.manifest)
        files = manifest["files"] | folder.hashes(folder.generations)
        write_sealed(folder.manifest, manifest | {"files": files})
        folder.log("generated", prompts=sum(map(len, prompts.values())), checkpoints=len(asked.checkpoints))
    return read_run(root)


def generate_as_asked(root: str | Path, n: int, say: Callable[[str], None]) -> None:
    """What `generate: n` of a study asks for, of a run that has no answers yet."""
    if n and not RunFolder(Path(root)).generations.is_file():
        generate(root, n, say=say)


def _asked(folder: RunFolder, say: Callable[[str], None]) -> _Asked:
    stored = with_model_path(read_stored(folder))
    if isinstance(stored, Audit):
        audit = with_references(stored)
        preferences, tokeniser = read_held_out(audit, say)
        return _Asked(audit, preferences, tokeniser, list(_of_audit(audit)))
    preferences, tokeniser = read_preferences(stored, say)
    return _Asked(stored, preferences, tokeniser, list(_of_study(stored, folder)))


def _of_study(keys: TreeKeys, folder: RunFolder) -> Iterator[_Checkpoint]:
    yield _Checkpoint(keys.seeds[0], BASE, partial(loaded_adapter, folder=None))
    for node in stage_tree(keys):
        if not node.placebo:
            yield _Checkpoint(node.seed, node.checkpoint, partial(loaded_adapter, folder=folder.adapter(node)))


def _of_audit(audit: Audit) -> Iterator[_Checkpoint]:
    yield _Checkpoint(0, BASE, partial(loaded_adapter, folder=None))
    for member in lineage(audit):
        yield _Checkpoint(0, member.name, partial(foreign_policy, standing=member.standing, keys=audit))


def _names(asked: _Asked) -> list[str]:
    return list(asked.preferences.objectives)


def _check_objectives(objectives: Sequence[str], preferences: Preferences) -> None:
    for name in objectives:
        if name not in preferences.objectives:
            known = preferences.objectives
            raise ArgumentError(
                ["objective"], f" = {name!r}: not in this run; expected {listed(known)}.{did_you_mean(name, known)}"
            )


def _prompts(pairs: Sequence[PreparedPair], n: int) -> list[PreparedPair]:
    first = {prepared.tokens.prompt.tobytes(): prepared for prepared in reversed(pairs)}
    return sorted(first.values(), key=lambda prepared: prepared.pair.pair_id)[:n]


def _answers(
    policy: nn.Module,
    checkpoint: _Checkpoint,
    prompts: dict[str, list[PreparedPair]],
    tokeniser: Tokeniser,
    max_new_tokens: int,
) -> Iterator[dict[str, Any]]:
    tokenizer = tokeniser.tokenizer
    ends = end_ids(policy, tokenizer.eos_token_id)
    for objective, pairs in prompts.items():
        for prepared in pairs:
            found = answer(policy, prepared.tokens.prompt, max_new_tokens, ends)
            yield {
                "seed": checkpoint.seed,
                "checkpoint": checkpoint.name,
                "objective": objective,
                "pair_id": prepared.pair.pair_id,
                "response": tokenizer.decode(found.ids, skip_special_tokens=True),
                "tokens": len(found.ids),
                "ended": found.ended,
            }
