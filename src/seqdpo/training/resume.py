"""Going on inside a stage: all that a stage holds while it trains, taken and put back.

The order of the pairs follows from the seed, so that the number of steps done is the position in the data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler

if TYPE_CHECKING:
    from seqdpo.training.stage import StageHook, Step

#: Tensors, numbers, texts and None in mappings and lists: what `torch.load` reads without running any code.
State = dict[str, Any]


class Keeper(Protocol):
    """Where a stage is kept while it trains."""

    def kept(self) -> State | None:
        """The stage as it was kept last; None where it begins."""

    def after_step(self, stage: "RunningStage") -> None:
        """Called after every step: the time to take its state, if it is to be kept."""


@dataclass(frozen=True, slots=True)
class RunningStage:
    """A stage between two of its steps."""

    parameters: Sequence[Tensor]
    optimizer: AdamW
    scheduler: LRScheduler
    hooks: "Sequence[StageHook]"
    steps: "list[Step]"

    def state(self) -> State:
        return {
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "hooks": [hook.state() for hook in self.hooks],
            "steps": [asdict(step) for step in self.steps],
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts back all but the steps, which are rows of train.parquet."""
        with torch.no_grad():
            for parameter, kept in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        for hook, kept in zip(self.hooks, state["hooks"], strict=True):
            hook.restore(kept)
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])
