"""`seqdpo rescore`: more held-out pairs under the checkpoints that are there; nothing is trained."""

from pathlib import Path

from seqdpo.layout import check_run_folder
from seqdpo.runner.board import Board
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.study import run_study
from seqdpo.study.stored import read_study, with_more_pairs


def rescore(root: Path, max_eval_pairs: int, board: Board) -> RunFolder:
    """Scores more held-out pairs under every checkpoint of a run, and derives its findings again.

    Raises: ConfigError if it is no run of a study or has as many pairs; as `run_study`.
    """
    folder = RunFolder(root)
    check_run_folder(folder)
    study = read_study(folder).model_copy(update={"output_dir": str(root)})
    return run_study(with_more_pairs(study, max_eval_pairs), board)
