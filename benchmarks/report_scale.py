"""How large is the page, and how fast? `python benchmarks/report_scale.py` (needs chromium, chromedriver, selenium).

Made-up runs of 10,000 and 200,000 pairs at five checkpoints, texts as long as those of HH-RLHF.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.random import Generator
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from tables import report

from seqdpo.analysis.results import results
from seqdpo.analysis.schema import to_json
from seqdpo.files import write_json, write_table
from seqdpo.layout import RunFiles
from seqdpo.report.finished import Run, read_run
from seqdpo.report.page import page
from seqdpo.tables import MOVEMENT_SCHEMA, NODE_COLUMNS, SCORES_SCHEMA

SIZES = (10_000, 200_000)
#: (order, stage, placebo) of the checkpoints; five with margins of their own.
CHECKPOINTS = (("a>b", 1, 0), ("a>b", 2, 0), ("a>b", 2, 1), ("a>b", 2, 2), ("a>b", 2, 3))
WORDS = 60  # of a response, on average; prompts twice as many


def main() -> None:
    rows = [row(n) for n in SIZES]
    report("report_scale", rows, "One objective at the base and five checkpoints, in headless Chromium from disk.")


def row(n: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = made_up(n, Path(folder))
        began = time.perf_counter()
        text = page(run)
        built = time.perf_counter() - began
        path = Path(folder) / "report.html"
        path.write_text(text, encoding="utf-8")
        size = path.stat().st_size
        seconds = in_browser(path)
    return {"pairs": n, "MB": size / 1e6, "seconds to build": built, **seconds}


def in_browser(path: Path) -> dict[str, float]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        began = time.perf_counter()
        driver.get(path.as_uri())
        first = driver.execute_script(
            "return performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
        )
        wait(lambda: driver.execute_script("return document.body.dataset.ready"))
        usable = time.perf_counter() - began
        timed = "{}; const t = performance.now(); refilter(); return (performance.now() - t) / 1000"
        by_flip = timed.format("document.querySelector('input[value=kept]').checked = false")
        search = timed.format("byId('search').value = '{}'")
        return {
            "first screen, s": first,
            "pairs usable, s": usable,
            "filter by flip, s": driver.execute_script(by_flip),
            "first search, s": driver.execute_script(search.format("word17")),
            "second search, s": driver.execute_script(search.format("word18")),
        }
    finally:
        driver.quit()


def wait(is_done: Callable[[], Any]) -> None:
    while not is_done():
        time.sleep(0.02)


def made_up(n: int, root: Path) -> Run:
    generator = np.random.default_rng(0)
    ids = [f"{i:012x}" for i in range(n)]
    base = [scores(ids, "a>b", 0, 0, np.zeros(n))]
    taught = generator.normal(1, 2, n)
    parts = [scores(ids, *where, taught + generator.normal(0, 0.5, n) * (where[1] > 1)) for where in CHECKPOINTS]
    table = pa.concat_tables(base + parts)
    names = {"pair_id": ids, "prompt_id": ids, "objective": ["a"] * n, "split": ["eval"] * n}
    pairs = pa.table(names | {"slice_topic": generator.choice(["one", "two", "three"], n).tolist()})
    responses = [pa.array([words(generator, WORDS) for _ in range(n)]) for _ in range(2)]
    prompts = pa.array([[{"role": "user", "content": words(generator, 2 * WORDS)}] for _ in range(n)])
    for name, column in (("prompt", prompts), ("chosen", responses[0]), ("rejected", responses[1])):
        pairs = pairs.append_column(name, column)
    files = RunFiles(root)
    write_table(files.scores, table)
    write_table(files.pairs, pairs)
    write_table(files.movement, pa.schema([*NODE_COLUMNS, *MOVEMENT_SCHEMA]).empty_table())
    write_json(files.results, to_json(results(table, pairs, 0.3)))
    write_json(files.manifest, {"identity": {"seqdpo": "0"}})
    write_json(files.study, {"setting": "lab-made-up", "seeds": [0]})
    write_json(files.dropped, {})
    return read_run(root)


def scores(ids: list[str], order: str, stage: int, placebo: int, margins: np.ndarray) -> pa.Table:
    n = len(ids)
    name = ">".join(order.split(">")[:stage]) or "base"
    columns = {
        "seed": [0] * n,
        "order": [order] * n,
        "stage": [stage] * n,
        "checkpoint": [name + (f"~placebo{placebo}" if placebo else "")] * n,
        "placebo": [placebo] * n,
        "objective": ["a"] * n,
        "split": ["eval"] * n,
        "pair_id": ids,
        "chosen_logp": margins / 2 - 80,
        "rejected_logp": -margins / 2 - 80,
        "base_chosen_logp": np.full(n, -80.0),
        "base_rejected_logp": np.full(n, -80.0),
        "chosen_tokens": [80] * n,
        "rejected_tokens": [76] * n,
    }
    return pa.table(columns).cast(SCORES_SCHEMA)


def words(generator: Generator, mean: int) -> str:
    return " ".join(f"word{i}" for i in generator.zipf(1.3, generator.poisson(mean)) % 5000)


if __name__ == "__main__":
    main()
