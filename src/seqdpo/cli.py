"""The command line. Exit codes: 0 done, 1 a gate failed, 2 wrong input, 3 the run failed, 129, 130
and 143 ended by SIGHUP, Ctrl-C and SIGTERM."""

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

import seqdpo
from seqdpo.errors import ArgumentError, ConfigError, RunError, SeqdpoError
from seqdpo.screen import SIGPIPE, Screen, accept_any_text, write_out
from seqdpo.study.checkpoints import typed
from seqdpo.study.config import Study
from seqdpo.study.file import audit_of, study_of
from seqdpo.study.settings import SETTINGS
from seqdpo.study.template import study_template
from seqdpo.wording import did_you_mean

KEYS_AS_FLAGS = "Every key of the study file is also a flag (--learning-rate 1e-5, --objectives.NAME.KEY VALUE)."

console = Screen()
errors = Screen(stderr=True)


class _Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, whose number it has: what runs is ended as by Ctrl-C."""


class _GateFailed(SystemExit):
    """Exit code 1, which means nothing else."""


class _Commands(TyperGroup):
    """Ends a command by what it raised, before typer does: its 1 for a broken pipe would be a failed gate."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if hasattr(error, "exit_code"):  # typer's own, for a wrong command line
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            sys.exit(_explained(error))
        except KeyboardInterrupt as interrupt:
            sys.exit(128 + (interrupt.args[0] if isinstance(interrupt, _Terminated) else signal.SIGINT))


app = typer.Typer(
    name="seqdpo",
    cls=_Commands,
    add_completion=True,
    pretty_exceptions_enable=False,
)

StudyArguments = Annotated[
    list[str], typer.Argument(metavar="STUDY.yaml [--KEY VALUE]...", help=KEYS_AS_FLAGS, show_default=False)
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the output_dir of a study.")]
AuditArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[AUDIT.yaml] [--KEY VALUE]...", help="Every key is also a flag.", show_default=False),
]
Sort = Literal["change", "margin"]
Flip = Literal["kept", "lost", "regained", "never"]
PairsFormat = Literal["table", "jsonl", "csv", "parquet"]
ROWS_ON_SCREEN = 20
MOST_FILES_NAMED = 4
PASS_FLAGS_ON = {"ignore_unknown_options": True}


FIRST_STEPS = """\
Begin with one of these:
  seqdpo demo                    four small studies on a built-in model: no download, some minutes
  seqdpo init hh-rlhf            a commented study file: hh-rlhf.yaml
  seqdpo check hh-rlhf.yaml      what is wrong with it, its data and its chat template
  seqdpo plan hh-rlhf.yaml       what it will cost
  seqdpo run hh-rlhf.yaml        the study; the same command again goes on with it
All commands: seqdpo --help"""


def main() -> None:
    """Runs the command line; no error is printed with a traceback, unless with `--debug`."""
    _quiet_libraries()
    accept_any_text()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has but one of them
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, _terminate)
    try:
        app()
    except SystemExit as ended:
        if ended.code == 1 and not isinstance(ended, _GateFailed):  # typer's, when nobody reads its help to the end
            sys.exit(128 + SIGPIPE)
        raise


@app.callback(invoke_without_command=True)
def seqdpo_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="SEQDPO_DEBUG", help="Print the traceback of an error, too.")
    ] = False,
) -> None:
    """Train a model on several preference objectives one after another, and see what each later stage did to the
    earlier ones."""
    if version:
        write_out(console, [f"seqdpo {seqdpo.__version__}\n"])
    elif context.invoked_subcommand is None:
        write_out(console, [FIRST_STEPS + "\n"])


@app.command(context_settings=PASS_FLAGS_ON)
def run(arguments: StudyArguments) -> None:
    """Run a study; run it again to continue after the last finished stage."""
    _run(study_of(arguments))


@app.command()
def demo(
    output_dir: Annotated[str, typer.Option(help="A folder for each setting is made in it.")] = "runs/demo",
) -> None:
    """Run the four lab settings in both orders: no download, a few minutes on a laptop."""
    from seqdpo.lab.demo import demo_studies
    from seqdpo.runner.folder import check_output_dir

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
        write_out(console, [text])
        return
    path = Path(output or f"{setting}.yaml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path}: exists already. Choose another name with --output, or remove it.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}. Choose another place with --output.") from None
    console.print(f"Wrote {path}. Next: seqdpo plan {path}")


@app.command(context_settings=PASS_FLAGS_ON)
def check(
    arguments: StudyArguments,
    show: Annotated[int, typer.Option(min=0, help="Print this many rendered pairs of each objective.")] = 0,
) -> None:
    """Find what is wrong with a study, its data and its chat template; trains nothing."""
    study = study_of(arguments)  # before torch is imported: a wrong key is answered at once
    from seqdpo.runner.study import check_study
    from seqdpo.runner.terminal import print_check

    print_check(console, check_study(study, _note), show)


@app.command(context_settings=PASS_FLAGS_ON)
def plan(arguments: StudyArguments) -> None:
    """Show the tree of stages, pairs, tokens, parameters, memory and time; runs nothing."""
    study = study_of(arguments)
    from seqdpo.runner.design import design_notes
    from seqdpo.runner.inputs import read_preferences, with_model_path
    from seqdpo.runner.plan import plan_study
    from seqdpo.runner.terminal import print_plan

    study = with_model_path(study, _note)
    preferences, _ = read_preferences(study, _note)
    print_plan(console, study, preferences, plan_study(study, preferences))
    for note in design_notes(study, preferences):
        console.print(f"note: {note}")


@app.command()
def pairs(
    run: RunArgument,
    objective: Annotated[str, typer.Option(help="Whose held-out pairs.")],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            parser=typed,
            metavar="NAME",
            help="The earlier checkpoint; else the one that taught the objective.",
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            "--to", parser=typed, metavar="NAME", help="The later one, as helpful/harmless; else the order's last."
        ),
    ] = None,
    order: Annotated[
        str | None, typer.Option(parser=typed, metavar="NAME", help="The order; else the first that goes on after it.")
    ] = None,
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
    from seqdpo.analysis.pair_query import PairQuery, trajectory
    from seqdpo.report.finished import read_run
    from seqdpo.report.pair_files import file_format, write_rows
    from seqdpo.report.print_pairs import print_pair, print_pairs
    from seqdpo.report.rows import row_texts

    file_form = file_format(form, output)
    limit = limit or (None if file_form else ROWS_ON_SCREEN)
    query = PairQuery(objective, start, end, order, seed, pair, tuple(where or ()), flips, sort, limit)
    found = read_run(run).find_pairs(query)
    if output is not None and file_form:
        write_rows(found.rows, file_form, output)
        console.print(f"Wrote {found.rows.num_rows:,} pairs: {output}", soft_wrap=True)
    elif file_form and file_form != "parquet":
        write_out(console, row_texts(found.rows, file_form))
    elif pair is not None and found.rows.num_rows:
        print_pair(console, found.rows.to_pylist()[0], trajectory(found))
    else:
        print_pairs(console, found.rows, found.listing)


@app.command()
def analyse(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the output_dir of a study.")],
) -> None:
    """Derive tables, results.json and the report again from a run's own files; loads no model."""
    from seqdpo.layout import check_run_folder
    from seqdpo.runner.findings import write_findings
    from seqdpo.runner.folder import RunFolder

    folder = RunFolder(run)
    check_run_folder(folder)
    with folder.locked():
        write_findings(folder)
    _show_findings(run)


@app.command()
def merge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder that the others' stages go into.")],
    others: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs of the same study, made elsewhere.")],
) -> None:
    """Join runs of one study: stages of other seeds, orders or control stages, made elsewhere."""
    from seqdpo.runner.folder import RunFolder
    from seqdpo.runner.merge import merge_runs

    folder = RunFolder(run)
    copied = merge_runs(folder, [RunFolder(other) for other in others])
    console.print(f"{len(copied)} stages went into {run}", soft_wrap=True)
    _show_findings(run)


@app.command()
def report(
    run: RunArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Else report.html in the run folder.")] = None,
    card: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The adapters' card; else report.md in the run folder, or none with -o."),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder for figures (SVG, PNG, PDF), tables (CSV, LaTeX).")
    ] = None,
) -> None:
    """Write the findings as one HTML page, down to the single pair, and the adapters' card, report.md, beside it."""
    from seqdpo.report.finished import read_run
    from seqdpo.report.write import write_figures, write_report

    source = read_run(run)
    written = write_report(source, output, card)
    if figures is not None:
        with console.status("drawing figures"):
            written += write_figures(source, figures)
    shown = written if len(written) <= MOST_FILES_NAMED else written[:2]
    for path in shown:
        _wrote(path)
    if len(shown) < len(written):
        console.print(f"and {len(written) - len(shown)} files in {figures}")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run folder.")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another one; differences are this one less RUN_A.")],
    form: Annotated[Literal["table", "json"], typer.Option("--format")] = "table",
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page of both runs instead.")] = None,
) -> None:
    """Compare the checkpoints of two runs on the held-out pairs that both have."""
    from seqdpo.analysis.schema import to_json
    from seqdpo.report.compared import compare as compare_runs
    from seqdpo.report.finished import read_run
    from seqdpo.report.print_comparison import print_comparison
    from seqdpo.report.write import write_comparison

    compared = compare_runs(read_run(a), read_run(b))
    if html is not None:
        write_comparison(compared, html)
        _wrote(html)
    elif form == "json":
        content = to_json(compared.findings)
        write_out(console, [json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"])
    else:
        print_comparison(console, compared.findings)


@app.command()
def gate(
    run: RunArgument,
    max_loss: Annotated[float, typer.Option(min=0, help="Share of the learned margin that may be gone, as 0.05.")],
    objective: Annotated[str | None, typer.Option(help="Only this earlier objective; else all of them.")] = None,
    order: Annotated[
        str | None, typer.Option(parser=typed, metavar="NAME", help="Only this order, as helpful/harmless.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="Fail, too, where the pairs cannot rule such a loss out.")] = False,
) -> None:
    """Exit 1 if later stages degraded an earlier objective beyond --max-loss, with confidence."""
    from seqdpo.analysis.gate import gated
    from seqdpo.report.finished import read_run
    from seqdpo.report.print_findings import print_gate

    outcomes = gated(read_run(run).findings, max_loss, objective, order, strict)
    print_gate(console, outcomes)
    if any(one.outcome == "failed" for one in outcomes):
        raise _GateFailed(1)


@app.command()
def env() -> None:
    """Print versions, device and threads, for a bug report."""
    from seqdpo.runner.environment import environment
    from seqdpo.runner.terminal import print_environment

    print_environment(console, environment())


@app.command(context_settings=PASS_FLAGS_ON)
def audit(
    arguments: AuditArguments = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="A folder or hub id of an adapter or model, named by the objectives it was trained on, in order: "
            "helpful=A, then helpful/harmless=B; repeatable.",
        ),
    ] = None,
) -> None:
    """Score checkpoints that were trained elsewhere, and see what the later ones did to the earlier objectives."""
    of = audit_of(arguments or [], checkpoint or [])
    from seqdpo.report.audit import print_checkpoints, print_loading
    from seqdpo.report.finished import read_run
    from seqdpo.runner.audit import run_audit
    from seqdpo.runner.board import board_for

    with _ended_well(Path(of.output_dir)):
        with board_for(console) as board:
            folder = run_audit(of, board)
        manifest = read_run(folder.root).manifest
        print_checkpoints(console, manifest)
        _show_findings(folder.root)
        print_loading(console, manifest)


def _run(study: Study) -> None:
    from seqdpo.runner.board import board_for
    from seqdpo.runner.study import run_study

    with _ended_well(Path(study.output_dir)):
        with board_for(console) as board:
            folder = run_study(study, board)
        _show_findings(folder.root)


@contextmanager
def _ended_well(output_dir: Path) -> Iterator[None]:
    """Says how to go on after an interruption; what nobody foresaw becomes an error that names its file."""
    from seqdpo.runner.crash import crashed

    try:
        yield
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be what has gone
            errors.print("Interrupted. Run the same command again to continue.")
        raise
    except SeqdpoError:
        raise
    except Exception as error:
        raise crashed(error, output_dir) from error


def _show_findings(root: Path) -> None:
    """Prints what was found, and writes its page."""
    from seqdpo.report.finished import read_run
    from seqdpo.report.print_findings import print_results
    from seqdpo.report.write import write_report

    run = read_run(root)
    print_results(console, run.findings)
    console.print(f"Everything is in {root}/", soft_wrap=True)
    for path in write_report(run):
        _wrote(path)


def _wrote(path: Path) -> None:
    size = f"{path.stat().st_size / 1e6:.1f} MB" if path.suffix == ".html" else ""
    console.print(f"Wrote {path} {size}".rstrip(), soft_wrap=True)


def _note(text: str) -> None:
    errors.print(text, style="dim")


def _explained(error: Exception) -> int:
    """Prints an error, and returns the exit code that it means."""
    from seqdpo.runner.crash import crashed

    told = error if isinstance(error, SeqdpoError) else crashed(error)
    text = told.named(_as_flag) if isinstance(told, ArgumentError) else str(told)
    with suppress(OSError):  # the terminal may be what has gone
        errors.print(f"Error: {text}", style="red" if errors.is_terminal else "", soft_wrap=True)
    return 3 if isinstance(told, RunError) else 2


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated(number)


def _as_flag(argument: str) -> str:
    """A function's argument by the name that the command line gives it."""
    return "--" + {"start": "from", "end": "to", "flip": "flips"}.get(argument, argument)


def _quiet_libraries() -> None:
    """What transformers and datasets print while loading would break the board; a user's own settings win."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.simplefilter("ignore", FutureWarning)  # between versions of transformers and peft; not for our users
