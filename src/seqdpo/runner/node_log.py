"""A node's own log, wherever it runs: when it began and on what, how far it is, what the engine had to say, its end.

Only the process that has claimed the node writes it; the coordinator and `seqdpo status` read it.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import seqdpo
from seqdpo.files import host_name
from seqdpo.runner.bench import Bench
from seqdpo.runner.events import LOG, append_event
from seqdpo.study.checkpoints import Node, checkpoint_of

SECONDS_BETWEEN_LINES = 3.0


class NodeLog(logging.Handler):
    """Lines of a node's log; as a handler it hears the warnings of the engine."""

    def __init__(self, bench: Bench, node: Node | None) -> None:
        super().__init__(logging.WARNING)
        self._path = bench.folder.node_log(node)
        self._units, self._pairs, self._last_line = 0.0, 0, monotonic()

    def write(self, event: str, **details: object) -> None:
        append_event(self._path, event, **details)
        self._last_line = monotonic()

    def advance(self, units: float, pairs: int) -> None:
        self._units, self._pairs = self._units + units, self._pairs + pairs
        if monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self.write("progress", units=self._units, pairs=self._pairs)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != LOG:
            self.write("warning", message=record.getMessage())


@contextmanager
def node_log(bench: Bench, node: Node | None) -> Iterator[NodeLog]:
    """Logs what happens to the node in this block, and how it ends."""
    log, progress, logger = NodeLog(bench, node), bench.progress, logging.getLogger(seqdpo.__name__)
    device = bench.environment["device"]
    log.write("began", checkpoint=checkpoint_of(node), host=host_name(), pid=os.getpid(), device=device)

    def both(units: float, pairs: int) -> None:
        progress(units, pairs)
        log.advance(units, pairs)

    bench.progress = both
    logger.addHandler(log)
    try:
        yield log
        log.write("done")
    except KeyboardInterrupt:
        log.write("interrupted")
        raise
    except BaseException as error:
        log.write("failed", error=str(error) or repr(error))
        raise
    finally:
        logger.removeHandler(log)
        bench.progress = progress
