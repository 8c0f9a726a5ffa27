"""One file of a finished run spoilt: no command answers as if nothing were, or ends in a traceback.

benchmarks/faults/corruptions.py does the same to every file, with every command, and follows each remedy.
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

from seqdpo.errors import DataError
from seqdpo.files import read_sealed
from seqdpo.layout import check_manifest_hash
from seqdpo.runner.findings import analyse, write_findings
from seqdpo.runner.folder import RunFolder

OLDER_RUN = Path(__file__).with_name("older_run")
SPOILT = {
    "cut in half": lambda content: content[: len(content) // 2],
    "one bit flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "empty": lambda content: b"",
    "wrong type": lambda content: b"[1, 2]\n",
    "missing": None,
}
#: The files that a command reads, and what it says makes them whole.
READ = {
    "gate": ("results.json", "manifest.json", "study.yaml"),
    "pairs": ("scores.parquet", "manifest.json", "study.yaml", "data/pairs.parquet"),
    "analyse": ("study.yaml", "data/pairs.parquet", "data/dropped.json", "stages/seed0.first/scores.parquet"),
}
COMMANDS = {
    "gate": ("gate", "run", "--max-loss", "0.99"),
    "pairs": ("pairs", "run", "--objective", "first"),
    "analyse": ("analyse", "run"),
}


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    shutil.copytree(OLDER_RUN, folder.root)
    write_findings(folder)
    return folder


def spoil(path, how):
    if SPOILT[how] is None:
        path.unlink()
    else:
        path.write_bytes(SPOILT[how](path.read_bytes()))


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize(("command", "name"), [(command, name) for command in READ for name in READ[command]])
def test_a_spoilt_file_is_named_with_what_makes_it_whole(analysed, tmp_path, seqdpo, monkeypatch, command, name, how):
    shutil.copytree(analysed.root, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    spoil(Path("run") / name, how)
    code, _, errors = seqdpo(*COMMANDS[command])
    told = " ".join(errors.split())
    assert code == 2, told
    assert name in told
    assert "Run the study again" in told or "seqdpo analyse run" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("name", ["results.json", "scores.parquet", "manifest.json", "movement.parquet"])
def test_what_was_derived_is_derived_again(analysed, tmp_path, seqdpo, monkeypatch, name, how):
    shutil.copytree(analysed.root, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    spoil(Path("run") / name, how)
    write_findings(RunFolder(Path("run")))
    for derived in ("results.json", "scores.parquet", "movement.parquet"):
        assert (Path("run") / derived).read_bytes() == (analysed.root / derived).read_bytes()


def test_no_flipped_bit_of_the_scores_passes_unseen(analysed, tmp_path):
    shutil.copytree(analysed.root, tmp_path / "run")
    folder, generator = RunFolder(tmp_path / "run"), random.Random(0)
    manifest, content = read_sealed(folder.manifest), folder.scores.read_bytes()
    for _ in range(100):
        bit = generator.randrange(8 * len(content))
        spoilt = bytearray(content)
        spoilt[bit // 8] ^= 1 << bit % 8
        folder.scores.write_bytes(spoilt)
        with pytest.raises(DataError, match=r"scores.parquet: checksum = .*seqdpo analyse"):
            check_manifest_hash(folder.scores, folder, manifest)
    folder.scores.write_bytes(content)
    check_manifest_hash(folder.scores, folder, manifest)


def analysing(root, **options):
    """`seqdpo analyse` in a process of its own."""
    command = [sys.executable, "-m", "seqdpo", "analyse", str(root)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def findings_of(root):
    names = ("scores.parquet", "results.json", "manifest.json", "report.html", "report.md")
    return {name: (root / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A run with its page, in a folder of the name that the page has."""
    root = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(OLDER_RUN, root)
    analyse(root)
    return root


def ended(process):
    """Its exit code, and what it said as errors."""
    told = process.communicate()[1]
    return process.returncode, told


def test_several_commands_at_once_end_well_or_are_refused(reported, tmp_path):
    """benchmarks/faults/concurrency.py does the same with runs, and on one cache."""
    root = Path(shutil.copytree(reported, tmp_path / "run"))
    answers = [ended(process) for process in [analysing(root) for _ in range(3)]]
    assert 0 in [code for code, _ in answers]
    assert all(code == 0 or "another process is running a study there" in told for code, told in answers), answers
    assert findings_of(root) == findings_of(reported)
    assert not list(root.rglob("*.tmp"))


def test_killed_while_it_writes_the_same_command_ends_with_the_same_bytes(reported, tmp_path):
    """benchmarks/faults/kills.py does the same with runs, at random moments."""
    root = Path(shutil.copytree(reported, tmp_path / "run"))
    for begun in ("scores.parquet", "results.json"):
        process = analysing(root)
        while process.poll() is None and not list(root.glob(f".{begun}.*.tmp")):
            sleep(0.001)
        process.kill()
        ended(process)
    assert ended(analysing(root))[0] == 0
    assert findings_of(root) == findings_of(reported)
    assert not list(root.rglob("*.tmp"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
@pytest.mark.parametrize("size", [0, 20_000])
def test_a_disk_that_is_full_ends_in_one_screen_and_loses_nothing(reported, tmp_path, size):
    """No file beyond a size, as benchmarks/faults/disk_full.py --file-size does with runs."""
    import resource

    root = Path(shutil.copytree(reported, tmp_path / "run"))
    limited = analysing(root, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    code, told = ended(limited)
    assert code in (2, 3), told
    assert "Traceback" not in told
    assert "File too large" in told
    assert len(told.splitlines()) < 24
    assert ended(analysing(root))[0] == 0
    assert findings_of(root) == findings_of(reported)
