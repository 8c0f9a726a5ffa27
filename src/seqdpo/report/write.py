"""What is shown of a run, written to files."""

from datetime import datetime
from pathlib import Path

from seqdpo.analysis.schema import PairMeasure
from seqdpo.errors import ConfigError
from seqdpo.files import folder_written_whole, set_aside, write_for_user, writing
from seqdpo.layout import RunFiles
from seqdpo.report.card import card
from seqdpo.report.compared import ComparedRuns
from seqdpo.report.comparison_page import comparison_page
from seqdpo.report.figures import figures
from seqdpo.report.finished import Run
from seqdpo.report.page import page
from seqdpo.report.paper_tables import paper_tables
from seqdpo.report.samples import SamplesForm, samples


def write_report(
    run: Run, output: Path | None = None, card_output: Path | None = None, measure: PairMeasure = "margin"
) -> list[Path]:
    """The page and the card: each where it is said, else the page in the run folder, with the card beside it.

    In another measure than the margin the page has that in its name, and no card is written unless it is said where.

    Raises: ConfigError if they cannot be written; DataError if a file of the run cannot be read.
    """
    files = RunFiles(run.folder)
    beside = files.report if measure == "margin" else files.report.with_stem(f"{files.report.stem}-{measure}")
    output = output or beside
    if card_output is None and output == files.report and not run.manifest.get("scores"):
        card_output = files.card  # of scores from elsewhere there is nothing to load
    content = {output: page(run, measure)}
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


def write_samples(run: Run, form: SamplesForm, folder: Path, when: datetime) -> int:
    """Every sample of the run in another tool's form; the number of files.

    Raises: ConfigError if the folder is there already, or cannot be written; DataError if a file cannot be read.
    """
    if folder.exists():
        raise ConfigError(f"{folder}: exists already; expected a new folder. Choose another with --output.")
    with writing(str(folder)), folder_written_whole(folder) as temporary:
        number = 0
        for number, (name, text) in enumerate(samples(run, form, when), 1):  # noqa: B007 - it is the answer
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="replace")
    return number


def write_comparison(compared: ComparedRuns, output: Path) -> None:
    """The page of two runs.

    Raises: ConfigError if it cannot be written.
    """
    write_for_user(output, comparison_page(compared).encode())
