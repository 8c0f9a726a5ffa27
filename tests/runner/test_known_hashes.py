"""Continuing a run reads a large file again only where the file system says that it was written to."""

import os
import shutil

import pytest
from test_run_study import lab_study

from seqdpo.errors import DataError
from seqdpo.files import file_hash, write_sealed
from seqdpo.layout import NODE_FILE, WEIGHTS_FILE
from seqdpo.runner import known_hashes
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.known_hashes import KnownHashes
from seqdpo.runner.records import check_adapter, place_of
from seqdpo.runner.schedule import unfinished
from seqdpo.study.checkpoints import Node
from seqdpo.study.tree import stage_tree

ADAPTER = f"adapter/{WEIGHTS_FILE}"


@pytest.fixture
def read(monkeypatch):
    """The names of stages whose large files are read, of files that settled long ago."""
    names = []

    def hashed(path):
        if path.name == WEIGHTS_FILE:
            names.append(path.parent.parent.name)
        return file_hash(path)

    monkeypatch.setattr(known_hashes, "file_hash", hashed)
    monkeypatch.setattr(known_hashes, "LARGE", 100)
    monkeypatch.setattr(known_hashes, "SETTLED", -1.0)
    return names


@pytest.fixture
def run(tmp_path):
    """A finished run of two orders, whose adapters are 1000 bytes of the stage's number."""
    folder, study = RunFolder(tmp_path / "run"), lab_study(tmp_path / "run", placebo=0)
    adapters = {None: None}
    for number, node in enumerate([None, *stage_tree(study)]):
        files = {}
        if node is not None:
            path = folder.stage(node) / ADAPTER
            path.parent.mkdir(parents=True)
            path.write_bytes(bytes([number]) * 1000)
            adapters[node] = files[ADAPTER] = file_hash(path)
        parent = {} if node is None else {"parent_adapter": adapters[node.parent]}
        write_sealed(folder.stage(node) / NODE_FILE, place_of(node) | parent | {"files": files})
    (folder.root / "logs").mkdir()
    return folder, study


FIRST = Node(0, ("first",))
EVERY = ["seed0.first", "seed0.first.second", "seed0.second", "seed0.second.first"]


def left(run):
    folder, study = run
    said = []
    nodes = unfinished(folder, study, {}, said.append)
    return [node.folder for node in nodes if node is not None], said


def test_what_did_not_change_is_read_once(run, read):
    assert left(run) == ([], [])
    assert sorted(read) == EVERY
    read.clear()
    assert left(run) == ([], [])
    assert read == []


def flipped(path):
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


def exchanged(path):
    other = path.with_name("other")
    other.write_bytes(b"x" * 1000)
    os.replace(other, path)


@pytest.mark.parametrize("spoil", [flipped, exchanged])
def test_a_file_that_was_written_to_is_found_though_size_and_time_are_put_back(spoil, run, read):
    left(run)
    read.clear()
    path = run[0].stage(FIRST) / ADAPTER
    before = path.stat()
    spoil(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    nodes, said = left(run)
    assert read == ["seed0.first"]
    assert nodes == ["seed0.first"]
    assert f"{ADAPTER}: checksum = " in said[0]


def test_a_copy_of_a_run_is_read_again(run, read, tmp_path):
    folder, study = run
    left(run)
    read.clear()
    shutil.copytree(folder.root, tmp_path / "copy")
    assert left((RunFolder(tmp_path / "copy"), study)) == ([], [])
    assert sorted(read) == EVERY


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text('{"checksum": "0"}')])
def test_without_what_was_known_everything_is_read(spoil, run, read):
    left(run)
    read.clear()
    spoil(run[0].root / "logs" / "hashes.json")
    assert left(run) == ([], [])
    assert sorted(read) == EVERY


def test_what_was_written_a_moment_ago_is_not_yet_known(run, read, monkeypatch):
    """It may be written to again without a later time."""
    monkeypatch.setattr(known_hashes, "SETTLED", 2.0)
    left(run)
    assert KnownHashes(run[0])._known == {}


def test_what_a_stage_builds_on_is_read_whole(run, read):
    """A disk that changes bits by itself leaves no trace in the file system's times."""
    folder, _ = run
    left(run)
    check_adapter(folder, FIRST)
    flipped(folder.stage(FIRST) / ADAPTER)
    with pytest.raises(DataError, match=r"seed0.first/adapter/.*: checksum = .* Run the study again"):
        check_adapter(folder, FIRST)
    check_adapter(folder, None)
