"""What a run is on the hub: its last adapter with a card and a lineage, and its tables as a data set."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from seqdpo.analysis.schema import Cell, Score
from seqdpo.errors import ArgumentError, ConfigError, DataError
from seqdpo.files import read_mapping
from seqdpo.hub import DATASET_ID, Kind
from seqdpo.layout import WEIGHTS_FILE, RunFiles
from seqdpo.report.base_model import on_the_hub, shown
from seqdpo.report.card import card, interval, plain
from seqdpo.report.finished import Run
from seqdpo.report.page import page
from seqdpo.study.checkpoints import Checkpoint, Node, in_a_shell
from seqdpo.wording import listed

LINEAGE_FILE = "lineage.json"
_CONFIG = "adapter_config.json"
#: A token of the hub, wherever it stands.
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
_HEAD = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)


class Repository(NamedTuple):
    """A repository of the hub, and the files that one commit puts there."""

    name: str
    kind: Kind
    files: Mapping[str, Path | bytes]


def publication(run: Run, repository: str, checkpoint: str | None = None, seed: int | None = None) -> list[Repository]:
    """The repositories of a run: its tables, and the adapter of a checkpoint; else of the last one of the first order.

    Raises: ConfigError for a run that trained nothing, for a name that is none of the hub's, and where a file
        holds a token; ArgumentError for a checkpoint that the run does not have; DataError for a file that is gone.
    """
    if run.manifest.get("checkpoints") or run.manifest.get("scores"):
        raise ConfigError(f"{run.folder}: no adapter was trained here; expected the run of a study. Give another.")
    if not DATASET_ID.fullmatch(repository):
        raise ArgumentError(["repo"], f" = {repository!r}; expected OWNER/NAME, as on the hub.")
    row = _row(run, checkpoint, seed)
    results = f"{repository}-results"
    found = [
        Repository(results, "dataset", _tables(run, repository)),
        Repository(repository, "model", _adapter(run, row, repository, results)),
    ]
    for one in found:
        for path, content in one.files.items():
            _check_no_token(path, content)
    return found


def _check_no_token(path: str, content: Path | bytes) -> None:
    data = content if isinstance(content, bytes) else content.read_bytes()
    if _TOKEN.search(data):
        raise ConfigError(f"{path}: holds what looks like a token of the hub (hf_…); it is not published. Take it out.")


def _row(run: Run, checkpoint: str | None, seed: int | None) -> Score:
    """A score of the checkpoint that is asked for."""
    rows = [row for row in run.findings.score_matrix if row.stage and not row.placebo and row.split == "eval"]
    first = rows[0]
    name = checkpoint or first.order
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    if name not in names:
        raise ArgumentError(["checkpoint"], f" = {name!r}; expected one of {listed(names)}.{in_a_shell(names)}")
    found = [row for row in rows if row.checkpoint == name and row.seed == (first.seed if seed is None else seed)]
    if not found:
        seeds = ", ".join(str(one) for one in dict.fromkeys(row.seed for row in rows))
        raise ArgumentError(["seed"], f" = {seed}; expected one of {seeds}.")
    return found[0]


# The data set


def _tables(run: Run, repository: str) -> dict[str, Path | bytes]:
    files = RunFiles(run.folder)
    tables = [files.scores, files.pairs, files.movement, files.gradients, files.kl_and_path]
    there = {path.relative_to(files.root).as_posix(): path for path in tables if path.is_file()}
    head = {
        "tags": ["dpo", "preference-tuning", "seqdpo"],
        # each table has columns of its own
        "configs": [{"config_name": Path(name).stem, "data_files": name} for name in there],
    }
    text = (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n"
        f"# {plain(run.name)}: what later stages did to earlier preferences\n\n"
        f"Measured by seqdpo on the adapters of [{repository}](../{repository}). `scores.parquet` has the "
        "log-probabilities of every held-out pair under every checkpoint and under the base; `data/pairs.parquet` has "
        "the pairs themselves, whose licence is that of their sources; `results.json` and `report.html` have what was "
        "found.\n"
    )
    results = dict(read_mapping(files.results, json.loads))
    results["study"] = _public_study(results.get("study") or {})
    made = {"README.md": text.encode(), "report.html": page(run).encode(), "results.json": _json(results)}
    return {**made, **there}


# The adapter


def _adapter(run: Run, row: Score, repository: str, results: str) -> dict[str, Path | bytes]:
    """The checkpoint's adapter at the top, with those it went on from below `stages`."""
    last = Node.of(row.seed, Checkpoint.parse(row.checkpoint))
    nodes = [last.upto(stage) for stage in range(1, last.stage + 1)]
    files: dict[str, Path | bytes] = {}
    for node in nodes:
        folder = run.folder / "stages" / node.folder / "adapter"
        below = "" if node is nodes[-1] else f"stages/{node.folder}/"
        files[f"{below}{_CONFIG}"] = _config(run, folder / _CONFIG)
        files[f"{below}{WEIGHTS_FILE}"] = _there(folder / WEIGHTS_FILE)
    files[LINEAGE_FILE] = _json(_lineage(run, nodes, results))
    files["README.md"] = _card(run, row, repository, results).encode()
    return files


def _there(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected the adapter of a stage. Give the run folder that trained it.")
    return path


def _config(run: Run, path: Path) -> bytes:
    """PEFT's configuration, with the base as others find it and not as this machine does."""
    config = dict(read_mapping(_there(path), json.loads))
    base = on_the_hub(run)
    config["base_model_name_or_path"] = base.name if base else shown(run)
    config["revision"] = base.commit if base else None
    return _json(config)


def _lineage(run: Run, nodes: list[Node], results: str) -> dict[str, Any]:
    base = on_the_hub(run)
    stages = []
    for node in nodes:
        record = read_mapping(_there(run.folder / "stages" / node.folder / "node.json"), json.loads)
        kept = ("checkpoint", "objective", "parent", "reference", "adapter_mode", "seed", "n_train_pairs", "identity")
        stages.append({key: record.get(key) for key in kept} | {"folder": "" if node is nodes[-1] else node.folder})
    return {
        "base_model": base.name if base else shown(run),
        "base_model_revision": base.commit if base else None,
        "stages": stages,
        "results": results,
        "study": _public_study(run.study),
    }


def _public_study(study: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _public(value) for key, value in study.items() if key != "output_dir"}


def _public(value: Any) -> Any:
    """Without the folders of this machine: of a path from its root, the last part."""
    if isinstance(value, Mapping):
        return {key: _public(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_public(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _card(run: Run, row: Score, repository: str, results: str) -> str:
    """The run's own card, with a head that the hub reads, the verdicts as a table, and the lineage."""
    from huggingface_hub import ModelCard, ModelCardData

    base = on_the_hub(run)
    data = ModelCardData(
        model_name=repository.partition("/")[2],
        base_model=base.name if base else None,
        base_model_revision=base.commit if base else None,
        library_name="peft",
        tags=["dpo", "lora", "preference-tuning", "seqdpo"],
        datasets=_datasets(run) or None,
        eval_results=_eval_results(run, row),
    )
    body = _HEAD.sub("", card(run, adapter=repository))
    table = _verdict_table([cell for cell in run.findings.cells if cell.seed == row.seed])
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}\n{_lineage_text(run, row, results)}{table}"))


def _datasets(run: Run) -> list[str]:
    """The data sets of the hub that the objectives are read from."""
    objectives = run.study.get("objectives") or {}
    sources = [source for one in objectives.values() for source in _sources(one.get("dataset_name"))]
    return list(dict.fromkeys(name for name in sources if DATASET_ID.fullmatch(name) and not Path(name).exists()))


def _sources(name: Any) -> list[str]:
    return [*name.values()] if isinstance(name, Mapping) else [name] if isinstance(name, str) else []


def _eval_results(run: Run, row: Score) -> list[Any]:
    """Accuracy and margin of the checkpoint on the held-out pairs of every objective; what is undefined is left out."""
    from huggingface_hub import EvalResult

    rows = [
        one
        for one in run.findings.score_matrix
        if (one.checkpoint, one.seed, one.order) == (row.checkpoint, row.seed, row.order) and one.split == "eval"
    ]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="preference",
            dataset_name=one.objective,
            dataset_config=one.objective,  # results of one type and config are taken to be of one data set
            dataset_split="eval",
            metric_type=metric,
            metric_name=f"{metric} against the base: {interval(bounds, form)}, n={one.n}",
            metric_value=bounds.value,
        )
        for one in rows
        for metric, bounds, form in (("accuracy", one.accuracy, ".3f"), ("margin", one.margin, "+.2f"))
        if bounds.value is not None
    ]


def _lineage_text(run: Run, row: Score, results: str) -> str:
    base = on_the_hub(run)
    told = f"{base.name} at {base.commit}" if base else shown(run) or "not named"
    lines = {
        "base model": told,
        "order of training": ", then ".join(Checkpoint.parse(row.checkpoint).path),
        "reference of the loss": str(run.study.get("reference")),
        "adapter mode": str(run.study.get("adapter_mode")),
        "seed": str(row.seed),
    }
    listing = "\n".join(f"- {label}: {plain(text)}" for label, text in lines.items())
    return (
        f"\n## Lineage\n\n{listing}\n- earlier stages: below `stages/`, with what made each in `{LINEAGE_FILE}`\n"
        f"- every pair, and the report: [{results}](../datasets/{results})\n"
    )


def _verdict_table(cells: list[Cell]) -> str:
    if not cells:
        return ""
    head = "| order | objective | after | verdict | change of margin | change of accuracy | n |\n" + "|---" * 7 + "|"
    rows = [
        f"| {plain(cell.order)} | {plain(cell.objective)} | {plain(cell.to)} | {cell.verdict.words} | "
        f"{interval(cell.change.margin_change)} | {interval(cell.change.accuracy_change, '+.3f')} | {cell.change.n} |"
        for cell in cells
    ]
    return "\n## Verdicts in numbers\n\n" + "\n".join([head, *rows]) + "\n"
