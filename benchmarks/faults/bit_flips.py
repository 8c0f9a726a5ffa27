"""Single bits flipped in scores, adapters and the cache of base log-probabilities: how many pass unseen?

    python benchmarks/faults/bit_flips.py --flips 1500

A small study of the lab runs once. Then one random bit of one file at a time is flipped, and what reads the file is
asked for it: the manifest's and the records' checksums, and the stamp of a cache entry.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from corruptions import STAGE, Bench

from seqdpo.errors import DataError
from seqdpo.files import read_sealed
from seqdpo.layout import NODE_FILE, WEIGHTS_FILE, check_manifest_hash
from seqdpo.runner import base_logps
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.records import read_record
from seqdpo.study.checkpoints import Node


def main() -> None:
    """Prints the flips of each kind of file that were seen and unseen; exit 1 if any was unseen."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--flips", type=int, default=1500)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    generator = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        files = checked_files(Bench(Path(folder)).root / "whole")
        unseen = dict.fromkeys(files, 0)
        for name, (path, believed) in files.items():
            content = path.read_bytes()
            for _ in range(chosen.flips // len(files)):
                path.write_bytes(flipped(content, generator))
                unseen[name] += believed()
            path.write_bytes(content)
    print(json.dumps({"flips of each": chosen.flips // len(files), "unseen": unseen}))
    raise SystemExit(any(unseen.values()))


def checked_files(whole: Path) -> dict[str, tuple[Path, Callable[[], bool]]]:
    """Files by kind, each with what says whether it is believed although it was changed."""
    folder = RunFolder(whole / "run")
    manifest = read_sealed(folder.manifest)
    stage = folder.root / STAGE
    entry = sorted((whole / "cache" / "base_logps").iterdir())[0]
    n_pairs = pq.read_metadata(entry).num_rows
    kept = base_logps._read(entry, entry.stem, [n_pairs])
    assert kept is not None

    def other_numbers() -> bool:
        """The stamp is of the numbers; a flip in what describes the file's columns changes none of them."""
        found = base_logps._read(entry, entry.stem, [n_pairs])
        return found is not None and any(a.tobytes() != b.tobytes() for a, b in zip(*found, *kept, strict=True))

    record = partial(read_record, folder, Node(0, ("first", "second")), manifest["identity"])
    return {
        "scores of the run": (folder.scores, passes(partial(check_manifest_hash, folder.scores, folder, manifest))),
        "scores of a stage": (stage / "scores.parquet", passes(record)),
        "adapter": (stage / "adapter" / WEIGHTS_FILE, passes(record)),
        "record of a stage": (stage / NODE_FILE, reads_as_another(record)),
        "cache entry": (entry, other_numbers),
    }


def passes(check: Callable[[], object]) -> Callable[[], bool]:
    check()

    def believed() -> bool:
        try:
            check()
        except DataError:
            return False
        return True

    return believed


def reads_as_another(read: Callable[[], dict[str, object] | None]) -> Callable[[], bool]:
    """White space and the name of the checksum carry nothing: a record that says what it said is no spoilt one."""
    before = read() or {}

    def believed() -> bool:
        try:
            found = read() or {}
        except DataError:
            return False
        return {name: found.get(name) for name in before} != before

    return believed


def flipped(content: bytes, generator: random.Random) -> bytes:
    bit = generator.randrange(8 * len(content))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


if __name__ == "__main__":
    main()
