"""What a run of many stages reads when it is continued: bytes and seconds of the check at its start.

    python benchmarks/continuation_check.py --seeds 834 --megabytes 2      10,008 stages

A run folder is made up: records and adapters (holes on the disk) of two orders of two objectives with four control stages.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from seqdpo.files import file_hash, write_sealed
from seqdpo.layout import NODE_FILE, WEIGHTS_FILE
from seqdpo.runner import known_hashes
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.records import place_of
from seqdpo.runner.schedule import unfinished
from seqdpo.study.config import Study
from seqdpo.study.tree import stage_tree


def main() -> None:
    """Prints the seconds and bytes of hashing of two checks in a row."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=834)
    options.add_argument("--megabytes", type=int, default=2)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = RunFolder(Path(root))
        objectives = {name: {"format": "lab"} for name in ("a", "b")}
        study = Study(
            model_name_or_path="lab",
            objectives=objectives,
            seeds=list(range(chosen.seeds)),
            placebo=4,
            output_dir=root,
        )
        tree = stage_tree(study)
        make_up(folder, tree, 1_000_000 * chosen.megabytes)
        time.sleep(known_hashes.SETTLED)
        hashed: list[int] = []

        def counted(path: Path) -> str:
            hashed.append(path.stat().st_size)
            return file_hash(path)

        known_hashes.file_hash = counted
        for turn in ("first", "again"):
            hashed.clear()
            began, used = time.perf_counter(), time.process_time()
            left = unfinished(folder, study, {}, print)
            took = {"clock": time.perf_counter() - began, "processor": time.process_time() - used}
            print(json.dumps({"check": turn, "stages": len(tree), "left": len(left), "read": sum(hashed)} | took))


def make_up(folder: RunFolder, tree: list, size: int) -> None:
    weights = folder.root / "weights"
    with weights.open("wb") as file:
        file.truncate(size)
    checksum = file_hash(weights)
    for node in [None, *tree]:
        files = {}
        stage = folder.stage(node)
        stage.mkdir(parents=True)
        if node is not None:
            (stage / "adapter").mkdir()
            with (stage / "adapter" / WEIGHTS_FILE).open("wb") as file:
                file.truncate(size)
            files[f"adapter/{WEIGHTS_FILE}"] = checksum
        parent = {} if node is None else {"parent_adapter": None if node.parent is None else checksum}
        record = place_of(node) | parent | {"files": files}
        write_sealed(stage / NODE_FILE, record) if node is None else write_fast(stage / NODE_FILE, record)


def write_fast(path: Path, record: dict) -> None:
    """Records of older releases have no checksum; thousands of them need not be on the disk each."""
    path.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
