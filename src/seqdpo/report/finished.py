"""A finished run folder, read again: its findings, and the tables behind them. No torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from seqdpo.analysis.pair_query import PairQuery, PairsFound, find_pairs
from seqdpo.analysis.pair_table import Sort, expect_one_of
from seqdpo.analysis.panel import Panel, panels
from seqdpo.analysis.preflight import Preflights, read_preflights
from seqdpo.analysis.schema import SCHEMA_VERSION, Findings, PairMeasure, findings_from_json
from seqdpo.errors import ArgumentError, ConfigError, DataError
from seqdpo.files import REMEDY, read_mapping, read_sealed, read_table, reading
from seqdpo.layout import RunFiles, check_manifest_hash, check_run_folder
from seqdpo.report.charts import Chart, RunTables
from seqdpo.report.notebook import verdicts_html
from seqdpo.report.pictures import Picture, pictures
from seqdpo.study.checkpoints import Checkpoint, Node
from seqdpo.wording import did_you_mean, listed

#: Columns of scores.parquet whose values repeat; read as dictionaries they take a tenth of the memory.
REPEATED = ["order", "checkpoint", "objective", "split", "pair_id"]
#: Columns of data/pairs.parquet that are most of its bytes.
TEXTS = ("prompt", "chosen", "rejected")
#: Them with 64-bit offsets: Arrow cannot bring more than 2 GiB of plain `string` into another order.
LARGE_TEXTS = pa.schema(
    [
        ("prompt", pa.large_list(pa.struct([("role", pa.large_string()), ("content", pa.large_string())]))),
        ("chosen", pa.large_string()),
        ("rejected", pa.large_string()),
    ]
)
#: The pairs that every checkpoint scores.
EVALUATION = pc.field("split") == "eval"


@dataclass(frozen=True)
class Run:
    """A finished run; findings and tables are read when they are asked for.

    docs/results.md describes the findings, docs/run-folder.md every file. What reads one raises DataError where it
    cannot be read.
    """

    folder: Path
    study: Mapping[str, Any] = field(repr=False)  # study.yaml, every key
    manifest: Mapping[str, Any] = field(repr=False)  # manifest.json
    _seen: set[Path] = field(default_factory=set, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def findings(self) -> Findings:
        """results.json.

        Raises: DataError, too, if it is of another version or holds what this release does not write.
        """
        return _read_findings(self._whole(self._files.results))

    @cached_property
    def dropped(self) -> Mapping[str, Any]:
        """data/dropped.json: each objective's pairs read, kept and dropped, with reasons."""
        return read_mapping(self._whole(self._files.dropped), json.loads)

    @cached_property
    def pairs(self) -> pa.Table:
        """data/pairs.parquet without the texts."""
        path = self._whole(self._files.pairs)
        return read_table(path, columns=_columns_without_texts(path))

    @cached_property
    def gradients(self) -> pa.Table:
        return read_table(self._whole(self._files.gradients))

    @cached_property
    def movement(self) -> pa.Table:
        return read_table(self._whole(self._files.movement))

    @cached_property
    def kl_and_path(self) -> pa.Table:
        return read_table(self._whole(self._files.kl_and_path))

    @cached_property
    def generations(self) -> pa.Table | None:
        """generations.parquet; None of a run whose checkpoints were asked nothing."""
        path = self._files.generations
        return read_table(self._whole(path)) if path.is_file() else None

    @cached_property
    def steps(self) -> pa.Table:
        """The rows of every stage's train.parquet with its `seed`, `checkpoint` and `placebo`; of stages that were
        trained elsewhere there are none."""
        found = []
        names = dict.fromkeys((one.seed, one.checkpoint) for one in self.findings.score_matrix if one.stage)
        for seed, name in names:
            node = Node(seed, *Checkpoint.parse(name))
            path = self.folder / "stages" / node.folder / "train.parquet"
            if path.is_file():
                rows = read_table(path)
                of = {"seed": seed, "checkpoint": name, "placebo": node.placebo}
                found.append(pa.table({key: [value] * rows.num_rows for key, value in of.items()} | _columns(rows)))
        return pa.concat_tables(found) if found else pa.table({"step": pa.array([], pa.int64())})

    @property
    def tables(self) -> RunTables:
        return RunTables(self.movement, self.steps)

    @cached_property
    def preflight(self) -> Preflights | None:
        """preflight.json: what was said of stages before they were trained; None where nobody asked."""
        path = self._files.preflight
        return read_preflights(path)[0] if path.is_file() else None

    @property
    def _files(self) -> RunFiles:
        return RunFiles(self.folder)

    def _whole(self, path: Path) -> Path:
        """The path of a file that has been seen, once, to be what the run wrote."""
        if path not in self._seen:
            check_manifest_hash(path, self._files, self.manifest)
            self._seen.add(path)
        return path

    def scores(self, columns: Sequence[str] | None = None, wanted: pc.Expression | None = None) -> pa.Table:
        """scores.parquet; of large runs better only the rows that are wanted."""
        path = self._whole(self._files.scores)
        return read_table(path, columns=columns, filters=wanted, read_dictionary=REPEATED)

    def texts(self, objective: str, split: str, pair_ids: pa.Array) -> pa.Table:
        """Prompt, chosen and rejected of some pairs, in their order.

        Raises: DataError if one of the pairs is not there.
        """
        path = self._whole(self._files.pairs)
        wanted = (pc.field("objective") == objective) & (pc.field("split") == split)
        wanted &= pc.field("pair_id").isin(pair_ids)
        found = read_table(path, columns=["pair_id", *TEXTS], filters=wanted)
        rows = pc.index_in(pair_ids, value_set=found["pair_id"].combine_chunks())
        if rows.null_count:
            raise DataError(f"{path}: {rows.null_count} pairs are gone; expected those that were scored. {REMEDY}")
        return found.select(TEXTS).cast(LARGE_TEXTS).take(rows)

    def panels(self, measure: PairMeasure = "margin") -> list[Panel]:
        """Every objective's held-out pairs, and what each checkpoint says of them; another measure in place of the
        margin is `ln_margin` or `ln_margin_base_corrected`."""
        found = panels(self.scores(wanted=EVALUATION), self.pairs.filter(EVALUATION))
        return [panel.in_measure(measure) for panel in found]

    def panel(self, objective: str) -> Panel:
        """One objective's held-out pairs.

        Raises: ArgumentError if the run does not have it.
        """
        expect_one_of("objective", objective, pc.unique(self.scores(["objective"])["objective"]).to_pylist())
        [panel] = panels(self.scores(wanted=EVALUATION & (pc.field("objective") == objective)), self.pairs)
        return panel

    def find_pairs(self, query: PairQuery) -> PairsFound:
        """The pairs that a query asks for.

        Raises: ArgumentError for anything in the query that the run does not have.
        """
        return find_pairs(self.panel(query.objective), self.texts, query)

    def pair_table(
        self,
        objective: str,
        start: str | None = None,
        end: str | None = None,
        *,
        order: str | None = None,
        seed: int | None = None,
        where: Sequence[str] = (),
        flip: str | None = None,
        sort: Sort = "change",
        limit: int | None = None,
        measure: PairMeasure = "margin",
    ) -> pa.Table:
        """What happened to each held-out pair of an objective between two checkpoints, the most lost first.

        `start` and `end` are names such as `helpful>harmless`: from the checkpoint that taught the objective to the
        last of its order where they are not given. `where` holds conditions as `category=Violence`, `flip` is one of
        kept, lost, regained, never. docs/commands.md describes the columns: margins in nats, undefined is null; in
        another `measure`, `ln_margin` or `ln_margin_base_corrected`, margins, changes and flips are of that.

        Raises: ArgumentError for anything asked that the run does not have.
        """
        query = PairQuery(objective, start, end, order, seed, None, tuple(where), flip, sort, limit, measure)
        return self.find_pairs(query).rows

    def pictures(self) -> list[Picture]:
        """Every picture of the report, by the name of its file among the figures."""
        return list(pictures(self.findings, self.panels(), self.tables))

    def chart(self, name: str) -> Chart:
        """A picture with its data, which a notebook draws: `run.chart("score-matrix")`.

        The pictures of a cell are named after it and their kind; `margins` alone is that of the first cell.

        Raises: ArgumentError that lists the names.
        """
        named = self.pictures()
        for picture in named:
            if name in (picture.name, picture.chart.key):
                return picture.filled()
        names = [picture.name for picture in named]
        raise ArgumentError(
            ["name"], f" = {name!r}: no such picture; expected one of {listed(names)}.{did_you_mean(name, names)}"
        )

    def _repr_html_(self) -> str:
        return verdicts_html(self.name, self.findings)


def read_run(root: str | Path) -> Run:
    """The run in a folder.

    Raises: ConfigError if it is no run folder, or the run is not finished; DataError if a file cannot be read.
    """
    files = RunFiles(Path(root))
    check_run_folder(files)
    if not files.scores.is_file():
        raise ConfigError(
            f"{root}: no scores.parquet, so the run is not finished; expected a finished one. Run `seqdpo run` again "
            f"to finish it; if all stages are done, seqdpo analyse {root} writes the file."
        )
    manifest = read_sealed(files.manifest)
    check_manifest_hash(files.study, files, manifest)
    return Run(files.root, read_mapping(files.study, yaml.safe_load), manifest)


def _read_findings(path: Path) -> Findings:
    with reading(path):
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{path}: schema_version = {version!r}; expected {SCHEMA_VERSION}. {REMEDY}")
    return findings_from_json(text, path)


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _columns_without_texts(path: Path) -> list[str]:
    with reading(path):
        names: list[str] = pq.read_schema(path).names
    missing = [name for name in ("pair_id", "prompt_id", "objective", "split", *TEXTS) if name not in names]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; found {listed(names)}. {REMEDY}")
    return [name for name in names if name not in TEXTS]
