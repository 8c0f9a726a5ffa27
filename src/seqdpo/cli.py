"""The command line. Exit codes: 0 done, 1 a gate failed, 2 wrong input, 3 the run failed, 129, 130
and 143 ended by SIGHUP, Ctrl-C and SIGTERM."""

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

import seqdpo
from seqdpo.errors import ArgumentError, ConfigError, RunError, SeqdpoError
from seqdpo.launched import check_alone, check_whole_base, launch
from seqdpo.screen import SIGPIPE, Screen, accept_any_text, print_account, write_out
from seqdpo.study.checkpoints import typed
from seqdpo.study.config import Study
from seqdpo.study.file import audit_of, study_of
from seqdpo.study.settings import SETTINGS
from seqdpo.study.template import study_template
from seqdpo.study.variants import STANDARD
from seqdpo.wording import did_you_mean

if TYPE_CHECKING:
    from seqdpo.runner.study import Elsewhere

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
            try:
                code = _explained(error)
            except Exception:  # no memory even for that; an error of its own would end with 1
                code = _explained_with_nothing_left()
            sys.exit(code)
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
MeasureOption = Annotated[
    Literal["margin", "ln_margin", "ln_margin_base_corrected"],
    typer.Option(help="What a pair is measured by; findings are decided on the margin."),
]
PairsFormat = Literal["table", "jsonl", "csv", "parquet"]
ROWS_ON_SCREEN = 20
MOST_FILES_NAMED = 4
_NOTHING_LEFT = (  # bytes that are there when there is no memory for others
    b"Error: the memory does not suffice, not even to say for what. No file is left half-written; finished stages are "
    b"safe. Run the same command again where more is free.\n"
)
FOR_SEVERAL_PROCESSES = ("run", "stage")
PASS_FLAGS_ON = {"ignore_unknown_options": True}


FIRST_STEPS = """\
Begin with one of these:
  seqdpo demo                    a small study on a built-in model: no download, about a minute
  seqdpo init hh-rlhf            a commented study file: hh-rlhf.yaml
  seqdpo check hh-rlhf.yaml      what is wrong with it, its data and its chat template
  seqdpo plan hh-rlhf.yaml       what it will cost
  seqdpo run hh-rlhf.yaml        the study; the same command again goes on with it
All commands: seqdpo --help; completion in your shell: seqdpo --install-completion"""


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
        return
    check_whole_base()
    if context.invoked_subcommand not in (None, *FOR_SEVERAL_PROCESSES):
        check_alone(f"seqdpo {context.invoked_subcommand}")
    elif context.invoked_subcommand is None:
        write_out(console, [FIRST_STEPS + "\n"])


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
    until_separable: Annotated[
        bool,
        typer.Option("--until-separable", help="Add control stages (4, 8, 16) until what moved is attributable."),
    ] = False,
) -> None:
    """Run a study; run it again to continue where it stopped."""
    if _followed():
        return
    study = study_of(arguments)
    if prepare or executor != "here":
        check_alone("seqdpo run --prepare" if prepare else f"seqdpo run --executor {executor}")
    if prepare:
        _prepare(study)
        return
    from seqdpo.runner.executors.choice import chosen_executor
    from seqdpo.runner.followers import leading

    with leading():
        _run(study, chosen_executor(executor, address, executor_args), until_separable)


@app.command()
def stage(
    run: RunArgument,
    node: Annotated[str, typer.Argument(metavar="NODE", help="As `seqdpo plan --format json` names it.")],
) -> None:
    """Run one stage of a study that `seqdpo run --prepare` made ready, in a process of its own."""
    if _followed():
        return
    from seqdpo.runner.followers import leading
    from seqdpo.runner.worker import Worker

    with leading():
        if not Worker(run, _note).run(node):
            _note(f"{node}: was done before")


@app.command()
def demo(
    output_dir: Annotated[str, typer.Option(help="A folder for each setting is made in it.")] = "runs/demo",
    every: Annotated[bool, typer.Option("--all", help="All four settings, some minutes.")] = False,
) -> None:
    """Run a lab setting in both orders: no download, about a minute on a laptop."""
    from seqdpo.lab.demo import HOW_FAR_RUNS_DIFFER, demo_studies
    from seqdpo.report.finished import read_run
    from seqdpo.report.print_findings import in_three_lines, verdict_table
    from seqdpo.runner.folder import check_output_dir

    studies = demo_studies(output_dir, every)
    for study in studies:  # all of them before the first is run
        check_output_dir(Path(study.output_dir))
    for study in studies:
        _headed(study)
        _run(study)
    if every:
        for study in studies:  # the first ones have left the screen
            _headed(study)
            console.print(verdict_table(read_run(study.output_dir).findings.cells))
        return
    console.rule("In three lines", align="left")
    for line in in_three_lines(read_run(studies[0].output_dir).findings.cells[0]):
        console.print(line)
    console.print(HOW_FAR_RUNS_DIFFER)
    console.print(f"Open {Path(studies[0].output_dir, 'report.html')} in a browser: every pair is there.")
    console.print("Three settings more, some minutes: seqdpo demo --all")


def _headed(study: Study) -> None:
    console.rule(f"{study.setting}: {SETTINGS[str(study.setting)].relation}", align="left")


@app.command()
def init(
    setting: Annotated[str | None, typer.Argument(help=f"One of {', '.join(SETTINGS)}.", show_default=False)] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="A DPO configuration of TRL, Axolotl or LLaMA-Factory; one for each stage, in the order of training.",
        ),
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="The file; - prints it.")] = None,
    variants: Annotated[
        Literal["standard"] | None, typer.Option(help="Remedies to try beside the plain stages.")
    ] = None,
) -> None:
    """Write a commented study file for a setting, or from configurations of other tools."""
    if files and variants:
        raise ConfigError(
            "init: --variants with --from; expected it with a setting. Write `variants: standard` into the study file "
            "that --from makes."
        )
    if files and setting is None:
        _init_from(files, output)
    elif setting is None or files:
        raise ConfigError("init: expected a setting, or --from FILE for each stage. All settings: seqdpo init --help")
    elif setting not in SETTINGS:
        near = did_you_mean(setting, SETTINGS)
        raise ConfigError(f"init: {setting!r} is no setting; expected one of {', '.join(SETTINGS)}.{near}")
    else:
        text = study_template(setting, STANDARD if variants else None)
        _write_study(text, output, f"{setting}.yaml", "plan")


def _init_from(files: list[Path], output: str | None) -> None:
    from seqdpo.study.other_configs.together import import_study

    imported = import_study(files)
    _write_study(imported.text, output, "study.yaml", "check", imported.account)


def _write_study(
    text: str, output: str | None, name: str, next_step: str, account: Sequence[tuple[str, list[str]]] = ()
) -> None:
    """Writes a study file that is not there yet, and says what is in it; `-` prints it, and the rest as errors."""
    if output == "-":
        print_account(errors, account)
        write_out(console, [text])
        return
    path = Path(output or name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path}: exists already. Choose another name with --output, or remove it.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}. Choose another place with --output.") from None
    print_account(console, account)
    console.print(f"Wrote {path}. Next: seqdpo {next_step} {path}", soft_wrap=True)


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


@app.command()
def status(
    run: RunArgument,
    follow: Annotated[
        bool, typer.Option("--follow", help="Again every two seconds, until nobody works on it.")
    ] = False,
) -> None:
    """Show how a run stands, also one that runs elsewhere: state, time, memory, host and device of each stage."""
    from rich.live import Live

    from seqdpo.runner.folder import RunFolder
    from seqdpo.runner.status import run_status, status_board

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
    device: Annotated[
        Literal["a100", "h100"] | None,
        typer.Option(help="For a device that is not here, by its data sheet; else this machine is measured."),
    ] = None,
) -> None:
    """Show the tree of stages, pairs, tokens, parameters, memory and time; runs nothing."""
    study = study_of(arguments)
    from seqdpo.runner.can_show import can_show
    from seqdpo.runner.design import design_notes
    from seqdpo.runner.inputs import read_preferences, with_model_path
    from seqdpo.runner.plan import plan_study
    from seqdpo.runner.plan_formats import plan_json, plan_make
    from seqdpo.runner.terminal import print_plan

    if form == "make":
        write_out(console, [plan_make(study, study.output_dir, arguments)])
        return
    study = with_model_path(study)
    preferences, _ = read_preferences(study, _note)
    found = plan_study(study, preferences, device)
    if form == "json":
        write_out(console, [plan_json(study.output_dir, found)])
        return
    print_plan(console, study, preferences, found)
    for line in can_show(study, preferences, found):
        console.print(line)
    for note in design_notes(study, preferences):
        console.print(f"note: {note}")


@app.command(context_settings=PASS_FLAGS_ON)
def preflight(
    arguments: StudyArguments,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Only of this stage, as helpful/harmless, also of a trained one; repeatable."
        ),
    ] = None,
    share: Annotated[
        float,
        typer.Option(min=0.001, max=1, help="Of the stage's training passes, how many it may take."),
    ] = 0.15,
    form: Annotated[Literal["table", "json"], typer.Option("--format")] = "table",
) -> None:
    """Say what can be said of the next stages before they are trained: what they will take from what was learned."""
    study = study_of(arguments)
    from seqdpo.analysis.schema import to_json
    from seqdpo.report.print_preflight import print_preflights
    from seqdpo.runner.board import board_for
    from seqdpo.runner.preflight import run_preflight

    with _ended_well(Path(study.output_dir)), board_for(errors if form == "json" else console) as board:
        found = run_preflight(study, board, stage or (), share)
    if form == "json":
        write_out(console, [json.dumps(to_json(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"])
        return
    print_preflights(console, found, study.output_dir)


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
    measure: MeasureOption = "margin",
) -> None:
    """List what happened to each pair of an objective between two checkpoints, the most lost first."""
    from seqdpo.analysis.pair_query import PairQuery, trajectory
    from seqdpo.report.finished import read_run
    from seqdpo.report.pair_files import file_format, write_rows
    from seqdpo.report.print_pairs import print_pair, print_pairs
    from seqdpo.report.rows import row_texts

    file_form = file_format(form, output)
    limit = limit or (None if file_form else ROWS_ON_SCREEN)
    query = PairQuery(objective, start, end, order, seed, pair, tuple(where or ()), flips, sort, limit, measure)
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
def generate(
    run: RunArgument,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Held-out prompts of each objective.")] = 20,
    objective: Annotated[list[str] | None, typer.Option(help="Only this objective; may be repeated.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 256,
    engine: Annotated[Literal["transformers", "vllm"], typer.Option(help="What answers.")] = "transformers",
    judge: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Judges pairs of answers; docs/commands.md has its JSON.")
    ] = None,
) -> None:
    """Let every checkpoint answer the same held-out prompts, and show the answers on the page."""
    from seqdpo.analysis.generations import count_answers, engines
    from seqdpo.report.print_generations import print_answers, print_win_rates
    from seqdpo.report.write import write_report
    from seqdpo.runner.generations import generate as answer_prompts
    from seqdpo.runner.judge import win_rates

    with _ended_well(run):
        found = answer_prompts(run, n, objective or (), max_new_tokens, _note, engine)
    assert found.generations is not None
    print_answers(console, count_answers(found.generations), engines(found.generations))
    for path in write_report(found):
        _wrote(path)
    if judge is not None:
        confidence = found.findings.method.tolerances.confidence
        print_win_rates(console, win_rates(found, judge, confidence), confidence)


@app.command()
def analyse(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="A run folder: the output_dir of a study.", show_default=False),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Scores from elsewhere, .jsonl or .parquet, in place of RUN (docs/scores.md)."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new run folder of --scores; else runs/NAME of the file.")
    ] = None,
    beta: Annotated[float, typer.Option(min=0, help="Of the loss behind --scores; scales reward_margin alone.")] = 0.1,
    as_in_study: Annotated[
        bool, typer.Option("--as-in-study", help="Print the quartile tables of arXiv 2606.19744, in its own measure.")
    ] = False,
) -> None:
    """Derive tables, results.json and the report from a run's own files, or from scores; loads no model."""
    if (run is None) == (scores is None):
        raise ConfigError("analyse: expected a run folder, or --scores FILE; one of them.")
    if scores is not None:
        from seqdpo.runner.given_scores import run_of_scores

        root = output or Path("runs") / scores.name.partition(".")[0]
        run_of_scores(scores, root, beta)
        _show_findings(root)
        return
    assert run is not None
    from seqdpo.layout import check_run_folder
    from seqdpo.report.finished import read_run
    from seqdpo.report.print_as_in_study import print_as_in_study
    from seqdpo.runner.findings import write_findings
    from seqdpo.runner.folder import RunFolder

    folder = RunFolder(run)
    check_run_folder(folder)
    with folder.locked():
        write_findings(folder)
        folder.log("analysed")
    if as_in_study:
        print_as_in_study(console, read_run(run).findings)
        return
    _show_findings(run)


@app.command()
def rescore(
    run: RunArgument,
    max_eval_pairs: Annotated[int, typer.Option(min=1, help="Held-out pairs of each objective, as in the study file.")],
) -> None:
    """Score more held-out pairs under the checkpoints that are there, and look again; trains nothing."""
    from seqdpo.runner.board import board_for
    from seqdpo.runner.rescore import rescore as rescore_run

    with _ended_well(run):
        with board_for(console) as board:
            rescore_run(run, max_eval_pairs, board)
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
    measure: MeasureOption = "margin",
) -> None:
    """Write the findings as one HTML page, down to the single pair, and the adapters' card, report.md, beside it."""
    from seqdpo.report.figures import check_drawing
    from seqdpo.report.finished import read_run
    from seqdpo.report.write import write_figures, write_report

    if figures is not None:
        check_drawing()  # before anything is written
    source = read_run(run)
    written = write_report(source, output, card, measure)
    if figures is not None:
        with console.status("drawing figures"):
            written += write_figures(source, figures)
    shown = written if len(written) <= MOST_FILES_NAMED else written[:2]
    for path in shown:
        _wrote(path)
    if len(shown) < len(written):
        console.print(f"and {len(written) - len(shown)} files in {figures}")


@app.command()
def samples(
    run: RunArgument,
    form: Annotated[Literal["lm-eval", "inspect"], typer.Option("--format", help="Whose viewer is to open them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder.")],
) -> None:
    """Write every held-out pair under every checkpoint as lm-evaluation-harness's or Inspect's samples."""
    from datetime import UTC, datetime

    from seqdpo.report.finished import read_run
    from seqdpo.report.write import write_samples

    number = write_samples(read_run(run), form, output, datetime.now(UTC).replace(microsecond=0))
    console.print(f"Wrote {number} files into {output}", soft_wrap=True)


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
def export(
    run: RunArgument,
    target: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write, which is not there yet.")],
    variant: Annotated[str, typer.Option(help="Whose adapter; plain: of the study's own keys.")],
    order: Annotated[
        str | None, typer.Option(parser=typed, metavar="NAME", help="Of this order, where there are several.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed; else the study's first.")] = None,
) -> None:
    """Write the adapter of a variant at the end of its order, ready to load or to serve."""
    from seqdpo.runner.export import export as export_run

    written = export_run(run, target, variant, order, seed)
    console.print(f"Wrote {target}: {written.node.checkpoint}, seed {written.node.seed}.", soft_wrap=True)
    write_out(console, [f"  {line}\n" for line in written.lines])


@app.command()
def gate(
    run: RunArgument,
    max_loss: Annotated[float, typer.Option(help="Share of the learned margin that may be gone, as 0.05.")],
    max_accuracy_loss: Annotated[
        float | None,
        typer.Option(help="Accuracy that may be gone, as 0.02 for two points; else the study's accuracy_tolerance."),
    ] = None,
    objective: Annotated[str | None, typer.Option(help="Only this earlier objective; else all of them.")] = None,
    order: Annotated[
        str | None, typer.Option(parser=typed, metavar="NAME", help="Only this order, as helpful/harmless.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="The orders of this variant; else those of none.")] = None,
    strict: Annotated[bool, typer.Option(help="Fail, too, where the pairs cannot rule such a loss out.")] = False,
) -> None:
    """Exit 1 if later stages took more of an earlier objective than they may, with confidence: of its learned margin,
    its accuracy, or what the base could do."""
    from seqdpo.analysis.gate import gated
    from seqdpo.report.finished import read_run
    from seqdpo.report.print_findings import print_gate

    outcomes = gated(read_run(run).findings, max_loss, objective, order, strict, max_accuracy_loss, variant)
    print_gate(console, outcomes)
    if any(one.outcome == "failed" for one in outcomes):
        raise _GateFailed(1)


@app.command()
def push(
    run: RunArgument,
    repo: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="Of the adapter; the tables go to OWNER/NAME-results.")
    ],
    checkpoint: Annotated[
        str | None, typer.Option(parser=typed, metavar="NAME", help="As helpful/harmless; else the first order's last.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed; else the study's first.")] = None,
    public: Annotated[bool, typer.Option(help="For everybody to see; else private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files; nothing is sent.")] = False,
) -> None:
    """Publish an adapter with its card and lineage, and the run's tables, on the Hugging Face hub."""
    from seqdpo.report.finished import read_run
    from seqdpo.report.publication import publication
    from seqdpo.runner.push import push as push_to_hub
    from seqdpo.runner.push import size

    repositories = publication(read_run(run), repo, checkpoint, seed)
    for one in repositories:
        console.print(f"{one.kind} {one.name}, {'public' if public else 'private'}:", soft_wrap=True)
        for path, content in one.files.items():
            console.print(f"  {size(content):>12,} bytes  {path}", soft_wrap=True)
    if dry_run:
        console.print("data/pairs.parquet and report.html hold the texts of the pairs. Nothing was sent.")
        return
    for address in push_to_hub(repositories, public):
        console.print(f"Published {address}", soft_wrap=True)


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


def _followed() -> bool:
    """Whether this process is not the first of its run; what that one asked it for is done then."""
    if launch().is_first:
        return False
    from seqdpo.runner.followers import follow

    follow()
    return True


def _prepare(study: Study) -> None:
    from seqdpo.runner.board import board_for
    from seqdpo.runner.study import prepare_run

    with board_for(errors) as board:
        folder = prepare_run(study, board)
    console.print(f"{folder.root}/ is ready for seqdpo stage", soft_wrap=True)


def _run(study: Study, elsewhere: "Elsewhere | None" = None, until_separable: bool = False) -> None:
    from seqdpo.runner.board import board_for
    from seqdpo.runner.generations import generate_as_asked
    from seqdpo.runner.study import run_study
    from seqdpo.runner.until_separable import run_until_separable

    with _ended_well(Path(study.output_dir)):
        with board_for(console) as board:
            run_all = run_until_separable if until_separable else run_study
            folder = run_all(study, board, elsewhere)
        generate_as_asked(study.output_dir, study.generate, _note)
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


def _explained_with_nothing_left() -> int:
    with suppress(OSError):
        os.write(2, _NOTHING_LEFT)
    return 3


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated(number)


def _as_flag(argument: str) -> str:
    """A function's argument by the name that the command line gives it."""
    return "--" + {"start": "from", "end": "to", "flip": "flips"}.get(argument, argument).replace("_", "-")


def _quiet_libraries() -> None:
    """What transformers and datasets print while loading would break the board; a user's own settings win."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.simplefilter("ignore", FutureWarning)  # between versions of transformers and peft; not for our users
