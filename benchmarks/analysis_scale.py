"""A million pairs at ten checkpoints: `python benchmarks/analysis_scale.py`, about two minutes and 4 GiB.

Writes random scores.parquet and pairs.parquet in a temporary folder, then reads and analyses them in a process of its
own, whose time and peak memory are reported. Two shapes: two objectives with control stages, and a long order.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tables import report

from seqdpo.analysis.results import results
from seqdpo.report.finished import REPEATED
from seqdpo.tables import SCORES_SCHEMA

N_PAIRS = 1_000_000
#: shape -> objectives, stages, control stages beside the last one; ten checkpoints with the base.
SHAPES = {"2 objectives, 7 control stages": (2, 2, 7), "9 objectives one after another": (9, 9, 0)}


def main() -> None:
    rows = []
    for name, (objectives, stages, controls) in SHAPES.items():
        with TemporaryDirectory() as folder:
            _write(Path(folder), objectives, stages, controls)
            found = subprocess.run(
                [sys.executable, __file__, folder], check=True, capture_output=True, text=True
            ).stdout.split()
        seconds, gigabytes, cells = float(found[0]), float(found[1]), int(found[2])
        rows.append({"shape": name, "pairs": N_PAIRS, "checkpoints": 10, "cells": cells, "seconds": seconds})
        rows[-1]["peak GiB"] = gigabytes
    report("analysis_scale", rows, "From the Parquet files to the content of results.json, two slice columns.")


def _write(folder: Path, n_objectives: int, n_stages: int, n_controls: int) -> None:
    generator = np.random.default_rng(0)
    names = [f"objective{i}" for i in range(n_objectives)]
    order = ">".join(names[:n_stages])
    places = [(stage, 0) for stage in range(n_stages + 1)] + [(n_stages, k + 1) for k in range(n_controls)]
    pairs, writer = [], pq.ParquetWriter(folder / "scores.parquet", SCORES_SCHEMA)
    for name in names:
        ids = pa.array([f"{name}-{i:08x}" for i in range(N_PAIRS // n_objectives)])
        n = len(ids)
        pairs.append(_pairs(name, ids, generator))
        base, truth = generator.normal(-50, 10, (2, n)), generator.normal(1, 2, n)
        tokens = generator.integers(5, 300, (2, n))
        for stage, placebo in places:
            margin = stage > 0 and truth + generator.normal(0, 0.7, n)
            columns = {
                "seed": pa.repeat(0, n),
                "order": pa.repeat(order, n),
                "stage": pa.repeat(stage, n),
                "checkpoint": pa.repeat(">".join(names[:stage]) + f"~placebo{placebo}" * bool(placebo) or "base", n),
                "placebo": pa.repeat(placebo, n),
                "objective": pa.repeat(name, n),
                "split": pa.repeat("eval", n),
                "pair_id": ids,
                "chosen_logp": base[0] + margin,
                "rejected_logp": base[1],
                "base_chosen_logp": base[0],
                "base_rejected_logp": base[1],
                "chosen_tokens": tokens[0],
                "rejected_tokens": tokens[1],
            }
            writer.write_table(pa.table(columns).cast(SCORES_SCHEMA))
    writer.close()
    pq.write_table(pa.concat_tables(pairs), folder / "pairs.parquet")


def _pairs(name: str, ids: pa.Array, generator: np.random.Generator) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "pair_id": ids,
            "prompt_id": [f"{name}-prompt{i}" for i in generator.integers(0, n, n)],
            "objective": pa.repeat(name, n),
            "split": pa.repeat("eval", n),
            "prompt_tokens": generator.integers(10, 500, n),
            "slice_category": pa.array([f"category {i}" for i in range(12)]).take(
                pa.array(generator.integers(0, 12, n))
            ),
            "slice_score": generator.integers(0, 5, n),
        }
    )


def _analyse(folder: Path) -> None:
    began = time.perf_counter()
    scores = pq.read_table(folder / "scores.parquet", read_dictionary=REPEATED)
    found = results(scores, pq.read_table(folder / "pairs.parquet"), beta=0.3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(time.perf_counter() - began, peak, len(found.cells))


if __name__ == "__main__":
    _analyse(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
