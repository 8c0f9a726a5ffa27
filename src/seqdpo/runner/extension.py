"""A finished run gets more held-out pairs or more objectives, without a stage being trained again.

What its checkpoints are is not touched: their training pairs must be the very same. What is missing is scored under
each of them, into a file beside the scores; only when all are there do they take the place of the old ones, so that an
interrupted extension leaves the run as it was and goes on where it ended.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.errors import ConfigError, DataError
from seqdpo.files import file_hash, read_sealed, read_table, write_sealed, write_table
from seqdpo.layout import NODE_FILE, TRAINED_FILE, WEIGHTS_FILE
from seqdpo.measure.scores import PairLogps
from seqdpo.policy.adapters import loaded_adapter
from seqdpo.policy.trees import token_bytes
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.runner.bench import Bench
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.records import identity_of, read_record
from seqdpo.runner.stage import scores_of
from seqdpo.study.checkpoints import Node, checkpoint_of
from seqdpo.study.keys import TreeKeys
from seqdpo.study.tree import stage_tree

SCORES = "scores.parquet"
#: Tokens of a prompt and of a response to it.
Text: TypeAlias = tuple[bytes, bytes]


class Extension(NamedTuple):
    """What is to be scored, and under which checkpoints."""

    nodes: list[Node | None]  # None: the base
    n_pairs: dict[str, int]  # by objective, those that the run does not have yet


def extension(
    folder: RunFolder, stored: TreeKeys, preferences: Preferences, identity: Mapping[str, Any]
) -> Extension | None:
    """What a run lacks that has been measured on fewer pairs than these; None where these are not more.

    Stages of some other data, and spoilt records, are left to `seqdpo.runner.schedule`.
    Raises: ConfigError if a training pair would change, or a held-out pair would go; DataError if a stage is of
        another study in another way, or is spoilt.
    """
    of_data = {node: _data_of(folder, node) for node in (None, *stage_tree(stored))}
    behind = [node for node, data in of_data.items() if data not in (None, identity["data"])]
    if len({of_data[node] for node in behind}) != 1:
        return None
    n_pairs = _new_pairs(read_table(folder.pairs), preferences)
    if not n_pairs:
        return None
    of_all = {name: value for name, value in identity.items() if name != "data"}
    for node in behind:
        read_record(folder, node, of_all)
    return Extension(behind, n_pairs)


def extend(bench: Bench, what: Extension) -> None:
    """Scores what is missing under every checkpoint, then makes it the run's.

    Raises: ConfigError if a checkpoint's adapter is gone.
    """
    for node in what.nodes:
        _score(bench, node)
    for node in what.nodes:
        _take_over(bench, node)
    bench.folder.log("extended", pairs=what.n_pairs, checkpoints=len(what.nodes))


def _data_of(folder: RunFolder, node: Node | None) -> str | None:
    """None where the node is not done, or its record cannot be read."""
    try:
        found: str | None = (read_sealed(folder.stage(node) / NODE_FILE).get("identity") or {}).get("data")
    except DataError:
        return None
    return found


def _new_pairs(before: pa.Table, preferences: Preferences) -> dict[str, int]:
    """How many held-out pairs each objective gains.

    Raises: ConfigError as `extension`.
    """
    gained = {name: len(objective.eval) for name, objective in preferences.objectives.items()}
    for name in pc.unique(before["objective"]).to_pylist():
        had = {
            split: before.filter((pc.field("objective") == name) & (pc.field("split") == split))["pair_id"].to_pylist()
            for split in ("train", "eval")
        }
        now = preferences.objectives.get(name)
        if now is None or [one.pair.pair_id for one in now.train] != had["train"]:
            raise ConfigError(
                f"objective {name!r}: its training pairs would be others than those that the run's stages learned; "
                "expected the same, so that nothing has to be trained again. Use another output_dir."
            )
        lost = set(had["eval"]) - {one.pair.pair_id for one in now.eval}
        if lost:
            raise ConfigError(
                f"objective {name!r}: {len(lost):,} of its {len(had['eval']):,} held-out pairs would go; expected all "
                "of them and more. Ask for more pairs, or use another output_dir."
            )
        gained[name] -= len(had["eval"])
    return {name: n for name, n in gained.items() if n}


def _score(bench: Bench, node: Node | None) -> None:
    """The checkpoint's scores of all pairs now, old ones as they are, into a file beside the old."""
    path = _beside(bench, node)
    if path.is_file():
        return
    old, held_out = _by_pair(read_table(bench.folder.stage(node) / SCORES)), bench.preferences.held_out
    known: dict[Text, float] = {}
    for name, pairs in held_out.items():
        for one in pairs:
            if (name, one.pair.pair_id) in old:
                known.update(zip(_texts(one), old[name, one.pair.pair_id], strict=True))
    missing = {name: [one for one in pairs if not known.keys() >= set(_texts(one))] for name, pairs in held_out.items()}
    new = _scored(bench, node, {name: pairs for name, pairs in missing.items() if pairs})
    for name, logps in new.items():
        for one, *values in zip(missing[name], *logps, strict=True):
            for text, value in zip(_texts(one), values, strict=True):
                known.setdefault(text, value)
    write_table(path, scores_of(_merged(held_out, old, known), bench.preferences))


def _scored(bench: Bench, node: Node | None, pairs: Mapping[str, list[PreparedPair]]) -> dict[str, PairLogps]:
    adapter = bench.folder.adapter(node)
    if node is None or adapter is None:
        return bench.scored_by_base(pairs)
    if not (adapter / WEIGHTS_FILE).is_file():
        raise ConfigError(
            f"{adapter}: no {WEIGHTS_FILE}, so that {checkpoint_of(node)!r} cannot score more pairs; expected the "
            "adapter that the stage left. Put it back."
        )
    with loaded_adapter(bench.base, adapter) as policy:
        return bench.scored(policy, pairs, node)


def _by_pair(scores: pa.Table) -> dict[tuple[str, str], tuple[float, float]]:
    """The log-probabilities of chosen and rejected response, by objective and pair."""
    columns = ("objective", "pair_id", "chosen_logp", "rejected_logp")
    rows = zip(*(scores[name].to_pylist() for name in columns), strict=True)
    return {(objective, pair_id): (chosen, rejected) for objective, pair_id, chosen, rejected in rows}


def _texts(one: PreparedPair) -> list[Text]:
    return [(token_bytes(one.tokens.prompt), token_bytes(response)) for response in one.tokens.responses]


def _merged(
    held_out: Mapping[str, Sequence[PreparedPair]],
    old: Mapping[tuple[str, str], tuple[float, float]],
    known: Mapping[Text, float],
) -> dict[str, PairLogps]:
    """Pairs that the run had as they are; a response of another that it had, in whatever pair, as it is."""
    rows = {
        name: [old.get((name, one.pair.pair_id)) or [known[text] for text in _texts(one)] for one in pairs]
        for name, pairs in held_out.items()
    }
    return {name: PairLogps(*np.array(row).reshape(-1, 2).T) for name, row in rows.items()}


def _take_over(bench: Bench, node: Node | None) -> None:
    """The new scores in place of the old ones, and records that say so; node.json comes last."""
    stage, identity = bench.folder.stage(node), identity_of(node, bench.identity)
    record, trained = stage / NODE_FILE, stage / TRAINED_FILE
    found = read_sealed(record)
    files = dict(found["files"])
    if trained.is_file():
        write_sealed(trained, read_sealed(trained) | {"identity": identity})
        files[TRAINED_FILE] = file_hash(trained)
    _beside(bench, node).replace(stage / SCORES)
    files[SCORES] = file_hash(stage / SCORES)
    write_sealed(record, found | {"identity": identity, "files": files})


def _beside(bench: Bench, node: Node | None) -> Path:
    """Named by the pairs, so that no other extension takes it for its own."""
    return bench.folder.stage(node) / f"scores-{bench.identity['data'][:16]}.parquet"
