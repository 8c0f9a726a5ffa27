"""Where the files of a run folder lie. docs/run-folder.md describes every one."""

from dataclasses import dataclass
from pathlib import Path


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
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"
