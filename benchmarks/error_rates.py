"""How often the verdicts are wrong, by simulation: `python benchmarks/error_rates.py [--draws 1000]`.

Margins of n pairs are drawn around a true margin each, runs differ by noise with a correlation of 0.9 between runs
(the placebo stages of the lab had 0.89 to 0.93), and the later stage does what the scenario says. Half of the prompts
have two pairs, which share a part of both. One objective, one later stage, one control stage.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from tables import report

from seqdpo.analysis.cells import Cell, cells
from seqdpo.analysis.margins import PairScores
from seqdpo.analysis.panel import At, Panel
from seqdpo.analysis.recipes import Runs, separation
from seqdpo.analysis.schema import Tolerances, Word
from seqdpo.analysis.verdicts import verdicts

GAIN = 0.65  # mean margin in SDs of the margins: an accuracy of 0.74, and 11.6% of the pairs flip between runs
RUN_CORRELATION = 0.9
PROMPT_CORRELATION = 0.3  # of two pairs of one prompt
N_PAIRS = (500, 1000, 2000)


class Scenario(NamedTuple):
    """What the later stage does."""

    name: str
    shift: float = 0.0  # of every margin, as a share of the gain
    reshuffle: float = 0.0  # SD of what it adds to each pair, in SDs of the margins


SCENARIOS = (
    Scenario("no change"),
    Scenario("a loss of 10%, the tolerance itself", shift=-0.1),
    Scenario("a loss of 20%", shift=-0.2),
    Scenario("a gain of 30%", shift=0.3),
    Scenario("pure reshuffle", reshuffle=0.6),
    Scenario("all of it lost", shift=-1.0),
)
RUN_SCENARIOS = (0.0, 3.0, 6.0, 12.0)  # shift of the real run, in SDs of run noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    rows = [_pair_level(scenario, n, draws) for scenario in SCENARIOS for n in N_PAIRS]
    report("error_rates_pairs", rows, f"Verdicts on a checkpoint, share of {draws} draws, defaults, one cell.")
    runs = [_run_level(shift, n, 10 * draws) for shift in RUN_SCENARIOS for n in (2, 3, 4, 6, 10)]
    report("error_rates_runs", runs, f"ATTRIBUTABLE, share of {10 * draws} draws, one seed, one cell.")


def _pair_level(scenario: Scenario, n: int, draws: int) -> dict[str, Any]:
    generator = np.random.default_rng([n, *scenario.name.encode()])
    found: Counter[str] = Counter()
    for _ in range(draws):
        (cell,) = cells([simulated_panel(scenario, n, generator)])
        found[_verdict(cell)] += 1
    return {"scenario": scenario.name, "n": n} | {word: found[word] / draws for word in get_args(Word)}


def _verdict(cell: Cell) -> str:
    return verdicts([cell], Tolerances())[0].verdict


def simulated_panel(scenario: Scenario, n: int, generator: np.random.Generator) -> Panel:
    """An objective's margins after the stage that taught it, after a later one, and after one control stage."""
    prompts = np.sort(np.concatenate([np.arange(2 * n // 3), np.arange(n - 2 * n // 3)]))  # (n,) half of them twice
    truth = GAIN + np.sqrt(RUN_CORRELATION) * _normal(prompts, generator)

    def run() -> np.ndarray:
        return truth + np.sqrt(1 - RUN_CORRELATION) * _normal(prompts, generator)

    later = run() + scenario.shift * GAIN + scenario.reshuffle * _normal(prompts, generator)
    margins = {(0, 0): np.zeros(n), (1, 0): run(), (2, 0): later, (2, 1): run()}
    ids = pa.array(np.arange(n).astype(str))
    return Panel(
        objective="first",
        split="eval",
        pair_ids=ids,
        clusters=prompts,
        metadata=pa.table({"pair_id": ids}),
        checkpoints={At(0, "first>second", *where): _scores(values) for where, values in margins.items()},
        names={At(0, "first>second", *where): str(where) for where in margins},
    )


def _normal(prompts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Standard normal values that two pairs of one prompt share a part of."""
    shared = generator.standard_normal(prompts.max() + 1)[prompts]
    return np.sqrt(PROMPT_CORRELATION) * shared + np.sqrt(1 - PROMPT_CORRELATION) * generator.standard_normal(
        len(prompts)
    )


def _scores(margin: np.ndarray) -> PairScores:
    zero, one = np.zeros_like(margin), np.ones_like(margin)
    return PairScores(margin, zero, zero, zero, one, one)


def _run_level(shift: float, n_controls: int, draws: int) -> dict[str, Any]:
    generator = np.random.default_rng([n_controls, int(shift)])
    found = np.mean([separation(runs).p <= 0.05 for runs in _runs(shift, n_controls, draws, generator)])
    return {"shift in SDs of run noise": shift, "control stages": n_controls, "ATTRIBUTABLE": float(found)}


def _runs(shift: float, n_controls: int, draws: int, generator: np.random.Generator) -> Iterator[Runs]:
    for values in generator.standard_normal((draws, 1 + n_controls)):
        yield Runs([shift + values[0]], [list(values[1:])])


if __name__ == "__main__":
    main()
