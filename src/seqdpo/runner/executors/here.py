"""In this process, one node after another."""

from collections.abc import Sequence

import numpy as np

from seqdpo.runner.bench import Bench
from seqdpo.runner.board import Board
from seqdpo.runner.schedule import ready
from seqdpo.runner.stage import notes, run_node, title
from seqdpo.study.checkpoints import Node


def execute(bench: Bench, left: Sequence[Node | None], board: Board) -> None:
    """Runs the nodes that are left, parents first."""
    waiting = list(left)
    while waiting:
        node = ready(waiting)[0]
        board.start(title(node))
        for note in notes(bench, node):
            board.message(f"{title(node)}: {note}")
        steps = run_node(bench, node)
        board.finish("scored" if steps is None else f"loss {np.mean(steps['loss'].to_numpy()[-10:]):.3f}")
        waiting.remove(node)
