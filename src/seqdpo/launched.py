"""Is this process one of several that torchrun or `accelerate launch` started for one run?"""

import os
from dataclasses import dataclass

from seqdpo.errors import ConfigError

#: What both tell each of their processes; schedulers set some of these for single processes, too.
_TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Launch:
    """This process among those of its run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine: the number of its device

    @property
    def is_first(self) -> bool:
        """The first process runs the study, and alone writes and prints; the others help it with the model's work."""
        return self.rank == 0


def launch() -> Launch:
    """What the environment says."""
    if not all(os.environ.get(name) for name in _TOLD):
        return Launch()
    return Launch(*(int(os.environ[name]) for name in _TOLD[:3]))


def check_whole_base() -> None:
    """Raises: ConfigError where `accelerate launch` was told to split the base over its processes."""
    asked = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
    for name, what in asked.items():
        if os.environ.get(name, "").lower() in ("1", "true"):
            raise ConfigError(
                f"accelerate launch: {name} = {os.environ[name]}; expected plain processes, each with the whole base: it "
                f"is not split over devices by {what}. Launch with --multi_gpu; for a base that does not fit one device "
                "set load_in_4bit: true, or load_in_8bit."
            )


def check_alone(what: str) -> None:
    """Refuses what one process does.

    Raises: ConfigError in a process that is one of several.
    """
    if launch().size > 1:
        raise ConfigError(
            f"{what}: started as {launch().size} processes of one run, as only `seqdpo run` and `seqdpo stage` can be; "
            "expected a single process. Start it without torchrun or accelerate launch."
        )
