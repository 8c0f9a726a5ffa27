"""Several processes at one stage, as torchrun and `accelerate launch` start them: what all but the first do.

The first reads the study, decides what is left, and writes; the others hear from it which part of which node comes
next, and do the same on their share of the pairs. Where one of them fails, what launched them ends the others.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from seqdpo.errors import RunError
from seqdpo.policy.ranks import from_first, join, leave
from seqdpo.runner.bench import Bench
from seqdpo.runner.stage import run_part
from seqdpo.runner.study import bench_beside

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
    except RunError:  # the same in all of them, or another one has gone: the first says it
        raise SystemExit(3) from None
    leave()


def _follow() -> None:
    bench: Bench | None = None
    while (told := from_first(None)) is not None:
        what, *of = told
        if what == "bench":
            bench = bench_beside(*of)
        elif bench is not None:
            run_part(what, bench, *of)
