"""What the coordinator says of a node, on the board and in events.jsonl, wherever the node runs."""

import numpy as np

from seqdpo.files import read_table
from seqdpo.runner.board import Board
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.stage import title
from seqdpo.study.checkpoints import Node, checkpoint_of


def node_began(folder: RunFolder, board: Board, node: Node | None, where: str = "") -> None:
    board.start(title(node), where)
    folder.log("stage_began", **_place(node))


def node_done(folder: RunFolder, board: Board, node: Node | None, seconds: float) -> None:
    board.finish(_note(folder, node), title(node))
    folder.log("stage_done", **_place(node), seconds=round(seconds, 3))


def _place(node: Node | None) -> dict[str, str | int]:
    return {"checkpoint": checkpoint_of(node)} | ({} if node is None else {"seed": node.seed})


def _note(folder: RunFolder, node: Node | None) -> str:
    if node is None:
        return "scored"
    losses = read_table(folder.stage(node) / "train.parquet", columns=["loss"])["loss"].to_numpy()
    if len(losses):
        return f"loss {np.mean(losses[-10:]):.3f}"
    return "made of others, scored" if node.variant else "given, scored"
