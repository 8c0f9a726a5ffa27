"""Control stages are added until what changed is told from run noise, by a rule that is fixed before."""

from seqdpo.analysis.recipes import ATTRIBUTABLE, LOOKS
from seqdpo.analysis.schema import Cell, Findings
from seqdpo.errors import ConfigError
from seqdpo.report.finished import read_run
from seqdpo.runner.board import Board
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.study import Elsewhere, run_study
from seqdpo.study.config import Study

#: Verdicts that say that something moved; of the others there is nothing to attribute.
MOVED = ("DEGRADED", "MIXED", "REDISTRIBUTED", "POSITIVE TRANSFER", "BELOW BASE")


def run_until_separable(study: Study, board: Board, elsewhere: Elsewhere | None = None) -> RunFolder:
    """Runs a study with the first of LOOKS control stages, then the next, until nothing that moved is left open.

    Each look has an equal part of the risk, so that all together make a false claim no more often than one would.
    Raises: as `run_study`; ConfigError for several seeds, where more of those are what counts.
    """
    if len(study.seeds) > 1:
        raise ConfigError(
            f"--until-separable: {len(study.seeds)} seeds; expected one. With several the test is over seeds, and more "
            "control stages do not help it: add seeds, a number that you decide on now."
        )
    for number in LOOKS:
        board.message(f"--until-separable: {number} control stages beside each later stage")
        folder = run_study(study.model_copy(update={"placebo": number, "looks": len(LOOKS)}), board, elsewhere)
        left = open_cells(read_run(folder.root).findings)
        if not left:
            break
        names = ", ".join(f"{cell.objective} after {cell.to}" for cell in left)
        board.message(f"--until-separable: not told from run noise by {number}: {names}")
    return folder


def open_cells(findings: Findings) -> list[Cell]:
    """Of the plain stages those of one later stage that moved, and whose strongest quantity is not attributable."""
    return [
        cell
        for cell in findings.plain().cells
        if cell.verdict.verdict in MOVED
        and len(cell.later) == 1
        and not (cell.recipe.read and cell.recipe.read.statement == ATTRIBUTABLE)
    ]
