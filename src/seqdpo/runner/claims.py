"""Who works on which node of a run folder: each is one process's at a time, while several share the folder.

A claim is a lock of the operating system, so that of a process that died is free again. Where several machines share
the folder, its file system has to know such locks (NFS from version 4, Lustre, GPFS and their like do).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from seqdpo.files import host_name, sweep_of
from seqdpo.runner.events import read_events
from seqdpo.runner.folder import RunFolder, unusable
from seqdpo.study.checkpoints import Node, checkpoint_of

#: Seconds within which a worker at its node writes its log, but for steps that take longer.
RECENT = 60.0


@contextmanager
def claimed(folder: RunFolder, node: Node | None, say: Callable[[str], None]) -> Iterator[None]:
    """Holds a node, so that nobody else writes to its stage's folder; waits where another process holds it.

    What a killed process left of the stage half written is taken away.
    """
    path = folder.claim(node)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{checkpoint_of(node)}: another process is at it; waiting for it.")
        lock.acquire()
    except OSError as error:
        raise unusable(folder.root, error) from error
    try:
        elsewhere = _at_it_elsewhere(folder, node)
        if elsewhere is not None:
            say(f"{checkpoint_of(node)}: {elsewhere}")
        sweep_of(folder.stage(node))
        yield
    finally:
        lock.release()


def _at_it_elsewhere(folder: RunFolder, node: Node | None) -> str | None:
    """What is to be said where the log of a node that nobody holds was being written a moment ago on another machine:
    its worker was just lost, or these machines do not see each other's locks.

    Both times are the file system's own, so that clocks of machines play no part.
    """
    log, claim = folder.node_log(node), folder.claim(node)
    events = read_events(log)
    began = next((event for event in reversed(events) if event["event"] == "began"), None)
    if began is None or events[-1]["event"] not in ("began", "progress", "warning"):
        return None
    os.utime(claim)
    seconds = claim.stat().st_mtime - log.stat().st_mtime
    if began.get("host") in (None, host_name()) or seconds > RECENT:
        return None
    return (
        f"{began['host']} wrote its log {seconds:.0f} s ago, but holds no claim. If its worker was not lost, these "
        "machines do not see each other's locks (NFS 3, nolock): run each node on one of them only."
    )
