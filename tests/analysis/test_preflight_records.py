"""From signals to the forecast, by hand; and the forecast beside what came."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from seqdpo.analysis import kept as kept_module
from seqdpo.analysis.kept import DF, ERROR, LEVEL, PER_TRANSFER, kept
from seqdpo.analysis.power import pairs_for_accuracy_tolerance, pairs_for_margin_tolerance
from seqdpo.analysis.preflight import (
    PREFLIGHT_VERSION,
    Cost,
    Earlier,
    NewPairs,
    Preflights,
    Signals,
    better_orders,
    read_preflights,
    stage_preflight,
)
from seqdpo.analysis.schema import to_json
from seqdpo.errors import DataError
from seqdpo.files import write_sealed
from seqdpo.study.checkpoints import Checkpoint
from seqdpo.study.config import Study

COST = Cost(label_pairs=4, gradient_pairs=8, held_out_pairs=4, probe_steps=1, stage_steps=30, passes=100.0, share=0.15)
KEYS = Study.model_validate(
    {
        "model_name_or_path": "lab",
        "objectives": {"helpful": {"format": "lab"}, "harmless": {"format": "lab"}},
        "output_dir": "out",
    }
)


def record(path=("helpful", "harmless"), present=(4.0, 2.0, 3.0, 3.0), new=(1.0, -2.0, -3.0, 0.0), seed=0):
    """Four held-out pairs of the earlier objective, four new ones; the probe took one nat, its controls 0 and 0.2."""
    present, new = np.array(present), np.array(new)
    n = len(new)
    metadata = pa.table({"chosen_tokens": [5] * n, "rejected_tokens": [4] * n})
    earlier = Earlier(
        margins=present,
        clusters=np.arange(len(present)),
        read=np.arange(len(present)),
        forecast=np.full(len(present), -0.3),
        probes=[present - 1, present, present - 0.2],
    )
    signals = Signals(NewPairs(new, np.arange(n), metadata), new, np.arange(n), {path[0]: earlier})
    return stage_preflight(seed, Checkpoint(path), signals, COST, (), KEYS)


def test_signals_are_shares_of_the_present_margin():
    """Present mean 3; new mean -1, so a transfer of -1/3; gradient -0.3/3; probe -1/3, controls 0 and -0.2/3."""
    [helpful] = record().earlier
    assert helpful.margin.value == 3
    assert helpful.transfer == pytest.approx(-1 / 3)
    assert helpful.gradient.value == pytest.approx(-0.1)
    assert helpful.probe.real.value == pytest.approx(-1 / 3)
    assert helpful.probe.controls == pytest.approx((0, -0.2 / 3))
    assert helpful.probe.excess.value == pytest.approx((-1 + 0.1) / 3)


def test_labels_are_held_against_the_policy():
    labels = record().labels
    assert labels.opposed.value == pytest.approx(2.5 / 4)  # two below 0 and a tie
    assert labels.strength.value == pytest.approx(2.5)
    assert record().transfer.accuracy.value == pytest.approx(1.5 / 4)


def test_the_forecast_is_the_fitted_line_with_the_error_of_one_further_cell():
    found = kept(-1 / 3, tolerance=0.1)
    value = LEVEL - PER_TRANSFER / 3
    reach = stats.t.ppf(0.95, DF) * ERROR
    assert (found.value, found.low, found.high) == pytest.approx((value, value - reach, value + reach))
    # at the tolerance itself the chance is one half
    at = (0.9 - LEVEL) / PER_TRANSFER
    assert kept(at, tolerance=0.1).falls == pytest.approx(0.5)
    assert kept(math.nan, 0.1) is None
    assert kept(kept_module.HIGHEST + 0.01, 0.1).outside and not kept(kept_module.HIGHEST, 0.1).outside


def test_nothing_is_foretold_of_what_is_not_there():
    [helpful] = record(present=(4.0, -4.0, 3.0, -2.0)).earlier
    assert helpful.kept is None and helpful.transfer is None


def test_of_two_orders_the_one_whose_first_objective_keeps_more_is_named_with_its_chance():
    """Transfers of -1/3 and +1/3: the forecasts differ by 2/3 of the slope, each with the same error."""
    one, other = record(), record(("harmless", "helpful"), new=(1.0, 2.0, 1.0, 0.0))
    [found] = better_orders([one, other])
    assert (found.order, found.other) == ("harmless>helpful", "helpful>harmless")
    sd = stats.t.ppf(0.95, DF) * ERROR / stats.norm.ppf(0.95)
    assert found.chance == pytest.approx(stats.norm.cdf(PER_TRANSFER * 2 / 3 / (sd * math.sqrt(2))))
    assert better_orders([one, record(("harmless", "helpful"), seed=1)]) == ()


def test_the_pairs_that_a_tolerance_takes():
    """Field: n = 8.57 p / d^2 at 5%, one-sided, and 80%: with a share of 11.6% that flips and d = 2%, 2,484."""
    assert pairs_for_accuracy_tolerance(0.02, 0.05) == math.ceil(2.9264**2 * 0.116 / 0.0004)
    assert pairs_for_margin_tolerance(0.1, 0.05) == math.ceil((2.9264 * 0.67 / 0.1) ** 2)


def test_the_file_is_read_as_it_was_written_and_a_wrong_key_is_named(tmp_path):
    stages = (record(),)
    found = Preflights(
        schema_version=PREFLIGHT_VERSION,
        stages=stages,
        orders=(),
        conflicts=(),
        power=(),
        reach={"2": None},
        waiting=(),
    )
    path = tmp_path / "preflight.json"
    write_sealed(path, to_json(found) | {"identity": {"model": "m"}})
    assert read_preflights(path) == (found, {"model": "m"})
    content = json.loads(json.dumps(to_json(found)))
    content["stages"][0]["seed"] = "zero"
    write_sealed(path, content)
    with pytest.raises(DataError, match=r"stages.0.seed = 'zero'"):
        read_preflights(path)
