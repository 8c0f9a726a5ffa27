"""The command line as a whole: what it prints on any screen, how it ends, and what it says to begin with."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import seqdpo as package
from run_folders import pair, write_run
from seqdpo import cli
from seqdpo.screen import Screen, write_out
from seqdpo.study.checkpoints import typed

ORDER = "helpful>harmless"
MARGINS = {(ORDER, 1, 0): [2.0, 1.0], (ORDER, 2, 0): [1.0, -1.0]}
BRACKETS = "x[old] [/red] [bold]"  # rich's markup would end in an error, or take words away


def a_run(root, **columns):
    columns = {"chosen": "an emoji 😀 and é"} | columns
    return write_run(root, {"helpful": [pair("a1", **columns), pair("b2", **columns)]}, {"helpful": MARGINS})


# What is printed


def test_square_brackets_and_names_of_emoji_are_what_they_are(tmp_path, seqdpo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = a_run(Path(BRACKETS), chosen=f"{BRACKETS} :smile:")
    flat = " ".join(seqdpo("pairs", root, "--objective", "helpful", "--pair", "a1")[1].split())
    assert f"{BRACKETS} :smile:" in flat
    assert BRACKETS in seqdpo("compare", root, root)[1]
    assert BRACKETS in seqdpo("gate", f"{root}/none", "--max-loss", 0.05)[2]
    assert f"Wrote {BRACKETS}.yaml" in seqdpo("init", "hh-rlhf", "-o", f"{BRACKETS}.yaml")[1]
    assert BRACKETS in seqdpo("run", f"{BRACKETS}.yaml", f"--{BRACKETS}=1")[2]
    assert BRACKETS in seqdpo("pairs", root, "--objective", BRACKETS)[2]


@pytest.fixture
def printed_in(monkeypatch, seqdpo):
    """`printed_in("cp1252", "pairs", …)`: the code, and the bytes that come out of a pipe of that encoding."""

    def call(encoding, *arguments):
        pipe, errors = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(sys, "stderr", errors)
        code = seqdpo(*arguments)[0]
        pipe.flush(), errors.flush()
        return code, pipe.buffer.getvalue(), errors.buffer.getvalue()

    return call


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
@pytest.mark.parametrize("flags", [["--format", "jsonl"], ["--format", "csv"]])
def test_rows_are_utf8_whatever_the_encoding_of_the_output(tmp_path, printed_in, encoding, flags):
    code, output, _ = printed_in(encoding, "pairs", a_run(tmp_path / "run"), "--objective", "helpful", *flags)
    assert code == 0
    assert "an emoji 😀 and é" in output.decode("utf-8")


def test_a_table_shows_a_sign_for_what_the_output_cannot_hold(tmp_path, printed_in):
    root = a_run(tmp_path / "run")
    code, output, _ = printed_in("ascii", "pairs", root, "--objective", "helpful", "--pair", "a1")
    assert code == 0
    assert b"an emoji ? and ?" in output


def test_an_error_about_a_name_that_the_output_cannot_hold_is_still_one(tmp_path, printed_in):
    code, _, errors = printed_in("ascii", "gate", tmp_path / "läuft😀", "--max-loss", 0.1)
    assert code == 2
    assert b"no such folder" in errors


def test_a_process_of_another_encoding_prints_rows_in_utf8(tmp_path):
    command = [sys.executable, "-m", "seqdpo", "pairs", str(a_run(tmp_path / "run")), "--objective", "helpful"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    ended = subprocess.run([*command, "--format", "jsonl"], capture_output=True, env=environment, check=True)
    assert ended.stderr == b""
    assert "an emoji 😀 and é" in ended.stdout.decode("utf-8")


def test_nothing_in_a_message_steers_a_terminal(tmp_path, monkeypatch, seqdpo):
    study = tmp_path / "s.yaml"
    study.write_text(yaml.safe_dump({"beta\x1b[2J\x9b\u202e": 1, "output_dir": "x"}))
    monkeypatch.setattr(cli, "errors", Screen(stderr=True, force_terminal=True, no_color=True))
    code, _, told = seqdpo("run", study)
    assert code == 2
    assert "is not a key of a study" in " ".join(told.split())
    for character in "\x1b\x9b\u202e":
        assert character not in told.replace("\x1b[0m", "").replace("\x1b[31m", "")


def test_rich_texts_of_any_kind_are_shown_and_not_obeyed(capsys):
    from rich.table import Table
    from rich.text import Text

    table = Table("a[b]\x1b[2J", title="[/red]\x9b")
    table.add_row("\x1b]0;title\x07[/bold]")
    Screen().print(table, Text("\x1b[31m\u202e"))
    printed = capsys.readouterr().out
    assert "a[b]␛[2J" in printed
    assert "[/red]" in printed
    assert "␛]0;title␇[/bold]" in printed
    assert not re.search("[\x00-\x09\x0b-\x1f\x9b\u202e]", printed)


def test_rows_for_a_terminal_and_for_a_notebook_are_text(capsys):
    write_out(Screen(force_terminal=True), ["a\x1b[2J\n"])
    assert capsys.readouterr().out == "a␛[2J\n"


def test_unpaired_surrogates_do_not_end_the_output(tmp_path):
    code = (
        "from seqdpo.screen import *; accept_any_text(); Screen().print('a\\ud800'); write_out(Screen(), ['b\\ud800'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert ended.stdout == b"a?\nb\\ud800"


# Names of checkpoints


def test_a_checkpoint_can_be_typed_without_quotes(tmp_path, seqdpo):
    root = a_run(tmp_path / "run")
    for flags in (["--to", "helpful/harmless"], ["--from", "helpful", "--order", "helpful/harmless"]):
        code, output, _ = seqdpo("pairs", root, "--objective", "helpful", *flags)
        assert code == 0
        assert "from helpful to helpful>harmless" in output
    assert typed("helpful/harmless~placebo1") == "helpful>harmless~placebo1"


def test_a_name_that_a_shell_has_cut_off_is_met_with_the_other_way_to_type_it(tmp_path, seqdpo):
    # `--to helpful>harmless` reaches seqdpo as `--to helpful`; the shell has sent the output into a file
    root = a_run(tmp_path / "run")
    _, _, told = seqdpo("pairs", root, "--objective", "helpful", "--to", "helpful")
    assert "helpful/harmless" in told
    assert "helpful/harmless" in seqdpo("pairs", root, "--objective", "helpful", "--order", "helpful")[2]


# How it ends


def crash(*arguments, **options):
    raise KeyError("[/red] something\x1b[2J")


def test_an_error_that_nobody_foresaw_is_one_screen_and_a_log(tmp_path, seqdpo, monkeypatch):
    monkeypatch.setattr("seqdpo.report.finished.read_run", crash)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, output, told = seqdpo("pairs", tmp_path, "--objective", "helpful")
    assert (code, output) == (3, "")
    assert "Traceback" not in told
    assert "KeyError: '[/red] something" in told
    [log] = tmp_path.glob("seqdpo-*.log")
    assert str(log) in told
    assert "in crash" in log.read_text()
    assert "seqdpo env" in told


@pytest.mark.parametrize("error", [EOFError(), OSError(28, "full"), RecursionError(), MemoryError(), ValueError()])
def test_no_error_ends_as_a_failed_gate_does(tmp_path, seqdpo, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("seqdpo.report.finished.read_run", fail)
    code, _, told = seqdpo("gate", tmp_path, "--max-loss", 0.05)
    assert code == 3
    assert told.startswith(f"Error: {type(error).__name__}: ")


def test_where_no_memory_is_left_even_for_the_message_it_ends_as_a_run_that_failed(tmp_path, seqdpo, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr("seqdpo.report.finished.read_run", fail)
    code, _, told = seqdpo("gate", tmp_path, "--max-loss", 0.05)
    assert (code, "The memory does not suffice." in told) == (3, True)
    monkeypatch.setattr("seqdpo.runner.crash.crashed", fail)
    code, _, told = seqdpo("gate", tmp_path, "--max-loss", 0.05)
    assert code == 3
    assert told.startswith("Error: the memory does not suffice")
    assert len(told.splitlines()) == 1


def test_a_run_that_crashes_says_what_is_safe_and_keeps_its_traceback_in_the_events(tmp_path, seqdpo, monkeypatch):
    study, out = tmp_path / "s.yaml", tmp_path / "out"
    assert seqdpo("init", "lab-conflict", "-o", study)[0] == 0
    out.mkdir()
    (out / "events.jsonl").touch()
    monkeypatch.setattr("seqdpo.runner.study.run_study", crash)
    code, _, told = seqdpo("run", study, "--output-dir", out)
    assert code == 3
    assert f"Finished stages are safe in {out}: run the same command again" in told
    [event] = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    assert event["event"] == "crashed"
    assert "in crash" in event["traceback"]
    assert str(out / "events.jsonl") in told


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_debug_shows_the_traceback(tmp_path, seqdpo, monkeypatch, way):
    monkeypatch.setattr("seqdpo.report.finished.read_run", crash)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if way == "environment":
        monkeypatch.setenv("SEQDPO_DEBUG", "1")
    flags = ["--debug"] if way == "flag" else []
    code, _, told = seqdpo(*flags, "pairs", tmp_path, "--objective", "helpful")
    assert code == 3
    assert "Traceback" in told
    assert "in crash" in told


#: `seqdpo run`, which says that it has begun and waits.
WAITING = """
import sys, time, seqdpo.cli as cli, seqdpo.study.file

def wait(path):
    print('here', flush=True)
    time.sleep(60)

seqdpo.study.file.read_yaml = wait
sys.argv = ['seqdpo', 'run', 's.yaml']
cli.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_with_the_codes_of_a_shell(number, code):
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        process.send_signal(number)
        assert process.wait(timeout=30) == code
        assert process.stderr.read() == b""


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_under_nohup_a_terminal_that_is_closed_ends_nothing():
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, preexec_fn=ignore) as process:
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143  # and not 129


@pytest.mark.parametrize("arguments", [["--help"], ["pairs", "--help"], []])
def test_help_that_nobody_reads_to_its_end_is_no_failed_gate(arguments):
    command = [sys.executable, "-m", "seqdpo", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == b""


# Where it begins


def test_the_version_is_printed(seqdpo):
    assert seqdpo("--version") == (0, f"seqdpo {package.__version__}\n", "")


def test_alone_it_says_what_to_do_first(seqdpo):
    code, output, _ = seqdpo()
    assert code == 0
    assert len(output.splitlines()) < 12
    for command in ("seqdpo demo", "seqdpo init hh-rlhf", "seqdpo check", "seqdpo plan", "seqdpo run"):
        assert command in output


def test_without_a_home_and_a_passwd_entry_the_cache_lives_as_long_as_the_process(monkeypatch):
    pwd = pytest.importorskip("pwd")
    from seqdpo.cache import cache_dir

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("SEQDPO_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert cache_dir().is_dir()
    assert cache_dir() == cache_dir()
    monkeypatch.setenv("SEQDPO_CACHE", "~nobody-of-that-name/cache")
    assert cache_dir() == Path("~nobody-of-that-name/cache")


# init --from


def test_init_from_says_what_became_of_every_key_and_overwrites_nothing(tmp_path, seqdpo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("model_name_or_path: lab\nuse_peft: true\ndataset_name: x.jsonl\nsave_steps: 5\n")
    code, out, _ = seqdpo("init", "--from", "a.yaml")
    assert code == 0
    assert "save_steps = 5: a checkpoint is kept after every stage" in " ".join(out.split())
    assert out.endswith("Wrote study.yaml. Next: seqdpo check study.yaml\n")
    before = Path("study.yaml").read_text()
    code, out, err = seqdpo("init", "--from", "a.yaml")
    assert (code, out) == (2, "")
    assert "study.yaml: exists already" in err
    assert Path("study.yaml").read_text() == before
    code, out, err = seqdpo("init", "--from", "a.yaml", "-o", "-")
    assert (code, out) == (0, before)
    assert "Left out:" in err


@pytest.mark.parametrize("arguments", [[], ["hh-rlhf", "--from", "a.yaml"]])
def test_init_wants_a_setting_or_files(arguments, seqdpo):
    code, _, err = seqdpo("init", *arguments)
    assert code == 2
    assert "expected a setting, or --from FILE for each stage" in err
