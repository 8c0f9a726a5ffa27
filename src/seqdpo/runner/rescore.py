"""`seqdpo rescore`: more held-out pairs under the checkpoints that are there; nothing is trained."""

from pathlib import Path

import pyarrow.compute as pc

from seqdpo.files import read_table
from seqdpo.layout import check_run_folder
from seqdpo.runner.board import Board
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.study import run_study
from seqdpo.study.growth import with_more_pairs
from seqdpo.study.stored import read_study


def rescore(root: Path, max_eval_pairs: int, board: Board) -> RunFolder:
    """Scores more held-out pairs under every checkpoint of a run, and derives its findings again.

    Raises: ConfigError if it is no run of a study or has as many pairs; as `run_study`.
    """
    folder = RunFolder(root)
    check_run_folder(folder)
    study = read_study(folder).model_copy(update={"output_dir": str(root)})
    before = _held_out(folder)
    run_study(with_more_pairs(study, max_eval_pairs), board)
    for name, n in _held_out(folder).items():
        more = "" if n > before.get(name, 0) else ": its source has no more"
        board.message(f"{name}: {before.get(name, 0):,} held-out pairs before, {n:,} now{more}")
    return folder


def _held_out(folder: RunFolder) -> dict[str, int]:
    """Pairs of each objective."""
    names = read_table(folder.pairs, columns=["objective"], filters=pc.field("split") == "eval")["objective"]
    return {count["values"]: count["counts"] for count in pc.value_counts(names).to_pylist()}
