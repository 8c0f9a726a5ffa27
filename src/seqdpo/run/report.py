"""From a run folder to its report; needs no torch."""

import json
from pathlib import Path

import pyarrow.compute as pc

from seqdpo.report.card import card
from seqdpo.report.figures import figures
from seqdpo.report.page import page
from seqdpo.report.paper_tables import paper_tables
from seqdpo.report.source import ReportSource
from seqdpo.run.files import write_for_user
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
        kl_and_path=read_table(run.folder.kl_and_path),
    )


def write_report(source: ReportSource, output: Path) -> list[Path]:
    """The page, and report.md beside it.

    Raises: ConfigError if they cannot be written.
    """
    card_path = output.with_suffix(".md")
    write_for_user(output, page(source).encode())
    write_for_user(card_path, card(source).encode())
    return [output, card_path]


def write_figures(source: ReportSource, folder: Path) -> list[Path]:
    """Every picture and table as files of the folder.

    Raises: ConfigError if vl-convert-python is not installed, or a file cannot be written.
    """
    written = []
    for name, form, text in paper_tables(source.results):
        written.append(folder / f"{name}.{form}")
        write_for_user(written[-1], text.encode())
    for name, form, content in figures(source):
        written.append(folder / f"{name}.{form}")
        write_for_user(written[-1], content)
    return written
