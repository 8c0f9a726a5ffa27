"""From a run folder to what its report is made from; needs no torch."""

import json
from pathlib import Path

import pyarrow.compute as pc

from seqdpo.report.source import ReportSource
from seqdpo.run.finished import read_mapping, read_results, read_run, read_table

EVALUATION = pc.field("split") == "eval"


def report_source(root: Path) -> ReportSource:
    """What `seqdpo report` shows of a finished run.

    Raises: ConfigError if it is no run folder, or the run is not finished; DataError if a file cannot be read.
    """
    results, run = read_results(root), read_run(root)
    return ReportSource(
        name=root.resolve().name,
        results=results,
        study=run.study,
        manifest=run.manifest,
        dropped=read_mapping(run.folder.dropped, json.loads),
        scores=run.scores(wanted=EVALUATION),
        pairs=run.pairs.filter(EVALUATION),
        texts=run.texts,
        movement=read_table(run.folder.movement),
        gradients=read_table(run.folder.gradients),
        function=read_table(run.folder.function),
    )
