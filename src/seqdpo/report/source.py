"""Everything of a finished run that its report is made from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

#: Prompt, chosen and rejected of some pairs of an objective and split, in the order of their ids.
Texts: TypeAlias = Callable[[str, str, pa.Array], pa.Table]


@dataclass(frozen=True, slots=True)
class ReportSource:
    """The findings of a run and the tables behind them; docs/run-folder.md describes their columns and keys."""

    name: str  # the run folder's
    results: Mapping[str, Any]  # results.json
    study: Mapping[str, Any]  # study.yaml
    manifest: Mapping[str, Any]  # manifest.json
    dropped: Mapping[str, Any]  # data/dropped.json
    scores: pa.Table  # of the evaluation split
    pairs: pa.Table  # of the evaluation split, without the texts
    texts: Texts
    movement: pa.Table
    gradients: pa.Table  # no rows where nothing was measured
    kl_and_path: pa.Table  # no rows where nothing was measured
