"""KL, forecast and path against numbers by hand and planted shapes."""

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from seqdpo.analysis.estimates import Estimate
from seqdpo.analysis.kl_and_path import kl_and_path_records
from seqdpo.analysis.path import bend_of, best_place, path_record
from seqdpo.analysis.schema import to_json
from seqdpo.errors import DataError
from seqdpo.tables import KL_AND_PATH_SCHEMA, NODE_COLUMNS, PATH

SCHEMA = pa.schema([*NODE_COLUMNS, *KL_AND_PATH_SCHEMA])


def row(pair_id, placebo=0, objective="a", path=None, **numbers):
    """A pair of `score_rows`: its rejected response has -10, so that the chosen logp is the margin - 10."""
    return {
        "seed": 0,
        "checkpoint": "a>b" + (f"~placebo{placebo}" if placebo else ""),
        "placebo": placebo,
        "parent": "a",
        "objective": objective,
        "pair_id": pair_id,
        "chosen_kl": 1.0,
        "rejected_kl": 1.0,
        "chosen_forecast": None,
        "rejected_forecast": None,
        "path_chosen_logp": None if path is None else [m - 10 for m in path],
        "path_rejected_logp": None if path is None else [-10.0] * len(PATH),
    } | numbers


def table(rows):
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def line(start, slope, bend=0.0):
    return [start + slope * a + bend * a**2 for a in PATH]


def test_kl_is_a_mean_over_pairs_of_nats_a_token(make_panel):
    """Chosen responses have 5 tokens, rejected ones 4 (`score_rows`): 10 / 5 and 5 / 5; 4 / 4 and 12 / 4."""
    panel = make_panel({(1, 0): [2.0, 1.0], (2, 0): [1.0, 1.0]})
    rows = [row("a0", chosen_kl=10.0, rejected_kl=4.0), row("a1", chosen_kl=5.0, rejected_kl=12.0)]
    [record] = to_json(kl_and_path_records(table(rows), [panel], 0.95))
    [one] = record["objectives"]
    assert (one["kl"]["chosen"]["value"], one["kl"]["rejected"]["value"]) == (1.5, 2.0)
    assert (one["n"], one["forecast"], one["path"]) == (2, None, None)
    assert record["best_for_worst_objective"] is None
    assert (record["from"], record["to"], record["placebo"]) == ("a", "a>b", 0)


def test_forecast_ranks_the_changes_of_the_measured_pairs_only(make_panel):
    """Changes -1, -2, -3, 4, 0.5 of a1, a2, a3, a4, a0; the table has four of them in another order."""
    panel = make_panel({(1, 0): [1.0, 1.0, 1.0, 1.0, 1.0], (2, 0): [1.5, 0.0, -1.0, -2.0, 5.0]})
    promised = {"a4": 0.3, "a1": 0.1, "a3": -0.1, "a2": 0.2}
    rows = [row(name, chosen_forecast=value + 1, rejected_forecast=1.0) for name, value in promised.items()]
    [record] = to_json(kl_and_path_records(table(rows), [panel], 0.95))
    found = record["objectives"][0]["forecast"]
    expected = stats.spearmanr(list(promised.values()), [4, -1, -3, -2]).statistic
    assert found["spearman"] == pytest.approx(expected)
    assert found["actual_change"]["value"] == pytest.approx(-0.5)
    reach = stats.norm.ppf(0.975) * math.sqrt(1 + expected**2 / 2)  # n - 3 = 1
    assert found["low"] == pytest.approx(math.tanh(math.atanh(expected) - reach))
    assert (found["n"], found["n_prompts"]) == (4, 4)


def test_forecast_interval_covers(make_panel):
    """Ranks with a planted normal correlation of 0.5: Spearman's is 6 / pi * asin(0.25)."""
    generator = np.random.default_rng(0)
    true = 6 / math.pi * math.asin(0.25)
    covered = []
    for _ in range(200):
        came = generator.normal(size=100)
        promised = 0.5 * came + math.sqrt(0.75) * generator.normal(size=100)
        panel = make_panel({(1, 0): [0.0] * 100, (2, 0): came.tolist()})
        rows = [row(f"a{i}", chosen_forecast=promised[i], rejected_forecast=0.0) for i in range(100)]
        found = to_json(kl_and_path_records(table(rows), [panel], 0.95))[0]["objectives"][0]["forecast"]
        covered.append(found["low"] <= true <= found["high"])
    assert 0.90 <= np.mean(covered) <= 0.99


def test_a_straight_path_is_first_order(make_panel):
    panel = make_panel({(1, 0): [2.0, 1.0, 3.0], (2, 0): [1.0, -0.1, 2.1]})
    rows = [row("a0", path=line(2, -1)), row("a1", path=line(1, -1.1)), row("a2", path=line(3, -0.9))]
    [record] = to_json(kl_and_path_records(table(rows), [panel], 0.95))
    path = record["objectives"][0]["path"]
    assert [step["a"] for step in path["steps"]] == list(PATH)
    assert path["steps"][0]["margin"]["value"] == 2.0
    assert path["margin_change"]["value"] == pytest.approx(-1)
    assert path["slope_prediction"]["value"] == pytest.approx(-1)
    assert path["second_order_part"]["value"] == pytest.approx(0, abs=1e-12)
    assert path["statement"] == "first-order"
    assert [step["accuracy"]["value"] for step in path["steps"]] == pytest.approx([1, 1, 1, 1, 2 / 3, 2 / 3])


def test_a_bent_path_gives_its_own_second_order_part():
    """m(a) = 2 - a + 3 a^2: change 2, slope -1, between 0 and 0.25 it is -1 + 0.75."""
    margins = {a: np.array([2 - a + 3 * a**2, 1 - a + 3 * a**2, 1 - a + 3 * a**2]) for a in PATH}
    bend = bend_of(margins)
    np.testing.assert_allclose(bend.second_order_part, 3)
    np.testing.assert_allclose(bend.slope_prediction, -0.25)
    np.testing.assert_allclose(bend.departure, 2.25)
    noisy = {a: column + np.array([0.0, 0.1, -0.1]) * a for a, column in margins.items()}
    assert to_json(path_record(noisy, np.arange(3), 0.95))["statement"] == "curved"


def test_the_best_place_for_the_worst_objective(make_panel):
    """a falls from 2 to 1, b rises from 0 to 4: at 0.5 they have 1.5 and 2, at 0.25 1.75 and 1; the rest is worse."""
    panels = [make_panel({(1, 0): [2.0, 2.0], (2, 0): [1.0, 1.0]}, objective=name) for name in ("a", "b", "c")]
    rows = [row(f"a{i}", path=line(2, -1)) for i in (0, 1)] + [
        row(f"b{i}", objective="b", path=line(0, 4)) for i in (0, 1)
    ]
    rows += [row(f"c{i}", objective="c", path=line(-9, 0)) for i in (0, 1)]  # not taught: does not count
    [record] = to_json(kl_and_path_records(table(rows), panels, 0.95))
    best = record["best_for_worst_objective"]["margin"]
    assert (best["a"], best["objective"], best["value"]) == (0.5, "a", 1.5)
    assert best["at_one"]["value"] == 1.0


def test_best_place_is_none_where_a_score_is_undefined():
    unknown = {"a": {0.0: Estimate(math.nan, math.nan, 2, 2), 1.0: Estimate(1.0, 0.1, 2, 2)}}
    assert to_json(best_place(unknown, 0.95)) is None


def test_control_stages_are_their_own_records(make_panel):
    panel = make_panel({(1, 0): [2.0, 1.0], (2, 0): [1.0, 1.0], (2, 1): [2.0, 1.1]})
    found = to_json(kl_and_path_records(table([row("a0"), row("a1"), row("a0", 1), row("a1", 1)]), [panel], 0.95))
    assert [record["placebo"] for record in found] == [0, 1]


def test_pairs_that_were_never_scored_are_refused(make_panel):
    panel = make_panel({(1, 0): [2.0], (2, 0): [1.0]})
    with pytest.raises(DataError, match="1 of 2 pairs of a are not among the scored ones"):
        to_json(kl_and_path_records(table([row("a0"), row("other")]), [panel], 0.95))
