"""What `seqdpo preflight` prints: one page of 80 columns. The report's section has the same lines."""

import textwrap
from collections.abc import Iterable, Iterator

from rich.console import Console

from seqdpo.analysis.kept import FAILED
from seqdpo.analysis.preflight import Came, Foretold, Labels, OpposedSlice, Preflights, ProbeResult, StagePreflight
from seqdpo.report.numbers import interval, number

#: Slices shown of either end.
MOST_SLICES = 2
#: The chance at which an order is said to look better.
SURE = 0.9


def print_preflights(console: Console, found: Preflights, folder: str) -> None:
    """Each stage, then what is said of all of them."""
    for stage in found.stages:
        _block(console, f"Before {stage.checkpoint} (seed {stage.seed})", stage_lines(stage))
    _block(console, "From labels and pairs alone", general_lines(found))
    for name in found.waiting:
        console.print(f"{name}: nothing more can be said before the stage that it starts from is trained")
    if found.waiting:
        console.print(f"  one stage alone: seqdpo stage {folder} NODE, as `seqdpo plan --format json` names it")
    console.print(f"Wrote {folder}/preflight.json", soft_wrap=True)


def _block(console: Console, heading: str, lines: Iterable[str]) -> None:
    told = list(lines)
    if told:
        console.print(heading, style="bold")
    for line in told:
        console.print("\n".join(textwrap.wrap(line, console.width, initial_indent="  ", subsequent_indent="    ")))


def stage_lines(stage: StagePreflight) -> Iterator[str]:
    """One stage: the forecasts first, then the signals that they are made of, and what it cost."""
    for one in stage.earlier:
        yield f"{one.objective}: {forecast_line(one)}"
    yield _labels(stage.objective, stage.labels)
    ends = _ends(stage.labels)
    if ends:
        yield f"by slice: {ends}"
    so_far = stage.transfer
    yield (
        f"{stage.objective} so far: {interval(so_far.accuracy, '.0%')} right, margin {interval(so_far.margin)} nats "
        f"(n = {so_far.accuracy.n:,} held out)"
    )
    for one in stage.earlier:
        if one.transfer is not None:
            yield f"{one.objective}, the signal of the forecast: new pairs have {one.transfer:+.0%} of its margin"
        for line in _signals(one):
            yield f"{one.objective}, {line}"
    cost = stage.cost
    probe = f", a probe of {cost.probe_steps} of {cost.stage_steps} steps and two control stages"
    yield (
        f"cost: {cost.share:.0%} of the stage's training passes: labels of {cost.label_pairs:,} pairs, a gradient of "
        f"{cost.gradient_pairs:,}, {cost.held_out_pairs:,} held-out pairs an objective"
        f"{probe if cost.probe_steps else '; no probe, whose steps cost more than the rest leaves'}"
    )
    costs = ", ".join(f"{one.remedy} {one.share:+.0%}" for one in stage.remedies)
    yield f"what a remedy costs, of the same: {costs}"


def forecast_line(one: Foretold) -> str:
    """What the stage is forecast to leave of an earlier objective."""
    if one.kept is None:
        return f"no forecast: nothing is sure to be there that could be lost (margin {interval(one.margin)} nats)"
    kept = one.kept
    outside = "; its signals lie outside those that the forecast was tested on" if kept.outside else ""
    return (
        f"forecast to keep {kept.value:.0%} [{kept.low:.0%}, {kept.high:.0%}] of its margin of "
        f"{number(one.margin.value)} nats ({kept.confidence:.0%} interval); chance of a loss beyond the tolerance "
        f"{_chance(kept.falls_beyond_tolerance)}{outside}"
    )


def _chance(value: float) -> str:
    return "above 99%" if value > 0.99 else "below 1%" if value < 0.01 else f"{value:.0%}"


def _labels(objective: str, labels: Labels) -> str:
    strength = "" if labels.strength.value is None else f", by {interval(labels.strength, '.1f')} nats in the mean"
    slope = "undefined" if labels.slope.value is None else interval(labels.slope)
    return (
        f"labels of {objective}: the policy opposes {interval(labels.opposed, '.0%')}{strength}; they would multiply "
        f"the present margins by {slope} (n = {labels.opposed.n:,} training pairs)"
    )


def _ends(labels: Labels) -> str:
    if len(labels.slices) < 2 * MOST_SLICES:
        return ""
    most, least = labels.slices[:MOST_SLICES], labels.slices[-MOST_SLICES:]
    return f"most opposed {', '.join(map(_slice, most))}; least {', '.join(map(_slice, reversed(least)))}"


def _slice(one: OpposedSlice) -> str:
    return f"{one.column.removeprefix('slice_')} {one.value} {interval(one.opposed, '.0%')}"


def _signals(one: Foretold) -> Iterator[str]:
    """Those that did not foretell anything where it was tested say so."""
    if one.gradient is not None:
        yield f"along the new gradient, a short step: margin {interval(one.gradient, '+.1%')}{_failed('gradient')}"
    if one.probe is not None:
        yield f"probe: margin {_probe(one.probe)}{_failed('probe')}"


def _probe(of: ProbeResult) -> str:
    controls = ", ".join(f"{one:+.0%}" for one in of.controls)
    return f"{interval(of.real, '+.0%')}, control stages {controls}; beyond them {interval(of.excess, '+.0%')}"


def _failed(signal: str) -> str:
    return f"; {FAILED[signal]}" if signal in FAILED else ""


def general_lines(found: Preflights) -> Iterator[str]:
    """Orders, labels and power."""
    for one in found.orders:
        looks = "looks better than" if one.chance >= SURE else "is not told from"
        yield (
            f"{one.order} {looks} {one.other} (seed {one.seed}): its first objective keeps more with a chance of "
            f"{_chance(one.chance)}"
        )
    for conflict in found.conflicts:
        yield (
            f"{conflict.objective} and {conflict.other} judge the same responses {conflict.differing.n:,} times, and "
            f"differ in {interval(conflict.differing, '.0%')}"
        )
    for power in found.power:
        yield (
            f"{power.objective}: {power.n:,} held-out pairs of {power.n_prompts:,} prompts show, with a chance of 80%, "
            f"a loss of {power.smallest_loss:.0%} of what was learned, or of {100 * power.smallest_accuracy_loss:.1f} "
            f"points of accuracy; that nothing changed takes {power.pairs_for_margin:,} pairs by the margin, "
            f"{power.pairs_for_accuracy:,} by accuracy"
        )
    reach = ", ".join(f"{n}: {number(value, '.1f')}" for n, value in found.reach.items())
    yield f"control stages beside each later one, and the change told from run noise, in its SDs: {reach}"


def came_line(one: Came) -> str:
    """The forecast of a stage beside what came of it."""
    came = "undefined" if one.kept is None else f"{one.kept:.0%}"
    inside = {True: "inside the interval", False: "outside the interval", None: "no forecast to hold it against"}
    return f"{one.of.objective}: {forecast_line(one.of)}; came: {came}, {inside[one.inside]}"
