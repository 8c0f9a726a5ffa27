"""Checkpoints, the base and what each stage leaves, and the grammar of their names: the only place that knows it.

A checkpoint is named by the objectives from the base on, `helpful>harmless`; that of a control stage by the real
checkpoint beside it and a number, `helpful>harmless~placebo1`. An order is named like the checkpoint at its end.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

#: The name of the untrained model among the checkpoints.
BASE = "base"
_THEN = ">"
_THEN_IN_A_SHELL = "/"  # no name of an objective has it
_CONTROL = "~placebo"


class Checkpoint(NamedTuple):
    """The base, or what a stage leaves."""

    path: tuple[str, ...]  # the objectives from the base to here; () is the base
    placebo: int = 0  # 0: of a real stage; k: of the k-th control stage beside it

    @classmethod
    def parse(cls, name: str) -> Self:
        """The checkpoint of a name.

        Raises: ValueError if it is not a name of one.
        """
        path, control, number = name.partition(_CONTROL)
        if control and not re.fullmatch("[1-9][0-9]*", number):
            raise ValueError(f"{name!r} is no name of a checkpoint; expected a number after {_CONTROL!r}")
        return cls(parse_order(path), int(number or 0))

    @property
    def name(self) -> str:
        return order_name(self.path) + (f"{_CONTROL}{self.placebo}" if self.placebo else "")

    @property
    def pieces(self) -> tuple[str, ...]:
        """The name in pieces; a line may end after each."""
        *earlier, last = self.path or (BASE,)
        return (*(name + _THEN for name in earlier), last, *([f"{_CONTROL}{self.placebo}"] if self.placebo else []))

    @property
    def stage(self) -> int:
        """1 for what the first stage leaves; 0 for the base."""
        return len(self.path)

    def since(self, earlier: Self) -> tuple[str, ...]:
        """The objectives that were trained from an earlier checkpoint of the same path to here."""
        return self.path[earlier.stage :]


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """One stage of a study: it trains the last objective of its path from the checkpoint of the one before."""

    seed: int
    path: tuple[str, ...]  # the objectives from the base to here
    placebo: int = 0  # 0: the real stage; k: the k-th control stage beside it

    @property
    def objective(self) -> str:
        return self.path[-1]

    @property
    def stage(self) -> int:
        """1 for the first stage after the base."""
        return len(self.path)

    @property
    def parent(self) -> Self | None:
        """The stage whose checkpoint this one starts from; None: the base."""
        return type(self)(self.seed, self.path[:-1]) if self.stage > 1 else None

    @property
    def checkpoint(self) -> str:
        """The name of the checkpoint that the stage leaves."""
        return Checkpoint(self.path, self.placebo).name

    @property
    def folder(self) -> str:
        """The name of the stage's folder, safe on every file system."""
        last = f"placebo{self.placebo}-{self.objective}" if self.placebo else self.objective
        return ".".join([f"seed{self.seed}", *self.path[:-1], last])


def checkpoint_of(node: Node | None) -> str:
    """The name of the checkpoint that a stage leaves; of the base for None."""
    return BASE if node is None else node.checkpoint


def folder_name(node: Node | None) -> str:
    """The name of a stage's folder; of the base's for None."""
    return BASE if node is None else node.folder


def order_name(order: tuple[str, ...]) -> str:
    """The objectives of an order as one name."""
    return _THEN.join(order) or BASE


def parse_order(name: str) -> tuple[str, ...]:
    """The objectives of a name that `order_name` made."""
    return () if name == BASE else tuple(name.split(_THEN))


def typed(name: str) -> str:
    """A name as typed in a shell, which takes a bare `>` for itself: helpful/harmless is helpful>harmless."""
    return name.replace(_THEN_IN_A_SHELL, _THEN)


def in_a_shell(names: Sequence[str]) -> str:
    """' In a shell: …', where one of the names has what a shell takes for itself."""
    name = next((name for name in names if _THEN in name), None)
    return "" if name is None else f" In a shell: {name.replace(_THEN, _THEN_IN_A_SHELL)}, or between quotes."


def reference_of(node: Node, reference: str) -> Node | None:
    """The stage whose checkpoint is the reference of `node`'s loss; None: the base.

    `reference` is the study's key. With `stage:<k>`, the stages up to k, which cannot look ahead, take the base.
    """
    if reference == "base":
        return None
    if reference == "previous":
        return node.parent
    k = int(reference.removeprefix("stage:"))
    return Node(node.seed, node.path[:k]) if k < node.stage else None
