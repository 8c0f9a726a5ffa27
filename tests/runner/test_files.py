"""Files are written whole, and what was killed half way is swept away."""

import json
import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Timer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from seqdpo.errors import ConfigError, DataError
from seqdpo.files import (
    folder_written_whole,
    host_name,
    read_sealed,
    read_table,
    set_aside,
    sweep,
    write_for_user,
    write_sealed,
    write_table,
    write_text,
)
from seqdpo.runner.folder import RunFolder


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), folder_written_whole(tmp_path / "stage") as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with folder_written_whole(tmp_path / "stage") as folder:
        (folder / "a").write_text("whole")
    assert (tmp_path / "stage/a").read_text() == "whole"


def test_only_what_a_killed_process_left_is_swept(tmp_path):
    (tmp_path / ".scores.parquet.4711.tmp").write_text("half")
    (tmp_path / "stages/.seed0.first.4711.tmp/adapter").mkdir(parents=True)
    users = [tmp_path / "notes.tmp", tmp_path / ".hidden", tmp_path / "stages/a.12.tmp"]
    for path in users:
        path.write_text("a user's")
    sweep(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(users)
    assert list((tmp_path / "stages").iterdir()) == [tmp_path / "stages/a.12.tmp"]


def test_what_another_process_writes_is_not_swept_while_it_lives(tmp_path):
    """A page is written without the folder's lock: `analyse` must not take it away from a run that has just ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as writer:
        page = tmp_path / f".report.html.{host_name()}-{writer.pid}.tmp"
        page.write_text("half")
        with RunFolder(tmp_path).locked():
            assert page.exists()
        writer.kill()
    with RunFolder(tmp_path).locked():
        assert not page.exists()


def test_a_look_at_a_lock_refuses_nobody(tmp_path):
    """`seqdpo status` takes the lock for a moment to see whether it is held."""
    (tmp_path / ".lock").touch()
    look = FileLock(tmp_path / ".lock", thread_local=False)  # released by another thread
    look.acquire()
    Timer(0.1, look.release).start()
    with RunFolder(tmp_path).locked():
        assert not look.is_locked


def test_what_is_set_aside_never_takes_the_place_of_another(tmp_path):
    names = []
    for content in "abc":
        (tmp_path / "scores").write_text(content)
        names.append(set_aside(tmp_path / "scores").name)
    assert names == ["scores.damaged", "scores.damaged2", "scores.damaged3"]
    assert (tmp_path / "scores.damaged").read_text() == "a"


def test_a_device_a_pipe_and_a_link_stay_what_they_are(tmp_path):
    write_for_user(tmp_path / "page.html", b"first")
    (tmp_path / "link.html").symlink_to(tmp_path / "page.html")
    write_for_user(tmp_path / "link.html", b"second")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").read_bytes() == b"second"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_for_user(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    device = Path("/dev/null").stat().st_rdev
    with_device = tmp_path / "null"
    with_device.symlink_to("/dev/null")
    write_for_user(with_device, b"away")
    assert Path("/dev/null").stat().st_rdev == device != 0


def test_a_folder_is_no_place_for_a_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        write_for_user(tmp_path, b"page")


def test_a_record_that_was_changed_by_one_digit_is_refused_by_name(tmp_path):
    write_sealed(tmp_path / "a.json", {"seed": 1, "parts": [0.1, None]})
    assert read_sealed(tmp_path / "a.json") == {"seed": 1, "parts": [0.1, None]}
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace('"seed": 1', '"seed": 3'))
    with pytest.raises(DataError, match=r"a.json: checksum = .*it is spoilt. Run the study again"):
        read_sealed(tmp_path / "a.json")


def test_a_folder_in_the_place_of_a_file_of_ours_is_set_aside(tmp_path):
    (tmp_path / "a.json/inside").mkdir(parents=True)
    write_text(tmp_path / "a.json", "whole")
    assert (tmp_path / "a.json").read_text() == "whole"
    assert (tmp_path / "a.json.damaged/inside").is_dir()


def test_a_log_that_cannot_be_written_is_said_once_and_ends_nothing(tmp_path, caplog):
    folder = RunFolder(tmp_path)
    folder.events.mkdir()
    folder.log("first")
    folder.log("second")
    [record] = caplog.records
    assert "events.jsonl: cannot be written (Is a directory)" in record.getMessage()


def test_a_line_that_was_cut_off_spoils_no_other_line_of_the_log(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log("first")
    folder.events.write_bytes(folder.events.read_bytes() + b'{"time": "2026-')
    folder.log("second")
    lines = folder.events.read_text().splitlines()
    assert [json.loads(line)["event"] for line in (lines[0], lines[2])] == ["first", "second"]


def test_no_flipped_bit_of_a_page_is_read_as_another_number(tmp_path):
    """Without checksums about a third of them are: what is checked is nothing that decompression would find anyway."""
    path, rows = tmp_path / "a.parquet", range(9)
    table = pa.table({"pair_id": [f"p{i}" for i in rows], "chosen_logp": [i / 7 for i in rows]})
    write_table(path, table)
    assert unseen_flips(path, table) == 0
    pq.write_table(table, path, compression="zstd")
    assert read_table(path) == table  # as older releases wrote it
    assert unseen_flips(path, table) > 0


def unseen_flips(path, table):
    """Of how many bytes between the first page and the footer one flipped bit is read as another table."""
    content = path.read_bytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    unseen = 0
    for place in range(4, end):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << place % 8
        path.write_bytes(spoilt)
        with suppress(DataError):
            unseen += read_table(path) != table
    path.write_bytes(content)
    return unseen
