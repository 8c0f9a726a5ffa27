"""A finished run without a model: tables of hand-chosen margins, turned into findings and a run folder."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqdpo.analysis.results import MechanismTables, results
from seqdpo.analysis.schema import to_json
from seqdpo.files import write_json, write_table
from seqdpo.layout import RunFiles
from seqdpo.report.finished import Run, read_run
from seqdpo.tables import (
    GRADIENTS_SCHEMA,
    KL_AND_PATH_SCHEMA,
    MOVEMENT_SCHEMA,
    NODE_COLUMNS,
    PATH,
    SCORES_SCHEMA,
)

ORDERS = ("helpful>harmless", "harmless>helpful")


def scores_table(margins: Mapping[tuple[str, int, int, str], Sequence[float]]) -> pa.Table:
    """(order, stage, placebo, objective) -> margins; the base's are 0, and half of a margin is on each side."""
    rows = []
    for (order, stage, placebo, objective), values in margins.items():
        path = ">".join(order.split(">")[:stage]) or "base"
        for i, margin in enumerate(values):
            rows.append(
                {
                    "seed": 0,
                    "order": order,
                    "stage": stage,
                    "checkpoint": path + (f"~placebo{placebo}" if placebo else ""),
                    "placebo": placebo,
                    "objective": objective,
                    "split": "eval",
                    "pair_id": f"{objective}-{i}",
                    "chosen_logp": -50 + margin / 2,
                    "rejected_logp": -50 - margin / 2,
                    "base_chosen_logp": -50.0,
                    "base_rejected_logp": -50.0,
                    "chosen_tokens": 20,
                    "rejected_tokens": 25,
                }
            )
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def planted_margins(n: int) -> dict[tuple[str, int, int, str], list[float]]:
    """After its own stage an objective has 0.5 to 3; after the other, every third pair fell by 4, the rest by 0.2.

    A control stage changes by 0.1 up or down. Pair 0 loses most: 6.
    """
    taught = [0.5 + 2.5 * i / max(n - 1, 1) for i in range(n)]
    fell = [m - (4.0 if i % 3 == 0 else 0.2) for i, m in enumerate(taught)]
    fell[0] = taught[0] - 6
    found = {}
    for order in ORDERS:
        first, last = order.split(">")
        for objective in (first, last):
            found[order, 0, 0, objective] = [0.0] * n
        found[order, 1, 0, first] = taught
        found[order, 1, 0, last] = [-0.3] * n
        found[order, 2, 0, first] = fell
        found[order, 2, 0, last] = taught
        for k in (1, 2, 3, 4):
            found[order, 2, k, first] = [m + (0.1 if (i + k) % 2 else -0.1) for i, m in enumerate(taught)]
            found[order, 2, k, last] = [-0.3 + 0.01 * k] * n
    return found


def mechanism_tables() -> MechanismTables:
    """One later stage with three points, a module that moved, and ten pairs of function."""
    node = {"seed": 0, "checkpoint": "helpful>harmless", "placebo": 0, "parent": "helpful"}
    point = {
        "objective": "helpful",
        "module": "(all)",
        "n_pairs": 4,
        "current_squared_norm": 4.0,
        "current_split_dot": 2.0,
        "earlier_squared_norm": 1.0,
        "earlier_split_dot": 0.5,
        "update_dot": 0.2,
    }
    gradients = [
        node | point | {"step": k, "block": k, "from_step": k, "to_step": k + 1, "dot": -0.4 - 0.1 * k}
        for k in range(3)
    ]
    whole = {"update_norm": 2.0, "previous_norm": 4.0, "cosine": -0.25, "new_norm": 4.0}
    modules = [
        whole | {"module": "(all)"},
        whole | {"module": "model.layers.0.q_proj", "layer": 0, "kind": "q_proj", "share_of_update": 1.0},
    ]
    pairs = [
        {
            "objective": "helpful",
            "pair_id": f"helpful-{i}",
            "chosen_kl": 2.0,
            "rejected_kl": 5.0,
            "chosen_forecast": 0.01 * i,
            "rejected_forecast": 0.0,
            "path_chosen_logp": [-50 + i - a for a in PATH],
            "path_rejected_logp": [-50.0 for _ in PATH],
        }
        for i in range(9)
    ]
    return MechanismTables(
        _table(gradients, GRADIENTS_SCHEMA), _table([node | one for one in modules], MOVEMENT_SCHEMA),
        _table([node | one for one in pairs], KL_AND_PATH_SCHEMA),
    )  # fmt: skip


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([*NODE_COLUMNS, *schema]))


def renamed(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """Columns, objectives and ids by other names, wherever one stands by itself or as a part of an order."""

    def other(value: str) -> str:
        return names.get(value) or "".join(names.get(part, part) for part in re.split("([>~])", value))

    columns = {}
    for name in table.column_names:
        values = table[name]
        if pa.types.is_string(values.type):
            values = pa.array([value and other(value) for value in values.to_pylist()], values.type)
        columns[names.get(name, name)] = values
    return pa.table(columns)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """`make_run(n=30, prompt="…", name="…", mechanism=True)`: two orders of two objectives, four control stages.

    `name` is that of the model; `taught` multiplies all margins: with 0 there is nothing to lose; `broken`: the first
    pair's log-probabilities are NaN; `names`: other ones for columns, objectives and ids.
    """

    def make(
        n: int = 30,
        prompt: str = "What is tea?",
        answer: str = "a drink",
        name: str = "run",
        mechanism: bool = True,
        taught: float = 1.0,
        broken: bool = False,
        names: Mapping[str, str] | None = None,
    ) -> Run:
        margins = {at: [m * taught for m in of] for at, of in planted_margins(n).items()}
        if broken:
            margins = {at: [math.nan if at[1] else 0.0, *of[1:]] for at, of in margins.items()}
        given = (scores_table(margins), _pairs(n, prompt, answer), *mechanism_tables())
        scores, pairs, *mechanisms = (renamed(table, names or {}) for table in given)
        tables = MechanismTables(*mechanisms)
        study = {"model_name_or_path": name, "setting": "hh-rlhf", "reference": "base", "beta": 0.3, "seeds": [0]}
        findings = results(scores, pairs, 0.3, study=study, mechanism=tables if mechanism else None)
        files = RunFiles(tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        for path, table in (
            (files.scores, scores),
            (files.pairs, pairs),
            (files.gradients, tables.gradients),
            (files.movement, tables.movement),
            (files.kl_and_path, tables.kl_and_path),
        ):
            write_table(path, table)
        write_json(files.results, to_json(findings))
        write_json(files.dropped, {"helpful": {"read": 2 * n + 1, "train": n, "eval": n, "dropped": {"empty": 1}}})
        write_json(files.study, study | {"placebo": 4, "lora_r": 4, "adapter_mode": "continue", "learning_rate": 1e-4})
        write_json(
            files.manifest,
            {
                "identity": {"model": "m" * 64, "data": "d" * 16, "chat_template": None, "seqdpo": "0.1.0"},
                "engine": "packed trees (segments)",
                "parameters": {"trainable": 1000, "total": 10000, "percent": 10.0},
            },
        )
        return read_run(files.root)

    return make


def _pairs(n: int, prompt: str, answer: str) -> pa.Table:
    """Pairs of both objectives; the chosen response speaks of leaves, the rejected one of sand."""
    of = [(objective, i) for objective in ("helpful", "harmless") for i in range(n)]
    return pa.table(
        {
            "pair_id": [f"{objective}-{i}" for objective, i in of],
            "prompt_id": [f"{objective}-{i}" for objective, i in of],
            "objective": [objective for objective, _ in of],
            "split": ["eval" for _ in of],
            "prompt": [[{"role": "user", "content": f"{prompt} {i}"}] for _, i in of],
            "chosen": [f"It is {answer} of leaves, number {i}" for _, i in of],
            "rejected": [f"It is {answer} of sand, number {i}" for _, i in of],
            "slice_topic": [prompt[:40] if i % 2 else "tea" for _, i in of],
        }
    )
