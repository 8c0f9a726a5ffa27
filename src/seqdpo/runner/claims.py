"""Who works on which node of a run folder: each is one process's at a time, while several share the folder.

A claim is a lock of the operating system, so that of a process that died is free again. Where several machines share
the folder, its file system has to know such locks (NFS from version 4, Lustre, GPFS and their like do).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from seqdpo.files import sweep_of
from seqdpo.runner.folder import RunFolder
from seqdpo.study.checkpoints import Node, checkpoint_of


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
    try:
        sweep_of(folder.stage(node))
        yield
    finally:
        lock.release()
