"""`seqdpo rescore`: more held-out pairs under the checkpoints that are there; nothing is trained."""

from pathlib import Path

import pyarrow.compute as pc

from seqdpo.errors import ConfigError
from seqdpo.files import read_table
from seqdpo.layout import check_run_folder
from seqdpo.runner.board import Board
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.study import run_study
from seqdpo.study.config import Study
from seqdpo.study.stored import read_study


def with_more_pairs(study: Study, max_eval_pairs: int) -> Study:
    """The study with at least so many held-out pairs of every objective, as far as its source has them.

    Raises: ConfigError if every objective was allowed as many before.
    """
    limits = {name: study.eval_limit(name) for name in study.objectives}
    if all(limit is None or limit >= max_eval_pairs for limit in limits.values()):
        allowed = min(limit for limit in limits.values() if limit is not None) if any(limits.values()) else "all"
        raise ConfigError(
            f"--max-eval-pairs = {max_eval_pairs}: the run was allowed {allowed} of every objective; expected more "
            "than that. Name a larger number."
        )
    values = study.model_dump(mode="json")
    if study.max_eval_pairs is not None:
        values["max_eval_pairs"] = max(study.max_eval_pairs, max_eval_pairs)
    for objective in values["objectives"].values():
        if objective["max_eval_pairs"] is not None:
            objective["max_eval_pairs"] = max(objective["max_eval_pairs"], max_eval_pairs)
    return Study.model_validate(values)


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
