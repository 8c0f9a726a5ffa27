"""Where the files of a run folder lie. docs/run-folder.md describes every one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqdpo.errors import ConfigError
from seqdpo.files import REMEDY, check_hash, file_hash, reading
from seqdpo.wording import did_you_mean, listed

#: The records of a stage: that its adapter is on disk, and that all of it is.
TRAINED_FILE, NODE_FILE = "trained.json", "node.json"
WEIGHTS_FILE = "adapter_model.safetensors"  # of an adapter


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The paths of a run folder's files."""

    root: Path

    @property
    def study(self) -> Path:
        return self.root / "study.yaml"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def pairs(self) -> Path:
        return self.root / "data" / "pairs.parquet"

    @property
    def dropped(self) -> Path:
        return self.root / "data" / "dropped.json"

    @property
    def scores(self) -> Path:
        return self.root / "scores.parquet"

    @property
    def movement(self) -> Path:
        return self.root / "movement.parquet"

    @property
    def gradients(self) -> Path:
        return self.root / "gradients.parquet"

    @property
    def kl_and_path(self) -> Path:
        return self.root / "kl_and_path.parquet"

    @property
    def generations(self) -> Path:
        return self.root / "generations.parquet"

    @property
    def preflight(self) -> Path:
        return self.root / "preflight.json"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def card(self) -> Path:
        return self.root / "report.md"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    def hashes(self, *paths: Path) -> dict[str, str]:
        """Of some of its files, by their names in it.

        Raises: DataError if one is not there.
        """
        found = {}
        for path in paths:
            with reading(path):
                found[path.relative_to(self.root).as_posix()] = file_hash(path)
        return found


def check_run_folder(files: RunFiles) -> None:
    """Raises: ConfigError if no study was run there, or it cannot be read."""
    root = files.root
    try:
        if not root.exists():
            near = did_you_mean(root.name, [path.name for path in root.parent.glob("*/")])
            raise ConfigError(f"{root}: no such folder; expected a run folder, the output_dir of a study.{near}")
        if not root.is_dir():
            raise ConfigError(f"{root}: is a file; expected a run folder. Give the output_dir of the study.")
        if not files.study.is_file() and not files.manifest.is_file():
            below = sorted(path.parent.name for path in root.glob(f"*/{files.manifest.name}"))
            there = f" Run folders in it: {listed(below)}." if below else ""
            raise ConfigError(
                f"{root}: no {files.manifest.name}; expected a run folder, the output_dir of a study.{there}"
            )
    except OSError as error:
        raise ConfigError(f"{root}: cannot be read ({error.strerror}). Change its rights.") from None


def check_manifest_hash(path: Path, files: RunFiles, manifest: Mapping[str, Any]) -> None:
    """Raises: DataError if a file is not the one whose checksum is in the manifest of its run."""
    hashes = manifest.get("files")
    expected = hashes.get(path.relative_to(files.root).as_posix()) if isinstance(hashes, dict) else None
    given = path in (files.study, files.pairs, files.dropped)
    command = "generate" if path == files.generations else "analyse"
    remedy = REMEDY if given else f"Write it anew: seqdpo {command} {files.root}"
    if expected is not None:
        check_hash(path, str(expected), files.manifest.name, remedy)
