"""In this process, one node after another."""

from collections.abc import Sequence
from time import perf_counter

from seqdpo.runner.bench import Bench
from seqdpo.runner.board import Board
from seqdpo.runner.executors.account import node_began, node_done
from seqdpo.runner.stage import notes, run_node, title
from seqdpo.study.checkpoints import Node


def execute(bench: Bench, left: Sequence[Node | None], board: Board) -> None:
    """Runs the nodes that are left, parents first."""
    for node in left:
        began = perf_counter()
        node_began(bench.folder, board, node)
        for note in notes(bench, node):
            board.message(f"{title(node)}: {note}")
        run_node(bench, node)
        node_done(bench.folder, board, node, perf_counter() - began)
