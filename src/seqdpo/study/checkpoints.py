"""Checkpoints, the base and what each stage leaves, and the grammar of their names: the only place that knows it.

A checkpoint is named by the objectives from the base on, `helpful>harmless`; that of a control stage by the real
checkpoint beside it and a number, `helpful>harmless~placebo1`. Where the later stages had other keys than the study's,
the name of that variant follows the objectives, `helpful>harmless@replay~placebo1`. A stage on several objectives at
once is named by all of them, `helpful+harmless`. An order is named like the checkpoint at its end.
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
_VARIANT = "@"
_TOGETHER = "+"  # no name of a study's objective has it


class Checkpoint(NamedTuple):
    """The base, or what a stage leaves."""

    path: tuple[str, ...]  # the objectives from the base to here; () is the base
    placebo: int = 0  # 0: of a real stage; k: of the k-th control stage beside it
    variant: str = ""  # of the later stages' keys; "": the study's own, as of every first stage

    @classmethod
    def parse(cls, name: str) -> Self:
        """The checkpoint of a name.

        Raises: ValueError if it is not a name of one.
        """
        path, control, number = name.partition(_CONTROL)
        if control and not re.fullmatch("[1-9][0-9]*", number):
            raise ValueError(f"{name!r} is no name of a checkpoint; expected a number after {_CONTROL!r}")
        found = cls(parse_order(path), int(number or 0), variant_of(path))
        if _VARIANT in path and (not found.variant or found.stage < 2):
            raise ValueError(
                f"{name!r} is no name of a checkpoint; expected {_VARIANT!r} and a variant after two or more"
            )
        return found

    @property
    def name(self) -> str:
        return "".join((order_name(self.path, self.variant), *self._control))

    @property
    def pieces(self) -> tuple[str, ...]:
        """The name in pieces; a line may end after each."""
        *earlier, last = self.path or (BASE,)
        variant = (f"{_VARIANT}{self.variant}",) if self.variant else ()
        return (*(name + _THEN for name in earlier), last, *variant, *self._control)

    @property
    def _control(self) -> tuple[str, ...]:
        return (f"{_CONTROL}{self.placebo}",) if self.placebo else ()

    @property
    def stage(self) -> int:
        """1 for what the first stage leaves; 0 for the base."""
        return len(self.path)

    def since(self, earlier: Self) -> tuple[str, ...]:
        """The objectives that were trained from an earlier checkpoint of the same path to here."""
        return self.path[earlier.stage :]

    def upto(self, stage: int) -> Self:
        """The real checkpoint that so many stages of its path leave; all variants share those of the first."""
        return type(self)(self.path[:stage], 0, self.variant if stage > 1 else "")


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """One stage of a study: it trains the last objective of its path from the checkpoint of the one before."""

    seed: int
    path: tuple[str, ...]  # the objectives from the base to here
    placebo: int = 0  # 0: the real stage; k: the k-th control stage beside it
    variant: str = ""  # whose keys it is trained with; "": the study's own

    @classmethod
    def of(cls, seed: int, checkpoint: Checkpoint) -> Self:
        """The stage that left a checkpoint."""
        return cls(seed, checkpoint.path, checkpoint.placebo, checkpoint.variant)

    @property
    def objective(self) -> str:
        return self.path[-1]

    @property
    def objectives(self) -> tuple[str, ...]:
        """Those that it trains: one, but for a stage on several at once."""
        return taught_together(self.objective)

    @property
    def stage(self) -> int:
        """1 for the first stage after the base."""
        return len(self.path)

    @property
    def parent(self) -> Self | None:
        """The stage whose checkpoint this one starts from; None: the base."""
        return self.upto(self.stage - 1) if self.stage > 1 else None

    def upto(self, stage: int) -> Self:
        """The real stage that is the `stage`-th of its path; all variants share the first."""
        return type(self).of(self.seed, Checkpoint(self.path, 0, self.variant).upto(stage))

    @property
    def plain(self) -> Self:
        """The same stage with the study's own keys."""
        return type(self)(self.seed, self.path, self.placebo)

    @property
    def checkpoint(self) -> str:
        """The name of the checkpoint that the stage leaves."""
        return Checkpoint(self.path, self.placebo, self.variant).name

    @property
    def folder(self) -> str:
        """The name of the stage's folder, safe on every file system."""
        last = f"placebo{self.placebo}-{self.objective}" if self.placebo else self.objective
        variant = f"{_VARIANT}{self.variant}" if self.variant else ""
        return ".".join([f"seed{self.seed}", *self.path[:-1], last]) + variant


def checkpoint_of(node: Node | None) -> str:
    """The name of the checkpoint that a stage leaves; of the base for None."""
    return BASE if node is None else node.checkpoint


def folder_name(node: Node | None) -> str:
    """The name of a stage's folder; of the base's for None."""
    return BASE if node is None else node.folder


def order_name(order: tuple[str, ...], variant: str = "") -> str:
    """The objectives of an order as one name, with the variant of its later stages."""
    return (_THEN.join(order) or BASE) + (f"{_VARIANT}{variant}" if variant else "")


def parse_order(name: str) -> tuple[str, ...]:
    """The objectives of a name that `order_name` made."""
    path = name.partition(_VARIANT)[0]
    return () if path == BASE else tuple(path.split(_THEN))


def variant_of(order: str) -> str:
    """The variant of an order's later stages; "": the study's own keys."""
    return order.partition(_VARIANT)[2]


def together(objectives: Sequence[str]) -> str:
    """The name of a stage on several objectives at once."""
    return _TOGETHER.join(objectives)


def taught_together(name: str) -> tuple[str, ...]:
    """The objectives of a name that `together` made."""
    return tuple(name.split(_TOGETHER))


def is_together(name: str) -> bool:
    """Whether it is the name of a stage on several objectives at once."""
    return _TOGETHER in name


def typed(name: str) -> str:
    """A name as typed in a shell, which takes a bare `>` for itself: helpful/harmless is helpful>harmless."""
    return name.replace(_THEN_IN_A_SHELL, _THEN)


def in_a_shell(names: Sequence[str]) -> str:
    """' In a shell: …', where one of the names has what a shell takes for itself."""
    name = next((name for name in names if _THEN in name), None)
    return "" if name is None else f" In a shell: {name.replace(_THEN, _THEN_IN_A_SHELL)}, or between quotes."


def reference_of(node: Node, reference: str) -> Node | None:
    """The stage whose checkpoint is the reference of `node`'s loss; None: the base.

    `reference` is the stage's key. With `stage:<k>`, the stages up to k, which cannot look ahead, take the base. What
    `spo` weighs beside the previous checkpoint is no stage's.
    """
    if reference == "base":
        return None
    if reference in ("previous", "spo"):
        return node.parent
    k = int(reference.removeprefix("stage:"))
    return node.upto(k) if k < node.stage else None
