"""What `seqdpo preflight` prints: every line fits 80 columns, and signals that failed say so."""

import io
from dataclasses import replace

import pytest

from seqdpo.analysis.preflight import (
    PREFLIGHT_VERSION,
    BetterOrder,
    Came,
    Cost,
    Foretold,
    Kept,
    Labels,
    Preflights,
    ProbeResult,
    RemedyCost,
    StagePreflight,
    TransferSoFar,
)
from seqdpo.analysis.schema import Interval
from seqdpo.report.print_preflight import came_line, print_preflights
from seqdpo.screen import Screen


def near(value: float, reach: float = 0.1) -> Interval:
    return Interval(value=value, low=value - reach, high=value + reach, confidence=0.95, n=600, n_prompts=600)


KEPT = Kept(value=-0.2, low=-1.0, high=0.6, confidence=0.9, falls_beyond_tolerance=0.995, outside=False)
HELPFUL = Foretold(
    objective="helpful",
    margin=near(2.3),
    accuracy=near(0.8, 0.03),
    transfer=-0.5,
    gradient=near(-0.01),
    probe=ProbeResult(real=near(-0.2), controls=(0.02, -0.1), excess=near(-0.16)),
    kept=KEPT,
)
COST = Cost(
    label_pairs=16, gradient_pairs=9, held_out_pairs=10, probe_steps=1, stage_steps=75, passes=173.0, share=0.14
)
STAGE = StagePreflight(
    seed=0,
    checkpoint="helpful>harmless",
    from_="helpful",
    objective="harmless",
    cost=COST,
    labels=Labels(opposed=near(0.6), strength=near(3.5), slope=near(-1.6), slices=()),
    transfer=TransferSoFar(accuracy=near(0.25), margin=near(-2)),
    earlier=(HELPFUL,),
    remedies=(RemedyCost(remedy="reference: previous", passes=600.0, share=0.5),),
)


def printed(stage: StagePreflight, chance: float = 0.6) -> str:
    output = io.StringIO()
    better = BetterOrder(seed=0, order="helpful>harmless", other="harmless>helpful", chance=chance)
    found = Preflights(
        schema_version=PREFLIGHT_VERSION,
        stages=(stage,),
        orders=(better,),
        conflicts=(),
        power=(),
        reach={"2": None, "4": 8.9},
        waiting=(),
    )
    print_preflights(Screen(file=output, width=80), found, "runs/a")
    assert max(map(len, output.getvalue().splitlines())) <= 80
    return " ".join(output.getvalue().split())


def test_the_forecast_comes_first_and_what_foretold_nothing_says_so() -> None:
    text = printed(STAGE)
    assert "helpful: forecast to keep -20% [-100%, 60%] of its margin of +2.30 nats (90% interval)" in text
    assert "chance of a loss beyond the tolerance above 99%" in text
    assert text.count("no forecast: it foretold little in the lab") == 2  # the gradient and the probe
    assert "what a remedy costs, of the same: reference: previous +50%" in text


@pytest.mark.parametrize(("chance", "said"), [(0.6, "is not told from"), (0.95, "looks better than")])
def test_an_order_looks_better_only_where_that_is_likely(chance: float, said: str) -> None:
    assert f"helpful>harmless {said} harmless>helpful" in printed(STAGE, chance)


def test_without_a_forecast_it_says_why() -> None:
    nothing = replace(HELPFUL, margin=near(0.05), transfer=None, kept=None)
    assert "no forecast: nothing is sure to be there that could be lost" in printed(replace(STAGE, earlier=(nothing,)))
    after_two = replace(HELPFUL, kept=None)
    assert "no forecast: after two objectives or more it failed" in printed(replace(STAGE, earlier=(after_two,)))


def test_the_forecast_stands_beside_what_came() -> None:
    assert came_line(Came(STAGE, HELPFUL, 0.1, True)).endswith("came: 10%, inside the interval")
    assert came_line(Came(STAGE, HELPFUL, None, None)).endswith("came: undefined, no forecast to hold it against")
