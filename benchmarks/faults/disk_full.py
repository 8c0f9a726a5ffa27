"""A full disk, too little memory, no rights: a run must end with one screen, and go on to the same bytes.

    python benchmarks/faults/disk_full.py                the disk, of ten sizes: needs the right to mount a tmpfs
    python benchmarks/faults/disk_full.py --file-size    no file beyond a size, instead (RLIMIT_FSIZE)
    python benchmarks/faults/disk_full.py --memory       limits of the address space (RLIMIT_AS)
    python benchmarks/faults/disk_full.py --rights       files and folders of a run that may not be read or written

With `--every 3` only every third of the ten limits, or of the fifteen places without rights.

A small study of the lab runs once undisturbed, then under each limit, then once more without it.
"""

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kills import STUDY as KILLS_STUDY
from kills import contents, running, seqdpo, started, wrong

STUDY = KILLS_STUDY | {
    "objectives": {name: {**one, "n_pairs": 60} for name, one in KILLS_STUDY["objectives"].items()},
    "orders": [["first", "second"]],
    "mechanism_share": 8.0,
}
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 0.97)
MEGABYTES = range(600, 2100, 150)
#: What of a run loses its rights, and which it keeps; the later stage is still to be done.
RIGHTS = (
    *((".", 0), (".", 0o500), (".lock", 0), ("events.jsonl", 0o400), ("study.yaml", 0), ("manifest.json", 0)),
    *(("data", 0o500), ("data/pairs.parquet", 0), ("stages", 0o500), ("stages/base", 0)),
    *(("stages/base/scores.parquet", 0), ("stages/base/node.json", 0), ("stages/seed0.first", 0o500)),
    *(("stages/seed0.first/adapter", 0), ("stages/seed0.first/adapter/adapter_model.safetensors", 0)),
)
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2  # of linux/prctl.h, linux/capability.h

Trial = Callable[[dict[str, bytes]], list[str]]
Ended = subprocess.CompletedProcess[str]


def main() -> None:
    """Prints a line for each limit; exit 1 if one did not end as it should."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = options.add_mutually_exclusive_group()
    for name in ("--file-size", "--memory", "--rights"):
        kinds.add_argument(name, action="store_true")
    options.add_argument("--every", type=int, default=1)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "study.yaml").write_text(json.dumps(STUDY | {"output_dir": "unused"}))
        whole = root / "whole" / "run"
        assert started(running(root / "study.yaml", whole), whole, None) == 0
        sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
        if chosen.rights:
            trials = [without_rights(root, name, rights) for name, rights in RIGHTS]
        elif chosen.memory:
            trials = [limited(root, f"{mb} MB of memory", resource.RLIMIT_AS, mb * 2**20) for mb in MEGABYTES]
        elif chosen.file_size:
            limits = [int(share * max(sizes)) for share in SHARES]
            trials = [limited(root, f"files of {size} bytes", resource.RLIMIT_FSIZE, size) for size in limits]
        else:
            trials = [full_disk(root, int(share * sum(sizes)) // 4096 * 4096) for share in SHARES]
        expected = contents(whole)
        problems = [problem for trial in trials[:: chosen.every] for problem in trial(expected)]
    raise SystemExit(bool(problems))


def limited(root: Path, name: str, kind: int, limit: int) -> Trial:
    def trial(expected: dict[str, bytes]) -> list[str]:
        target = root / name.replace(" ", "-") / "run"
        ended = run(root, target, lambda: resource.setrlimit(kind, (limit, limit)))
        return judged(name, ended, root, target, expected)

    return trial


def full_disk(root: Path, size: int) -> Trial:
    def trial(expected: dict[str, bytes]) -> list[str]:
        place = root / f"disk{size}"
        place.mkdir()
        with mounted(place, size):
            ended = run(root, place / "run", None)
            subprocess.run(["mount", "-o", f"remount,size={2**30}", str(place)], check=True)
            return judged(f"a disk of {size} bytes", ended, root, place / "run", expected)

    return trial


def without_rights(root: Path, name: str, rights: int) -> Trial:
    """A run whose later stages are still to be done, and one place of which has but these rights."""

    def trial(expected: dict[str, bytes]) -> list[str]:
        target = root / "rights" / "run"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(root / "whole" / "run", target)
        for stage in (target / "stages").glob("seed0.first.*"):
            shutil.rmtree(stage)
        (target / ".lock").touch()
        place = target / name
        before = place.stat().st_mode
        place.chmod(rights)
        ended = run(root, target, bound_by_rights)
        place.chmod(before)
        problems = judged(f"{name} with rights {rights:o}", ended, root, target, expected)
        named = ended.returncode == 0 or "ermission" in ended.stderr
        return problems if named else [*problems, f"{name}: no word of rights: {ended.stderr}"]

    return trial


def bound_by_rights() -> None:
    """A superuser's process is bound by rights like everybody's, from the program on that it starts."""
    if os.geteuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0


@contextmanager
def mounted(place: Path, size: int) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def run(root: Path, target: Path, before: Callable[[], None] | None) -> Ended:
    arguments = seqdpo(running(root / "study.yaml", target))
    return subprocess.run(arguments, preexec_fn=before, capture_output=True, text=True, check=False)


def judged(name: str, ended: Ended, root: Path, target: Path, expected: dict[str, bytes]) -> list[str]:
    """What was not as it should be, printed."""
    problems = [] if ended.returncode in (0, 2, 3) else [f"exit {ended.returncode}"]
    problems += ["a traceback"] if "Traceback" in ended.stderr else []
    problems += ["more than one screen"] if len(ended.stderr.splitlines()) > 24 else []
    code = started(running(root / "study.yaml", target), target, None)
    problems += wrong(target, code, expected) if code == 0 else [f"cannot go on: exit {code}"]
    said = " ".join(ended.stderr.split())[-200:] if ended.returncode else "it was enough"
    print(f"{name}: exit {ended.returncode}; {problems or 'went on to the same bytes'}; {said}", flush=True)
    return problems


if __name__ == "__main__":
    main()
