"""What is shown of a run, written to files."""

from pathlib import Path

from seqdpo.files import set_aside, write_for_user
from seqdpo.layout import RunFiles
from seqdpo.report.card import card
from seqdpo.report.compared import ComparedRuns
from seqdpo.report.comparison_page import comparison_page
from seqdpo.report.figures import figures
from seqdpo.report.finished import Run
from seqdpo.report.page import page
from seqdpo.report.paper_tables import paper_tables


def write_report(run: Run, output: Path | None = None, card_output: Path | None = None) -> list[Path]:
    """The page and the card: each where it is said, else the page in the run folder, with the card beside it.

    Raises: ConfigError if they cannot be written; DataError if a file of the run cannot be read.
    """
    files = RunFiles(run.folder)
    card_output = card_output or (files.card if output in (None, files.report) else None)
    content = {output or files.report: page(run)}
    if card_output is not None:
        content[card_output] = card(run)  # nothing is written if one of them fails
    for path, text in content.items():
        if path in (files.report, files.card) and path.is_dir():  # a place of ours
            set_aside(path)
        write_for_user(path, text.encode())
    return [*content]


def write_figures(run: Run, folder: Path) -> list[Path]:
    """Every picture and table as files of the folder.

    Raises: ConfigError if vl-convert-python is not installed, or a file cannot be written.
    """
    written = []
    for name, form, text in paper_tables(run.findings):
        written.append(folder / f"{name}.{form}")
        write_for_user(written[-1], text.encode())
    for name, form, content in figures(run.pictures()):
        written.append(folder / f"{name}.{form}")
        write_for_user(written[-1], content)
    return written


def write_comparison(compared: ComparedRuns, output: Path) -> None:
    """The page of two runs.

    Raises: ConfigError if it cannot be written.
    """
    write_for_user(output, comparison_page(compared).encode())
