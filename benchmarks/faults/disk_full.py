"""A disk that is full at ten sizes, and too little memory: a run must end with one screen, and go on to the same bytes.

    python benchmarks/faults/disk_full.py                the disk: needs the right to mount a tmpfs
    python benchmarks/faults/disk_full.py --file-size    no file beyond a size, instead (RLIMIT_FSIZE)
    python benchmarks/faults/disk_full.py --memory       limits of the address space (RLIMIT_AS)

A small study of the lab runs once undisturbed, then under each limit, then once more without it.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kills import STUDY as KILLS_STUDY
from kills import command, contents, wrong

STUDY = KILLS_STUDY | {
    "objectives": {name: {**one, "n_pairs": 60} for name, one in KILLS_STUDY["objectives"].items()},
    "mechanism_share": 8.0,
}
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 0.97)


def main() -> None:
    """Prints a line for each limit; exit 1 if one did not end as it should."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--file-size", action="store_true")
    options.add_argument("--memory", action="store_true")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "study.yaml").write_text(json.dumps(STUDY | {"output_dir": "unused"}))
        assert command(root / "study.yaml", root / "whole").wait() == 0
        expected = contents(root / "whole")
        if chosen.memory:
            trials = [
                limited(root, f"{mb} MB of memory", resource.RLIMIT_AS, mb * 2**20) for mb in range(600, 2100, 150)
            ]
        elif chosen.file_size:
            largest = max(path.stat().st_size for path in (root / "whole").rglob("*") if path.is_file())
            sizes = [int(share * largest) for share in SHARES]
            trials = [limited(root, f"files of {size} bytes", resource.RLIMIT_FSIZE, size) for size in sizes]
        else:
            total = sum(path.stat().st_size for path in (root / "whole").rglob("*") if path.is_file())
            trials = [full_disk(root, int(share * total) // 4096 * 4096) for share in SHARES]
        problems = [trial(expected) for trial in trials]
    raise SystemExit(any(problems))


def limited(root: Path, name: str, kind: int, limit: int) -> Callable[[dict[str, bytes]], list[str]]:
    def trial(expected: dict[str, bytes]) -> list[str]:
        target = root / name.replace(" ", "-")
        ended = run(root, target, lambda: resource.setrlimit(kind, (limit, limit)))
        return judged(name, ended, root, target, expected)

    return trial


def full_disk(root: Path, size: int) -> Callable[[dict[str, bytes]], list[str]]:
    def trial(expected: dict[str, bytes]) -> list[str]:
        place = root / f"disk{size}"
        place.mkdir()
        with mounted(place, size):
            ended = run(root, place / "run", None)
            subprocess.run(["mount", "-o", f"remount,size={2**30}", str(place)], check=True)
            return judged(f"a disk of {size} bytes", ended, root, place / "run", expected)

    return trial


@contextmanager
def mounted(place: Path, size: int) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def run(root: Path, target: Path, before: Callable[[], None] | None) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "seqdpo", "run", str(root / "study.yaml"), "--output-dir", str(target)]
    return subprocess.run(arguments, preexec_fn=before, capture_output=True, text=True, check=False)


def judged(
    name: str, ended: subprocess.CompletedProcess[str], root: Path, target: Path, expected: dict[str, bytes]
) -> list[str]:
    """What was not as it should be, printed."""
    problems = [] if ended.returncode in (0, 2, 3) else [f"exit {ended.returncode}"]
    problems += ["a traceback"] if "Traceback" in ended.stderr else []
    problems += ["more than one screen"] if len(ended.stderr.splitlines()) > 24 else []
    code = command(root / "study.yaml", target).wait()
    problems += wrong(target, code, expected) if code == 0 else [f"cannot go on: exit {code}"]
    said = " ".join(ended.stderr.split())[-160:] if ended.returncode else "it was enough"
    print(f"{name}: exit {ended.returncode}; {problems or 'went on to the same bytes'}; {said}", flush=True)
    return problems


if __name__ == "__main__":
    main()
