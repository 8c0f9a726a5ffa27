"""How often the verdicts are wrong, by simulation: `python benchmarks/error_rates.py [PART ...] [--draws 1000]`.

Parts, each with its table:
    worlds     false claims and coverage where pairs, prompts and runs are unlike what a t interval likes best
    words      what the rule says, by what the later stage did and the number of pairs
    needed     whether the number of pairs that is named as needed settles the question
    recipes    ATTRIBUTABLE, by seeds, control stages, unequal noise, and looks
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from simulated import Later, Truth, World, draw
from tables import report

from seqdpo.analysis.cells import Cell, cells
from seqdpo.analysis.panel import Panel
from seqdpo.analysis.recipes import LOOKS, Runs, separation
from seqdpo.analysis.schema import Tolerances, Word
from seqdpo.analysis.verdicts import Ruling, rulings, verdicts

TOLERANCES = Tolerances()

WORLDS = (
    World(),
    World("n = 60", n=60),
    World("n = 200", n=200),
    World("n = 4,000", n=4000),
    World("t with 3 degrees of freedom", shape="t3"),
    World("lognormal scale", shape="lognormal scale"),
    World("1 to 30 pairs a prompt, correlation 0.5", prompts=(1, 30), within=0.5),
    World("8 prompts of 1 to 30 pairs, 0.5", n_prompts=8, prompts=(1, 30), within=0.5),
    World("20 prompts of 1 to 30 pairs, 0.5", n_prompts=20, prompts=(1, 30), within=0.5),
    World("ties: margins in steps of 0.5 SD", rounding=0.5),
    World("accuracy 0.5", gain=0.0),
    World("accuracy 0.9", gain=1.28),
    World("accuracy 0.99", gain=2.33),
    World("jitter of bfloat16, 0.03 SD", jitter=0.03),
    World("each run scaled, SD 5%", scale_noise=0.05),
    World("one control stage", n_controls=1),
)
#: The hardest for false claims: no change, and changes that lie at a tolerance.
NULLS = (
    Later(),
    Later("margin at its tolerance", shift=-0.1),
    Later("accuracy near its tolerance, mean kept", skew=0.137),
    Later("ranking accuracy near its tolerance", nothing_taught=True, against_base=0.037),
)
LATERS = (
    Later(),
    Later("a loss of 10%, the tolerance itself", shift=-0.1),
    Later("a loss of 20%", shift=-0.2),
    Later("a loss of 60%", shift=-0.6),
    Later("all of it lost", shift=-1.0),
    Later("a gain of 30%", shift=0.3),
    Later("pure reshuffle", reshuffle=0.6),
    Later("accuracy falls, mean kept", skew=0.2),
    Later("all margins x 0.7", scale=0.7),
    Later("nothing learned, the base's preferences lost", nothing_taught=True, against_base=1.0),
)


def main() -> None:
    parts: dict[str, Callable[[int], None]] = {
        "worlds": worlds,
        "words": words,
        "needed": pairs_needed,
        "recipes": recipes,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=list(parts))
    parser.add_argument("--draws", type=int, default=1000)
    asked = parser.parse_args()
    for part in asked.parts or parts:
        parts[part](asked.draws)


def worlds(draws: int) -> None:
    rows = [
        {"world": world.name, "later stage": later.name} | false_claims(world, later, draws)
        for world in WORLDS
        for later in NULLS
    ]
    report(
        "error_rates_worlds",
        rows,
        f"False claims and coverage of 95% intervals, share of {draws} draws.",
    )
    report(
        "error_rates_64_cells",
        [_many_cells(64, draws // 10)],
        f"Any false claim in a study of 64 cells without change, share of {draws // 10} studies.",
    )


def false_claims(world: World, later: Later, draws: int) -> dict[str, float | None]:
    generator = _generator(world, later)
    found: Counter[str] = Counter()
    covered: dict[str, list[bool]] = {"margin": [], "accuracy": [], "retention": []}
    for _ in range(draws):
        panel, truth = draw(world, later, generator)
        (ruling,) = rulings(cells([panel]), TOLERANCES)
        found.update(set(_false(ruling, truth)))
        for name, interval, value in _intervals(ruling, truth):
            if not np.isnan(interval).any():
                covered[name].append(bool(interval[0] <= value <= interval[1]))
    names = ("any", "margin", "accuracy", "redistribution", "below base", "learned", "STABLE", "degree")
    return {name: found[name] / draws for name in names} | {
        f"{name} covered": float(np.mean(hits)) if len(hits) > draws / 2 else None for name, hits in covered.items()
    }


def _false(ruling: Ruling, truth: Truth) -> Iterator[str]:
    """What the ruling claims and is not so."""
    of, tolerance = ruling.classes, TOLERANCES.margin * truth.gain
    claims = {"below base": ruling.word == "BELOW BASE" or "below base" in ruling.tags}
    claims["below base"] &= truth.ranking_change > -TOLERANCES.accuracy
    claims["learned"] = of is not None and truth.gain <= 0
    if of is not None:
        left = truth.gain + truth.change
        claims["margin"] = _is_false(of.margin, truth.change, tolerance)
        claims["accuracy"] = _is_false(of.accuracy, truth.accuracy_change, TOLERANCES.accuracy)
        claims["redistribution"] = (
            (of.flips == "found" and truth.excess_flips <= TOLERANCES.flips)
            or (of.flips == "ruled out" and truth.excess_flips > TOLERANCES.flips)
            or ("found" in (of.scale, of.scatter) and not truth.restructured)
        )
        wrong = abs(truth.accuracy_change) >= TOLERANCES.accuracy and ruling.degree is None
        claims["STABLE"] = ruling.word == "STABLE" and (abs(truth.change) >= tolerance - 1e-9 or wrong)
        claims["degree"] = (ruling.degree == "lost" and left > tolerance) or (ruling.degree == "partial" and left <= 0)
    yield from (name for name, is_false in claims.items() if is_false)
    if any(claims.values()):
        yield "any"


def _is_false(claim: str, value: float, tolerance: float) -> bool:
    value = round(value, 9)
    return {
        "fell": value >= -round(tolerance, 9),
        "rose": value <= round(tolerance, 9),
        "held": abs(value) >= round(tolerance, 9),
        "unresolved": False,
    }[claim]


def _intervals(ruling: Ruling, truth: Truth) -> Iterator[tuple[str, tuple[float, float], float]]:
    e = ruling.evidence
    yield "margin", e.margin.value.interval(0.95), truth.change
    yield "accuracy", e.accuracy.value.interval(0.95), truth.accuracy_change
    if truth.gain > 0:
        yield "retention", e.retention.interval(0.95), 1 + truth.change / truth.gain


def _many_cells(n_cells: int, draws: int) -> dict[str, Any]:
    generator = np.random.default_rng(n_cells)
    found: Counter[str] = Counter()
    for _ in range(draws):
        drawn = [draw(World(n=500), Later(), generator) for _ in range(n_cells)]
        of = rulings([_renamed(panel, i) for i, (panel, _) in enumerate(drawn)], TOLERANCES)
        wrong = [set(_false(ruling, truth)) for ruling, (_, truth) in zip(of, drawn, strict=True)]
        found["any"] += any(wrong)
        found["STABLE"] += sum(ruling.word == "STABLE" for ruling in of)
    return {"cells": n_cells, "any false claim": found["any"] / draws, "STABLE": found["STABLE"] / draws / n_cells}


def _renamed(panel: Panel, number: int) -> Cell:
    (cell,) = cells([panel])
    return replace(cell, panel=replace(panel, split=str(number)))


def words(draws: int) -> None:
    rows = [
        {"later stage": later.name, "n": n} | _words(World(n=n), later, draws)
        for later in LATERS
        for n in (500, 1000, 2000)
    ]
    rows.append(
        {"later stage": "half the spread, accuracy 0.99", "n": 1000}
        | _words(World(gain=2.33), Later("half", spread=0.5), draws)
    )
    report(
        "error_rates_pairs",
        rows,
        f"Verdicts on a checkpoint, share of {draws} draws, defaults, one cell, four control stages.",
    )


def _words(world: World, later: Later, draws: int) -> dict[str, float]:
    generator = _generator(world, later)
    found: Counter[str] = Counter()
    for _ in range(draws):
        (ruling,) = rulings(cells([draw(world, later, generator)[0]]), TOLERANCES)
        found.update([ruling.word, *ruling.tags])
        found.update([f"{ruling.word} {ruling.degree or ''}".strip()] if ruling.degree else [])
    asked = [*get_args(Word), "STABLE margin only", "DEGRADED lost", "DEGRADED partial", "redistributed", "scale only"]
    return {word: found[word] / draws for word in asked}


def pairs_needed(draws: int) -> None:
    """From studies that came out INCONCLUSIVE: the share that as many pairs as they name settle.

    `as it looked`: drawn from the pairs of the study itself, so that the change is what it looked like.
    `in truth`: drawn anew from the same world.
    """
    rows = []
    for later in (
        Later(),
        Later("a loss of 5%", shift=-0.05),
        Later("a loss of 15%", shift=-0.15),
        Later("a loss of 20%", shift=-0.2),
    ):
        for n in (150, 300):
            rows.append({"later stage": later.name, "n": n} | _needed(World(n=n), later, draws))
    report(
        "error_rates_needed", rows, "Studies that are INCONCLUSIVE, and what came of as many pairs as they asked for."
    )


def _needed(world: World, later: Later, draws: int) -> dict[str, Any]:
    generator = _generator(world, later)
    asked, as_it_looked, in_truth = [], [], []
    while len(asked) < draws:
        panel, _ = draw(world, later, generator)
        (verdict,) = verdicts(cells([panel]), TOLERANCES)
        if verdict.verdict != "INCONCLUSIVE" or verdict.n_needed is None:
            continue
        asked.append(verdict.n_needed)
        as_it_looked.append(_settled(_resampled(panel, verdict.prompts_needed, generator)))
        in_truth.append(_settled(draw(replace(world, n=verdict.n_needed), later, generator)[0]))
    return {
        "studies": len(asked),
        "n_needed, median": int(np.median(asked)),
        "as it looked": float(np.mean(as_it_looked)),
        "in truth": float(np.mean(in_truth)),
    }


def _settled(panel: Panel) -> bool:
    return rulings(cells([panel]), TOLERANCES)[0].word != "INCONCLUSIVE"


def _resampled(panel: Panel, n_prompts: int, generator: np.random.Generator) -> Panel:
    """So many prompts drawn from those of the panel, each draw a prompt of its own."""
    order = np.argsort(panel.clusters, kind="stable")
    starts = np.searchsorted(panel.clusters[order], np.arange(panel.clusters.max() + 2))
    drawn = generator.integers(0, len(starts) - 1, n_prompts)
    rows = [order[starts[prompt] : starts[prompt + 1]] for prompt in drawn]
    found = panel.rows(np.ones(len(panel.clusters), dtype=bool))
    where = np.concatenate(rows)
    scores = {at: type(s)(*(column[where] for column in s)) for at, s in found.checkpoints.items()}
    clusters = np.repeat(np.arange(n_prompts), [len(one) for one in rows])
    ids = pa.array(np.arange(len(where)).astype(str))
    return replace(panel, pair_ids=ids, clusters=clusters, metadata=pa.table({"pair_id": ids}), checkpoints=scores)


def recipes(draws: int) -> None:
    draws *= 10
    rows = [_run_level(shift, n, 1, 1.0, draws) for shift in (0.0, 3.0, 6.0, 12.0) for n in (2, 3, 4, 6, 10)]
    report(
        "error_rates_runs", rows, f"ATTRIBUTABLE at 5%, share of {draws} draws, one quantity of one cell with one seed."
    )
    rows = [
        _run_level(0.0, n, seeds, sd, draws)
        for sd in (0.5, 1.0, 2.0)
        for seeds in (1, 3, 5)
        for n in (1, 4)
        if seeds * n > 1
    ]
    report(
        "error_rates_unequal",
        rows,
        f"The same without an effect where real stages vary by other SDs than control stages, {draws} draws.",
    )
    report(
        "error_rates_looks",
        list(_looks(draws)),
        f"ATTRIBUTABLE without an effect where control stages are added until it is, {draws} draws.",
    )


def _run_level(shift: float, n_controls: int, n_seeds: int, real_sd: float, draws: int) -> dict[str, Any]:
    generator = np.random.default_rng([n_controls, int(shift), n_seeds])
    found = 0
    for _ in range(draws):
        real = shift + real_sd * generator.standard_normal(n_seeds)
        controls = generator.standard_normal((n_seeds, n_controls))
        result = separation(Runs(list(real), [list(one) for one in controls]))
        alike = n_seeds == 1 or np.ptp(np.sign(real - controls.mean(1))) == 0
        found += bool(result.p <= 0.05 and alike)
    return {
        "shift in SDs of run noise": shift,
        "seeds": n_seeds,
        "control stages a seed": n_controls,
        "SD of real over control": real_sd,
        "ATTRIBUTABLE": found / draws,
    }


def _looks(draws: int) -> Iterator[dict[str, Any]]:
    """From three control stages up to twelve, a look after each; and by the rule of `--until-separable`."""
    for name, at, level in (
        ("a look after each, 5% each time", range(3, 13), 0.05),
        (f"--until-separable, looks at {LOOKS}", LOOKS, 0.05 / len(LOOKS)),
    ):
        generator = np.random.default_rng(0)
        values = generator.standard_normal((draws, 1 + max(at)))
        found = np.mean([any(separation(Runs([v[0]], [list(v[1 : 1 + k])])).p <= level for k in at) for v in values])
        yield {"rule": name, "ATTRIBUTABLE": float(found)}


def _generator(world: World, later: Later) -> np.random.Generator:
    return np.random.default_rng([world.n, *world.name.encode(), *later.name.encode()])


if __name__ == "__main__":
    main()
