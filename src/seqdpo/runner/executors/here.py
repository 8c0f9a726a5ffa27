"""In this process, one node after another."""

from collections.abc import Sequence
from functools import partial
from time import perf_counter

from seqdpo.runner.bench import Bench
from seqdpo.runner.board import Board
from seqdpo.runner.executors.account import node_began, node_done
from seqdpo.runner.stage import notes, run_node, title
from seqdpo.study.checkpoints import Node
from seqdpo.training.stage import Step


def execute(bench: Bench, left: Sequence[Node | None], board: Board) -> None:
    """Runs the nodes that are left, parents first."""
    for node in left:
        began = perf_counter()
        node_began(bench.folder, board, node, f"{bench.environment['device']}")
        bench.on_step = partial(_say_step, board, title(node))
        for note in notes(bench, node):
            board.message(f"{title(node)}: {note}")
        run_node(bench, node)
        node_done(bench.folder, board, node, perf_counter() - began)


def _say_step(board: Board, name: str, step: Step) -> None:
    board.note(f"loss {step.loss:.3f}, {step.accuracy:.0%} right", name)
