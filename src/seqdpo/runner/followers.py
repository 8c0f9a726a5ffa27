"""Several processes at one stage, as torchrun and `accelerate launch` start them: what all but the first do.

The first reads the study, decides what is left, and writes; the others hear from it which part of which node comes
next, and do the same on their share of the pairs. Where one of them fails, what launched them ends the others.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqdpo.errors import ConfigError, RunError
from seqdpo.launched import launch
from seqdpo.policy.ranks import from_first, join, leave
from seqdpo.runner.bench import Bench
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.stage import run_part
from seqdpo.runner.study import read_inputs, study_bench
from seqdpo.study.config import Study

#: What may end the first process after the step that it is at, for which it needs the others.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


@contextmanager
def leading() -> Iterator[None]:
    """In the first process, around all that it may need the others for: lets them go when that is done."""
    join()
    yield
    from_first(None)
    leave()


def follow() -> None:
    """In all other processes: does what the first says, until it has no more for them.

    Raises: ConfigError if this machine has other inputs; whatever the model's work may raise.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # while nothing has begun
    join()
    for name in _SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        _follow()
    except RunError:
        raise SystemExit(3) from None  # the same in all of them; the first says it
    except RuntimeError as error:
        if "onnection" not in str(error):
            raise
        raise SystemExit(3) from None  # the first has gone, and said why
    leave()


def _follow() -> None:
    bench: Bench | None = None
    while (told := from_first(None)) is not None:
        what, *of = told
        if what == "bench":
            bench = _bench(*of)
        elif bench is not None:
            run_part(what, bench, *of)


def _bench(root: Path, study: Study, identity: dict[str, Any]) -> Bench:
    inputs = read_inputs(study, _nothing)
    if inputs.identity != identity:
        different = [name for name, value in identity.items() if inputs.identity.get(name) != value]
        raise ConfigError(
            f"process {launch().rank} of {launch().size}: finds another {' and '.join(different)} than the first one; "
            "expected the same model, data and release on every machine. Give it the same."
        )
    return study_bench(inputs, RunFolder(root), lambda units, pairs: None, _nothing)


def _nothing(text: str) -> None:
    """The first process says it."""
