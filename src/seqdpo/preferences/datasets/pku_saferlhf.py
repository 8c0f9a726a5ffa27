"""PKU-SafeRLHF (`PKU-Alignment/PKU-SafeRLHF`): one pair of responses, labelled for helpfulness and for safety."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from seqdpo.preferences.datasets import Sourced
from seqdpo.preferences.pairs import Candidates, Drop, Message, Pair, Split
from seqdpo.preferences.rows import Row, kept, numbered
from seqdpo.preferences.sources.folders import data_files, no_subset, subfolders
from seqdpo.study.objectives import Source, SourcedObjective

_SUBSETS = ("alpaca-7b", "alpaca2-7b", "alpaca3-8b")  # upstream's folders are Alpaca-7B and so on
_LABELS = {"helpful": "better_response_id", "safe": "safer_response_id"}


class PkuSafeRlhfObjective(SourcedObjective):
    """PKU-SafeRLHF: the more helpful (`better_response_id`) or the safer (`safer_response_id`) response is chosen."""

    format: Literal["pku-saferlhf"]
    dataset_name: Source = "PKU-Alignment/PKU-SafeRLHF"
    subset: Literal["default", "alpaca-7b", "alpaca2-7b", "alpaca3-8b"] = "default"
    label: Literal["helpful", "safe"]
    contrast_only: bool = False


def candidates(
    rows: Iterable[dict[str, Any]], objective: PkuSafeRlhfObjective, split: Split | None, where: str
) -> Candidates:
    """One pair a row, chosen by the objective's label.

    Strength of `safe`: severity of the rejected minus severity of the chosen response, so below 0 where the two
    annotations contradict each other. `helpful` has none.
    Slices: chosen_severity, rejected_severity (0 to 3), prompt_source, labels_agree (whether one response is both
    the better and the safer), harm_category: the harm categories of the rejected response in alphabetical order,
    joined by '; ', or 'none'.
    Raises: DataError for a row with a column that is missing or of the wrong type.
    """
    for row in numbered(rows, where):
        yield row.explained(_candidate(row, objective, split))


def _candidate(row: Row, objective: PkuSafeRlhfObjective, split: Split | None) -> Pair | Drop:
    safe = [row.flag(f"is_response_{i}_safe") for i in (0, 1)]
    severity = [row.integer(f"response_{i}_severity_level", 0, 3) for i in (0, 1)]
    ids = {label: row.integer(column, 0, 1) for label, column in _LABELS.items()}
    chosen = ids[objective.label]
    rejected = 1 - chosen
    pair = Pair(
        prompt=(Message("user", row.text("prompt")),),
        chosen=row.text(f"response_{chosen}"),
        rejected=row.text(f"response_{rejected}"),
        upstream_split=split,
        strength=float(severity[rejected] - severity[chosen]) if objective.label == "safe" else None,
        slices={
            "chosen_severity": severity[chosen],
            "rejected_severity": severity[rejected],
            "prompt_source": row.text("prompt_source"),
            "labels_agree": ids["helpful"] == ids["safe"],
            "harm_category": _harm_category(row, f"response_{rejected}_harm_category"),
        },
    )
    if objective.contrast_only and safe[0] == safe[1]:
        return Drop("no_safety_contrast")
    return kept(pair)


def _harm_category(row: Row, column: str) -> str:
    expected = "true or false for each harm category"
    categories = row.value(column, expected)
    if not isinstance(categories, dict) or not all(isinstance(harm, bool) for harm in categories.values()):
        raise row.wrong(column, categories, expected)
    return "; ".join(sorted(name for name, harm in categories.items() if harm)) or "none"


def _folders(folder: Path, objective: PkuSafeRlhfObjective) -> list[Path]:
    """The folders of a subset; the folder itself if the files lie in it directly."""
    root = folder / "data" if (folder / "data").is_dir() else folder
    found = {name.lower(): root / name for name in subfolders(root)}
    wanted = _SUBSETS if objective.subset == "default" else (objective.subset,)
    folders = [found[name] for name in wanted if name in found]
    if not folders and not data_files(root):
        raise no_subset(root, objective.subset)
    return folders or [root]


FORMAT = Sourced(PkuSafeRlhfObjective, candidates, _folders, carded=False, hub=lambda o: {"name": o.subset})
