"""In this process, one node after another."""

from collections.abc import Sequence
from time import perf_counter

from seqdpo.run.bench import Bench
from seqdpo.run.board import Board
from seqdpo.run.executors.account import node_began, node_done
from seqdpo.run.schedule import ready
from seqdpo.run.stage import run_node
from seqdpo.study.checkpoints import Node


def execute(bench: Bench, left: Sequence[Node | None], board: Board) -> None:
    """Runs the nodes that are left, parents first."""
    waiting = list(left)
    while waiting:
        node, began = ready(waiting)[0], perf_counter()
        node_began(bench.folder, board, node)
        run_node(bench, node)
        node_done(bench.folder, board, node, perf_counter() - began)
        waiting.remove(node)
