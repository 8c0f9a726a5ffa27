"""Which nodes of the tree are left, and which of them may run now. None stands for the base, which is scored first."""

import shutil
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from seqdpo.errors import DataError
from seqdpo.files import file_hash, set_aside
from seqdpo.layout import NODE_FILE, TRAINED_FILE, WEIGHTS_FILE
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.known_hashes import KnownHashes
from seqdpo.runner.records import MADE_FROM, SpoiltError, adapter_hash, read_record
from seqdpo.study.checkpoints import Node, checkpoint_of
from seqdpo.study.keys import TreeKeys, Variant
from seqdpo.study.tree import needs, stage_tree


def unfinished(
    folder: RunFolder, keys: TreeKeys, identity: dict[str, Any], say: Callable[[str], None]
) -> list[Node | None]:
    """The nodes that are still to be done, parents first.

    What is spoilt is set aside, said, and among them again. A stage whose parent is among them is believed until that
    is there again, and must be looked at once more.
    Raises: DataError if a stage is another one than its folder says, was made with other keys or inputs, or was
        trained from another checkpoint than the one that is there now.
    """
    if not folder.has_finished_stage():
        _forget_other_base(folder, identity)
    left: dict[Node | None, None] = {}  # an ordered set
    known = KnownHashes(folder)
    adapters: dict[Node | None, str | None] = {None: None}  # by stage, what its record says; its file agrees
    for node in [None, *stage_tree(keys)]:
        record = believed(folder, node, identity, say, known.of)
        if record is None:
            left[node] = None
        elif node is not None:
            adapters[node] = record["files"].get(f"adapter/{WEIGHTS_FILE}") or adapter_hash(folder, node)
            for name, other in zip(MADE_FROM, needs(node, keys.variants), strict=False):
                if other not in left:
                    _check_made_from(folder, node, record.get(name), other, adapters[other])
    known.keep()
    return list(left)


def _forget_other_base(folder: RunFolder, identity: dict[str, Any]) -> None:
    """Takes away the base's scores of a study that was corrected before any stage of it was done."""
    try:
        read_record(folder, None, identity)
    except SpoiltError:
        return
    except DataError:
        shutil.rmtree(folder.stage(None))


def believed(
    folder: RunFolder,
    node: Node | None,
    identity: dict[str, Any],
    say: Callable[[str], None],
    hash_of: Callable[[Path], str] = file_hash,
) -> dict[str, Any] | None:
    """The record of a finished stage; None of one that is not done, and of which nothing is left but what is whole.

    Raises: DataError as `unfinished`.
    """
    stage = folder.stage(node)
    try:
        record = read_record(folder, node, identity, hash_of=hash_of)
    except SpoiltError as error:
        record, found, spoilt = None, str(error), error.file
    else:
        found, spoilt = f"{stage}: holds no whole stage.", stage
    if record is None and stage.exists() and not _is_whole(folder, node, identity, spoilt):
        aside = set_aside(spoilt if _was_trained(folder, node, identity) else stage)
        (stage / NODE_FILE).unlink(missing_ok=True)
        kept = f"It is kept as {aside.name} and computed again." if aside.exists() else "It is computed again."
        say(f"{found} {kept}")
        folder.log("set_aside", what=str(aside), checkpoint=checkpoint_of(node))
    return record


def _is_whole(folder: RunFolder, node: Node | None, identity: dict[str, Any], spoilt: Path) -> bool:
    """Whether nothing has to be moved away: what is there was trained, or only scored, and waits to be measured."""
    return spoilt == folder.stage(node) and _was_trained(folder, node, identity)


def _was_trained(folder: RunFolder, node: Node | None, identity: dict[str, Any]) -> bool:
    """Whether the stage's adapter and what belongs to it are there and whole; the base needs none."""
    try:
        return node is None or read_record(folder, node, identity, TRAINED_FILE) is not None
    except SpoiltError:
        return False


def _check_made_from(
    folder: RunFolder, node: Node, recorded: str | None, other: Node | None, adapter: str | None
) -> None:
    if recorded != adapter:
        raise DataError(
            f"{folder.stage(node)}: was trained from another checkpoint than {folder.stage(other)} has. "
            "Move this stage's folder away and run again."
        )


class Frontier:
    """The nodes left, and which of them may run: those whose needs are done. A walk takes as many steps as nodes."""

    def __init__(self, left: Sequence[Node | None], variants: Mapping[str, Variant] = MappingProxyType({})) -> None:
        waiting = set(left)
        self._ready: deque[Node | None] = deque()
        self._waiting_for: dict[Node, set[Node | None]] = {}
        self._children: dict[Node | None, list[Node]] = defaultdict(list)
        for node in left:
            missing = set() if node is None else waiting.intersection(needs(node, variants))
            if node is None or not missing:
                self._ready.append(node)
                continue
            self._waiting_for[node] = missing
            for other in missing:
                self._children[other].append(node)

    def take(self, at_most: int) -> list[Node | None]:
        """Nodes that may run now, and are not given again."""
        return [self._ready.popleft() for _ in range(min(at_most, len(self._ready)))]

    def give_back(self, node: Node | None) -> None:
        """It was taken, and not done."""
        self._ready.appendleft(node)

    def done(self, node: Node | None) -> None:
        for child in self._children.pop(node, ()):
            self._waiting_for[child].discard(node)
            if not self._waiting_for[child]:
                self._ready.append(child)
