"""generations.parquet: what every checkpoint of a run answers to the same held-out prompts."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import pyarrow as pa

from seqdpo.analysis.pair_table import expect_one_of
from seqdpo.files import read_sealed, write_sealed, write_table
from seqdpo.layout import check_run_folder
from seqdpo.policy.by_vllm import ByVllm
from seqdpo.policy.foreign import Standing
from seqdpo.policy.generate import Answering, ByTransformers
from seqdpo.policy.lineage import lineage, with_references
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

#: Tokens of an answer at most, unless another number is asked for.
MAX_NEW_TOKENS = 256
EngineName: TypeAlias = Literal["transformers", "vllm"]
_Prompts: TypeAlias = dict[str, list[PreparedPair]]  # by objective


class _Checkpoint(NamedTuple):
    seed: int
    name: str
    standing: Standing


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
    engine: EngineName = "transformers",
) -> Run:
    """Writes what every real checkpoint answers to the first `n` held-out prompts of some objectives, or of all.

    The first ones by pair_id, a hash, so that they are drawn as by chance; a prompt counts once.
    Raises: ConfigError if it is no finished run, its model or data are gone, or the engine cannot answer as its
        checkpoints; ArgumentError for an objective that the run does not have; RunError where vLLM fails.
    """
    folder = RunFolder(Path(root))
    check_run_folder(folder)
    read_run(root)  # refuses what is not finished, before a model is loaded
    asked = _asked(folder, say)
    names = [expect_one_of("objective", name, asked.preferences.objectives) for name in objectives]
    with folder.locked():
        prompts = {
            name: _prompts(asked.preferences.objectives[name].eval, n) for name in names or asked.preferences.objectives
        }
        say(f"loading {asked.keys.model_name_or_path}")
        answering = _answering(engine, asked, prompts, max_new_tokens)
        rows: list[dict[str, Any]] = []
        for checkpoint in asked.checkpoints:
            say(f"{checkpoint.name}: answers {sum(map(len, prompts.values()))} prompts")
            rows += _answers(answering, checkpoint, prompts, asked.tokeniser)
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
    yield _Checkpoint(keys.seeds[0], BASE, Standing())
    for node in stage_tree(keys):
        if not node.placebo:
            yield _Checkpoint(node.seed, node.checkpoint, Standing(adapter=folder.adapter(node)))


def _of_audit(audit: Audit) -> Iterator[_Checkpoint]:
    yield _Checkpoint(0, BASE, Standing())
    for member in lineage(audit):
        yield _Checkpoint(0, member.name, member.standing)


def _prompts(pairs: Sequence[PreparedPair], n: int) -> list[PreparedPair]:
    first = {prepared.tokens.prompt.tobytes(): prepared for prepared in reversed(pairs)}
    return sorted(first.values(), key=lambda prepared: prepared.pair.pair_id)[:n]


def _answering(engine: EngineName, asked: _Asked, prompts: _Prompts, limit: int) -> Answering:
    eos_token_id = asked.tokeniser.tokenizer.eos_token_id
    if engine == "transformers":
        return ByTransformers(asked.keys, eos_token_id, limit)
    standings = [(checkpoint.name, checkpoint.standing) for checkpoint in asked.checkpoints]
    longest = max(len(prepared.tokens.prompt) for of in prompts.values() for prepared in of)
    return ByVllm(asked.keys, standings, eos_token_id, longest, limit)


def _answers(
    answering: Answering, checkpoint: _Checkpoint, prompts: _Prompts, tokeniser: Tokeniser
) -> Iterator[dict[str, Any]]:
    asked = [(objective, prepared) for objective, of in prompts.items() for prepared in of]
    found = answering.answers(checkpoint.standing, [prepared.tokens.prompt for _, prepared in asked])
    for (objective, prepared), answer in zip(asked, found, strict=True):
        yield {
            "seed": checkpoint.seed,
            "checkpoint": checkpoint.name,
            "objective": objective,
            "pair_id": prepared.pair.pair_id,
            "response": tokeniser.tokenizer.decode(answer.ids, skip_special_tokens=True),
            "tokens": len(answer.ids),
            "ended": answer.ended,
            "engine": answering.name,
        }
