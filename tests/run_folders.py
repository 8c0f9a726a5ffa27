"""Run folders of hand-chosen margins: the files that a finished run leaves, without a model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from seqdpo.tables import PAIRS_SCHEMA, SCORES_SCHEMA

#: (order, stage, placebo) -> the margin of each pair there, in nats; the base's margins are 0.
Margins = Mapping[tuple[str, int, int], Sequence[float]]

CHOSEN_TOKENS, REJECTED_TOKENS = 5, 4
BASE_LOGP = -10.0
STUDY = {"model_name_or_path": "tiny", "beta": 0.3, "reference": "base", "objectives": {"helpful": {"format": "lab"}}}
MANIFEST = {"schema_version": 1, "identity": {"model": "m", "data": "d", "chat_template": "c", "seqdpo": "0.1.0"}}


def pair(pair_id: str, prompt_id: str | None = None, **columns: Any) -> dict[str, Any]:
    """A pair of data/pairs.parquet; further columns, such as `slice_topic`, by name."""
    row = {
        "pair_id": pair_id,
        "prompt_id": prompt_id or f"prompt of {pair_id}",
        "split": "eval",
        "prompt": [{"role": "user", "content": f"question of {pair_id}"}],
        "chosen": f"chosen of {pair_id}",
        "rejected": f"rejected of {pair_id}",
        "strength": None,
        "prompt_tokens": 3,
        "chosen_tokens": CHOSEN_TOKENS,
        "rejected_tokens": REJECTED_TOKENS,
        "truncated": False,
    }
    return row | columns


def write_run(
    root: Path,
    pairs: Mapping[str, Sequence[Mapping[str, Any]]],
    margins: Mapping[str, Margins],
    study: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0,),
) -> Path:
    """A finished run: `pairs` and `margins` by objective, the latter for every seed, `seed` more each."""
    (root / "data").mkdir(parents=True)
    rows = [dict(row) | {"objective": name} for name, some in pairs.items() for row in some]
    pq.write_table(pairs_of(rows), root / "data" / "pairs.parquet")
    scores = [
        row
        for seed in seeds
        for name, of_objective in margins.items()
        for row in _score_rows(name, [row["pair_id"] for row in pairs[name]], of_objective, seed)
    ]
    pq.write_table(pa.Table.from_pylist(scores, schema=SCORES_SCHEMA), root / "scores.parquet")
    (root / "study.yaml").write_text(yaml.safe_dump(STUDY | {"output_dir": str(root)} | dict(study or {})))
    manifest = MANIFEST | {"identity": MANIFEST["identity"] | dict(identity or {})}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def pairs_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """PAIRS_SCHEMA, and the further columns that a row has."""
    extra = dict.fromkeys(name for row in rows for name in row if name not in PAIRS_SCHEMA.names)
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=PAIRS_SCHEMA)
    for name in extra:
        table = table.append_column(name, pa.array([row.get(name) for row in rows]))
    return table


def _score_rows(objective: str, ids: Sequence[str], margins: Margins, seed: int) -> list[dict[str, Any]]:
    """The base says BASE_LOGP of every response; of a margin m, the chosen side has 3/4 and the rejected one -1/4."""
    orders = dict.fromkeys(order for order, _, _ in margins)
    base = {(order, 0, 0): [0.0] * len(ids) for order in orders}
    rows = []
    for (order, stage, placebo), values in sorted({**base, **margins}.items()):
        path = ">".join(order.split(">")[:stage]) or "base"
        for pair_id, margin in zip(ids, values, strict=True):
            shift = margin + seed * (stage > 0)
            rows.append(
                {
                    "seed": seed,
                    "order": order,
                    "stage": stage,
                    "placebo": placebo,
                    "split": "eval",
                    "checkpoint": path + (f"~placebo{placebo}" if placebo else ""),
                    "objective": objective,
                    "pair_id": pair_id,
                    "chosen_logp": BASE_LOGP + 0.75 * shift,
                    "rejected_logp": BASE_LOGP - 0.25 * shift,
                    "base_chosen_logp": BASE_LOGP,
                    "base_rejected_logp": BASE_LOGP,
                    "chosen_tokens": CHOSEN_TOKENS,
                    "rejected_tokens": REJECTED_TOKENS,
                }
            )
    return rows
