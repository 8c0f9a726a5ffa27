"""The command line. Exit codes: 0 done, 1 a gate failed, 2 wrong input, 3 the run failed, 130 interrupted."""

import json
import os
import sys
import warnings
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from seqdpo.errors import ConfigError, RunError, SeqdpoError
from seqdpo.study.config import Study
from seqdpo.study.file import load_study
from seqdpo.study.settings import SETTINGS
from seqdpo.study.template import study_template
from seqdpo.wording import did_you_mean

if TYPE_CHECKING:
    from seqdpo.run.folder import RunFolder
    from seqdpo.run.study import Elsewhere

KEYS_AS_FLAGS = "Every key of the study file is also a flag (--learning-rate 1e-5, --objectives.NAME.KEY VALUE)."

app = typer.Typer(
    name="seqdpo",
    help="Train a model on several preference objectives one after another, and see what each later stage did "
    "to the earlier ones.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


class _PipeConsole(Console):
    """Ends quietly when what reads the output (`| head`) has gone; 1 would mean that a gate failed."""

    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()
        except SystemExit:
            sys.exit(128 + SIGPIPE)


console = _PipeConsole()
errors = _PipeConsole(stderr=True)

StudyArguments = Annotated[
    list[str], typer.Argument(metavar="STUDY.yaml [--KEY VALUE]...", help=KEYS_AS_FLAGS, show_default=False)
]
Sort = Literal["change", "margin"]
Flip = Literal["kept", "lost", "regained", "never"]
PairsFormat = Literal["table", "jsonl", "csv", "parquet"]
ROWS_ON_SCREEN = 20
MOST_FILES_NAMED = 4
SIGPIPE = 13  # Windows has no signal of that name
PASS_FLAGS_ON = {"ignore_unknown_options": True}


def main() -> None:
    """Runs the command line; the errors that are for the user are printed without a traceback."""
    _quiet_libraries()
    try:
        app()
    except RunError as error:
        _print_error(error)
        sys.exit(3)
    except SeqdpoError as error:
        _print_error(error)
        sys.exit(2)


@app.command(context_settings=PASS_FLAGS_ON)
def run(
    arguments: StudyArguments,
    executor: Annotated[Literal["here", "ray", "slurm"], typer.Option(help="Where the stages run.")] = "here",
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; auto: the one of this machine. Else one is started here.")
    ] = None,
    executor_args: Annotated[
        str | None, typer.Option(metavar="NAME=VALUE,...", help="workers=4,num_gpus=1 or partition=gpu,time=480.")
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only make the run folder ready for seqdpo stage; train nothing.")
    ] = False,
) -> None:
    """Run a study; run it again to continue where it stopped."""
    study = _study(arguments)
    if prepare:
        _prepare(study)
        return
    from seqdpo.run.executors.choice import chosen_executor

    _run(study, chosen_executor(executor, address, executor_args))


@app.command()
def stage(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that `seqdpo run --prepare` made ready.")],
    node: Annotated[str, typer.Argument(metavar="NODE", help="As `seqdpo plan --format json` names it.")],
) -> None:
    """Run one stage of a study in a process of its own; several may work in one run folder."""
    from seqdpo.run.worker import Worker

    if not Worker(run, _note).run(node):
        _note(f"{node}: was done before")


@app.command()
def demo(
    output_dir: Annotated[str, typer.Option(help="A folder for each setting is made in it.")] = "runs/demo",
) -> None:
    """Run the four lab settings in both orders: no download, a few minutes on a laptop."""
    from seqdpo.lab.demo import demo_studies
    from seqdpo.run.folder import check_output_dir

    studies = demo_studies(output_dir)
    for study in studies:  # all of them before the first is run
        check_output_dir(Path(study.output_dir))
    for study in studies:
        console.rule(f"{study.setting}: {SETTINGS[str(study.setting)].relation}", align="left")
        _run(study)


@app.command()
def init(
    setting: Annotated[str, typer.Argument(help=f"One of {', '.join(SETTINGS)}.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="The file; - prints it.")] = None,
) -> None:
    """Write a commented study file for a setting."""
    if setting not in SETTINGS:
        near = did_you_mean(setting, SETTINGS)
        raise ConfigError(f"init: {setting!r} is no setting; expected one of {', '.join(SETTINGS)}.{near}")
    text = study_template(setting)
    if output == "-":
        console.out(text, end="", highlight=False)
        return
    path = Path(output or f"{setting}.yaml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path}: exists already. Choose another name with --output, or remove it.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}. Choose another place with --output.") from None
    console.print(f"Wrote {path}. Next: seqdpo plan {path}", highlight=False)


@app.command(context_settings=PASS_FLAGS_ON)
def check(
    arguments: StudyArguments,
    show: Annotated[int, typer.Option(min=0, help="Print this many rendered pairs of each objective.")] = 0,
) -> None:
    """Find what is wrong with a study, its data and its chat template; trains nothing."""
    study = _study(arguments)  # before torch is imported: a wrong key is answered at once
    from seqdpo.report.terminal import print_check
    from seqdpo.run.inputs import check_study

    print_check(console, check_study(study, _note), show)


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the output_dir of a study.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Again every two seconds, until nobody works on it.")
    ] = False,
) -> None:
    """Show how a run stands, also one that runs elsewhere: state, time, memory, host and device of each stage."""
    from rich.live import Live

    from seqdpo.run.folder import RunFolder
    from seqdpo.run.status import run_status, status_board

    found = run_status(RunFolder(run))
    if not follow:
        console.print(status_board(found))
        return
    with Live(status_board(found), console=console, auto_refresh=False) as live:
        while not found.over:
            sleep(2)
            found = run_status(RunFolder(run))
            live.update(status_board(found), refresh=True)


@app.command(context_settings=PASS_FLAGS_ON)
def plan(
    arguments: StudyArguments,
    form: Annotated[
        Literal["table", "json", "make"],
        typer.Option("--format", help="json and make: the stages with what each needs, to run them elsewhere."),
    ] = "table",
) -> None:
    """Show the tree of stages, pairs, tokens, parameters, memory and time; runs nothing."""
    study = _study(arguments)
    from seqdpo.run.plan_formats import plan_json, plan_make

    if form == "make":
        console.out(plan_make(study, arguments), end="", highlight=False)
        return
    from seqdpo.report.terminal import print_plan
    from seqdpo.run.inputs import read_preferences, with_model_path
    from seqdpo.run.plan import plan_study

    study = with_model_path(study, _note)
    preferences, _ = read_preferences(study, _note)
    found = plan_study(study, preferences)
    if form == "json":
        console.out(plan_json(study, found), end="", highlight=False)
    else:
        print_plan(console, study, preferences, found)


@app.command()
def pairs(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the output_dir of a study.")],
    objective: Annotated[str, typer.Option(help="Whose held-out pairs.")],
    start: Annotated[
        str | None, typer.Option("--from", help="The earlier checkpoint; else the one that taught the objective.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="The later one, in quotes: 'helpful>harmless'; else the order's last.")
    ] = None,
    order: Annotated[str | None, typer.Option(help="The order; else the first that goes on after it.")] = None,
    seed: Annotated[int | None, typer.Option(help="The seed; else the study's first.")] = None,
    sort: Annotated[Sort, typer.Option(help="Ascending, by the change or by the margin after it.")] = "change",
    flips: Annotated[
        Flip | None, typer.Option(help="Only pairs that stayed right, turned wrong, turned right, or stayed wrong.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Only these, as category=Violence; repeatable.")
    ] = None,
    pair: Annotated[str | None, typer.Option(metavar="ID", help="One pair in full; the beginning of its id.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many; else 20 in a table, all elsewhere.")
    ] = None,
    form: Annotated[PairsFormat | None, typer.Option("--format", help="Else as --output is named, or a table.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file for them, written whole.")] = None,
) -> None:
    """List what happened to each pair of an objective between two checkpoints, the most lost first."""
    from seqdpo.report.pairs import print_pair, print_pairs
    from seqdpo.run.finished import read_run
    from seqdpo.run.pair_files import file_format, print_rows, write_rows
    from seqdpo.run.pair_query import PairQuery, find_pairs, trajectory

    file_form = file_format(form, output)
    limit = limit or (None if file_form else ROWS_ON_SCREEN)
    query = PairQuery(objective, start, end, order, seed, pair, tuple(where or ()), flips, sort, limit)
    found = find_pairs(read_run(run), query)
    if output is not None and file_form:
        write_rows(found.rows, file_form, output)
        console.print(f"Wrote {found.rows.num_rows:,} pairs: {output}", highlight=False, markup=False, soft_wrap=True)
    elif file_form and file_form != "parquet":
        print_rows(console, found.rows, file_form)
    elif pair is not None and found.rows.num_rows:
        print_pair(console, found.rows.to_pylist()[0], trajectory(found))
    else:
        print_pairs(console, found.rows, found.listing)


@app.command()
def analyse(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the output_dir of a study.")],
) -> None:
    """Derive tables, results.json and the report again from a run's own files; loads no model."""
    from seqdpo.run.findings import write_findings
    from seqdpo.run.folder import RunFolder, check_run_folder

    folder = RunFolder(run)
    check_run_folder(folder)
    with folder.locked():
        write_findings(folder)
        folder.log("analysed")
    _show_findings(folder)


@app.command()
def merge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder that the others' stages go into.")],
    others: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs of the same study, made elsewhere.")],
) -> None:
    """Join runs of one study: stages of other seeds, orders or control stages, made elsewhere."""
    from seqdpo.run.folder import RunFolder
    from seqdpo.run.merge import merge_runs

    folder = RunFolder(run)
    copied = merge_runs(folder, [RunFolder(other) for other in others])
    console.print(f"{len(copied)} stages went into {run}", highlight=False, markup=False, soft_wrap=True)
    _show_findings(folder)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the output_dir of a study.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Else report.html in the run folder.")] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder for figures (SVG, PNG, PDF), tables (CSV, LaTeX).")
    ] = None,
) -> None:
    """Write the findings as one HTML page, down to the single pair, and report.md, the adapters' card, beside it."""
    from seqdpo.run.folder import RunFolder
    from seqdpo.run.report import report_source, write_figures, write_report

    source = report_source(run)
    written = write_report(source, output or RunFolder(run).report)
    if figures is not None:
        with console.status("drawing figures"):
            written += write_figures(source, figures)
    shown = written if len(written) <= MOST_FILES_NAMED else written[:2]
    for path in shown:
        _wrote(path)
    if len(shown) < len(written):
        console.print(f"and {len(written) - len(shown)} files in {figures}", highlight=False, markup=False)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run folder.")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another one; differences are this one less RUN_A.")],
    form: Annotated[Literal["table", "json"], typer.Option("--format")] = "table",
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page of both runs instead.")] = None,
) -> None:
    """Compare the checkpoints of two runs on the held-out pairs that both have."""
    from seqdpo.report.comparison import print_comparison
    from seqdpo.run.comparison import compare_runs, write_comparison
    from seqdpo.run.finished import read_run

    runs = read_run(a), read_run(b)
    comparison = compare_runs(*runs)
    if html is not None:
        write_comparison(comparison, *runs, html)
        _wrote(html)
    elif form == "json":
        console.out(json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False), highlight=False)
    else:
        print_comparison(console, comparison)


@app.command()
def gate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the output_dir of a study.")],
    max_loss: Annotated[float, typer.Option(min=0, help="Share of the learned margin that may be gone, as 0.05.")],
    objective: Annotated[str | None, typer.Option(help="Only this earlier objective; else all of them.")] = None,
    order: Annotated[str | None, typer.Option(help="Only this order, in quotes: 'helpful>harmless'.")] = None,
    strict: Annotated[bool, typer.Option(help="Fail, too, where the pairs cannot rule such a loss out.")] = False,
) -> None:
    """Exit 1 if later stages degraded an earlier objective beyond --max-loss, with confidence."""
    from seqdpo.analyse.gate import gated
    from seqdpo.report.findings import print_gate
    from seqdpo.run.finished import read_results

    outcomes = gated(read_results(run), max_loss, objective, order, strict)
    print_gate(console, outcomes)
    if any(one.outcome == "failed" for one in outcomes):
        sys.exit(1)


@app.command()
def env() -> None:
    """Print versions, device and threads, for a bug report."""
    from seqdpo.report.terminal import print_environment
    from seqdpo.run.environment import environment

    print_environment(console, environment())


def _prepare(study: Study) -> None:
    from seqdpo.run.board import board_for
    from seqdpo.run.study import prepare_run

    with board_for(errors) as board:
        folder = prepare_run(study, board)
    console.print(f"{folder.root}/ is ready for seqdpo stage", highlight=False, markup=False, soft_wrap=True)


def _run(study: Study, elsewhere: "Elsewhere | None" = None) -> None:
    from seqdpo.run.board import board_for
    from seqdpo.run.study import run_study

    try:
        with board_for(console) as board:
            folder = run_study(study, board, elsewhere)
    except KeyboardInterrupt:
        errors.print("Interrupted. Run the same command again to continue.")
        raise  # typer ends with 130
    _show_findings(folder)


def _show_findings(folder: "RunFolder") -> None:
    from seqdpo.report.findings import print_results
    from seqdpo.run.finished import read_results
    from seqdpo.run.report import report_source, write_report

    print_results(console, read_results(folder.root))
    console.print(f"Everything is in {folder.root}/", highlight=False, soft_wrap=True)
    for path in write_report(report_source(folder.root), folder.report):
        _wrote(path)


def _study(arguments: list[str]) -> Study:
    """The study file among the arguments, with the flags around it laid over it."""
    files: list[str] = []
    flags: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            files.append(argument)
        else:
            flags.append(argument)
            if "=" not in argument and rest and not rest[0].startswith("--"):
                flags.append(rest.pop(0))
    if len(files) != 1:
        found = ", ".join(files) or "none"
        raise ConfigError(f"command line: study files: {found}; expected one. Write one with: seqdpo init SETTING")
    return load_study(Path(files[0]), flags)


def _wrote(path: Path) -> None:
    size = f"{path.stat().st_size / 1e6:.1f} MB" if path.suffix == ".html" else ""
    console.print(f"Wrote {path} {size}".rstrip(), highlight=False, markup=False, soft_wrap=True)


def _note(text: str) -> None:
    errors.print(text, style="dim", markup=False, highlight=False)


def _print_error(error: SeqdpoError) -> None:
    errors.print(
        f"Error: {error}", style="red" if errors.is_terminal else "", markup=False, highlight=False, soft_wrap=True
    )


def _quiet_libraries() -> None:
    """What transformers and datasets print while loading would break the board; a user's own settings win."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.simplefilter("ignore", FutureWarning)  # between versions of transformers and peft; not for our users
