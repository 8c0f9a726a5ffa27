"""Slices: which pairs a slice holds, its numbers against the plain estimates of its pairs, and honest tests."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
from scipy import stats

from seqdpo.analysis.cells import Cell
from seqdpo.analysis.estimates import difference, mean, ratio, two_sided
from seqdpo.analysis.margins import PairScores
from seqdpo.analysis.panel import At, Panel
from seqdpo.analysis.schema import to_json
from seqdpo.analysis.slices import slice_records


def make_cell(before, after, columns, prompts=None, taught=None, lengths=None, controls=None):
    """Pairs that were taught by stage 1 and stood at `before` ahead of the last stage; all lengths the same.

    Without `controls` there are four that next to nothing happened in, so that the noise of the pairs alone decides.
    """
    stages = [before, after] if taught is None else [taught, before, after]
    n = len(before)
    one = np.ones(n)
    chosen, rejected = (one, one) if lengths is None else np.asarray(lengths, dtype=float)

    def scores(margin):
        return PairScores(np.asarray(margin, dtype=float), one - 1, one - 1, one - 1, chosen, rejected)

    checkpoints = {At(0, "a>b>c", i + 1): scores(margin) for i, margin in enumerate(stages)}
    if controls is None:
        controls = before + 1e-9 * np.random.default_rng(9).normal(size=(4, n))
    checkpoints |= {At(0, "a>b>c", len(stages), i + 1): scores(margin) for i, margin in enumerate(controls)}
    ids = pa.array([f"pair{i}" for i in range(n)])
    clusters = np.arange(n) if prompts is None else np.unique(prompts, return_inverse=True)[1]
    metadata = pa.table({"pair_id": ids, **columns})
    panel = Panel("a", "eval", ids, clusters, metadata, checkpoints, dict.fromkeys(checkpoints, "x"))
    return Cell(panel, 0, "a>b>c", taught=1, start=len(stages) - 1, end=len(stages))


def records_of(cell, confidence=0.95):
    records = to_json(slice_records(cell, confidence))
    json.dumps(records, allow_nan=False)
    return records


def by_value(records, column):
    return {record["value"]: record for record in records if record["column"] == column}


def sizes(columns, **cell):
    """value: n, of all slices of the only column."""
    n = len(next(iter(columns.values())))
    return {record["value"]: record["n"] for record in records_of(make_cell(np.zeros(n), np.zeros(n), columns, **cell))}


# which slices there are


def test_each_value_of_a_text_or_a_boolean_is_a_slice():
    assert sizes({"slice_topic": ["tea", "pots", "tea"]}) == {"tea": 2, "pots": 1}
    assert sizes({"slice_clean": [True, False, True]}) == {"true": 2, "false": 1}
    assert sizes({"truncated": [True, False, False]}) == {"true": 1, "false": 2}
    encoded = pa.chunked_array([pa.array(["tea", "pots"]).dictionary_encode(), pa.array(["tea"]).dictionary_encode()])
    assert sizes({"slice_topic": encoded}) == {"tea": 2, "pots": 1}


def test_pairs_without_a_value_are_a_slice_of_their_own():
    assert sizes({"slice_topic": ["tea", None, "tea"]}) == {"tea": 2, "(none)": 1}
    assert sizes({"slice_turns": [1, None, 1, None]}) == {"1": 2, "(none)": 2}
    assert sizes({"slice_score": [0.5, math.nan, 0.5, None]}) == {"0.5": 2, "(none)": 2}


@pytest.mark.parametrize(
    "columns",
    [
        {"slice_topic": ["tea"] * 4},
        {"slice_topic": pa.nulls(4)},
        {"slice_topic": pa.nulls(4, pa.string())},
        {"truncated": [False] * 4},
        {"slice_id": ["w", "x", "y", "y"][:3]},
        {"slice_id": ["x", "y", "z", None]},
        {"slice_id": [1, 2, 3, 3]},  # two of four are single: not more than half
        {"topic": ["tea", "tea", "pots", "pots"]},
        {"prompt_tokens": [7] * 4},
        {"strength": pa.nulls(4, pa.float64())},
        {"slice_tags": [["tea"], ["tea"], ["pots"], ["pots"]]},
    ],
)
def test_columns_that_tell_no_pairs_apart_or_name_each_of_them_make_no_slices(columns):
    expected = {"1": 1, "2": 1, "3": 2} if columns.get("slice_id") == [1, 2, 3, 3] else {}
    assert sizes(columns) == expected


def test_the_twenty_most_frequent_values_are_slices_and_the_rest_share_one():
    """v00 to v21 twice and v22 thrice: v22, then the first nineteen by name; v19, v20 and v21 are left."""
    found = sizes({"slice_topic": [f"v{i:02}" for i in range(21, -1, -1)] * 2 + ["v22"] * 3})
    assert found == {"v22": 3, "(other)": 6} | {f"v{i:02}": 2 for i in range(19)}


def test_more_than_ten_numbers_are_put_into_quartiles():
    """Eleven numbers 3 to 13: the edges 5.5, 8, 10.5 part them 3, 3, 2, 3."""
    assert sizes({"slice_turns": list(range(13, 2, -1))}) == {"3 to 5": 3, "6 to 8": 3, "9 to 10": 2, "11 to 13": 3}
    assert sizes({"slice_turns": [*range(10), *range(10)]}) == {str(i): 2 for i in range(10)}
    encoded = pa.array(range(3, 14)).dictionary_encode()
    assert sizes({"slice_turns": encoded}) == {"3 to 5": 3, "6 to 8": 3, "9 to 10": 2, "11 to 13": 3}


def test_numbers_of_their_own_are_no_names():
    """Twelve different scores: three in each quartile."""
    assert sizes({"slice_score": np.arange(12) / 8}) == {"0 to 0.25": 3, "0.375 to 0.625": 3, "0.75 to 1": 3} | {
        "1.12 to 1.38": 3
    }


def test_edges_have_three_digits_or_as_many_as_tell_them_apart():
    apart = sizes({"slice_score": 1.37767 + np.arange(12)})
    assert next(iter(apart)) == "1.38 to 3.38"
    close = sizes({"slice_score": 1.37761 + np.arange(12) / 1e5})
    assert next(iter(close)) == "1.37761 to 1.37763"


def test_length_difference_prompt_length_and_strength_are_put_into_quartiles():
    """Quantiles of 1, 2, 3, 4: 1.75, 2.5, 3.25. Of 0, 0, 0, 9: 0, 0, 2.25, so that Q2 and Q3 are empty."""
    columns = {"prompt_tokens": [4, 3, 2, 1], "strength": [0.0, 9.0, 0.0, 0.0]}
    records = records_of(make_cell(np.zeros(4), np.zeros(4), columns, lengths=[[9, 9, 9, 9], [12, 11, 10, 8]]))
    counts = {
        name: {value: record["n"] for value, record in by_value(records, name).items()}
        for name in ("length_difference", "prompt_tokens", "strength")
    }
    assert counts == {
        "length_difference": {"-3": 1, "-2": 1, "-1": 1, "1": 1},
        "prompt_tokens": {"1": 1, "2": 1, "3": 1, "4": 1},
        "strength": {"0": 3, "9": 1},
    }


def test_strength_that_only_some_pairs_have():
    assert sizes({"strength": [1.0, None, 3.0]}) == {"1": 1, "3": 1, "(none)": 1}


# their numbers


def test_a_slice_by_hand():
    """Tea: margins 1, 2, 3, -1 become -1, 2, 5, 0: changes -2, 0, 2, 1; accuracy 3/4 becomes (0 + 1 + 1 + 1/2) / 4.

    Pots: 1, -1 become 2, 2. The difference of the mean changes is 1/4 - 2.
    """
    topics = {"slice_topic": ["tea"] * 4 + ["pots"] * 2}
    found = by_value(records_of(make_cell([1, 2, 3, -1, 1, -1], [-1, 2, 5, 0, 2, 2], topics)), "slice_topic")
    tea, pots = found["tea"], found["pots"]
    assert (tea["n"], tea["n_prompts"]) == (4, 4)
    assert (tea["margin_before"], tea["margin_after"], tea["margin_change"]["value"]) == (1.25, 1.5, 0.25)
    assert (tea["accuracy_before"], tea["accuracy_after"], tea["accuracy_change"]["value"]) == (0.75, 0.625, -0.125)
    assert (tea["lost"], tea["regained"]) == (1, 0)  # the tie is neither
    assert (pots["lost"], pots["regained"]) == (0, 1)
    assert tea["difference_from_rest"]["value"] == -1.75
    assert pots["difference_from_rest"]["value"] == 1.75


def random_cell(n=80, rows=slice(None), sign=1.0, shift=0.0, scale=1.0):
    """Up to 25 prompts, some of them within a slice and some in several."""
    generator = np.random.default_rng(0)
    prompts = generator.integers(0, 25, n)
    topics = np.where(generator.random(n) < 0.6, prompts % 4, generator.integers(0, 4, n))
    lengths = generator.integers(1, 30, (2, n))
    before = generator.normal(0.5, 1, n) + generator.normal(size=25)[prompts]
    after = before + generator.normal(size=n) + generator.normal(size=25)[prompts] * (topics == 2)
    taught = before + 1 + generator.normal(size=n)
    columns = {"slice_topic": [f"topic {i}" for i in topics[rows]], "slice_half": np.arange(n)[rows] % 2 == 0}
    margins = [sign * scale * margin[rows] for margin in (before, after + shift, taught)]
    return make_cell(*margins[:2], columns, prompts[rows], margins[2], lengths[:, rows])


def members(cell, record):
    """The pairs of a slice of text, found the slow way."""
    column = cell.panel.metadata[record["column"]].to_pylist()
    return np.array([str(value).lower() == record["value"] for value in column])


def test_every_estimate_is_that_of_the_slice_s_own_pairs():
    cell = random_cell()
    clusters = cell.panel.clusters
    change, accuracy = cell.after.margin - cell.before.margin, cell.after.accuracy - cell.before.accuracy
    for record in records_of(cell, 0.9):
        if record["column"].startswith("slice_"):
            rows = members(cell, record)
            after, taught = cell.after.margin[rows], cell.when_taught.margin[rows]
            expected = {
                "margin_change": mean(change[rows], clusters[rows]),
                "accuracy_change": mean(accuracy[rows], clusters[rows]),
                "retention": ratio(after, taught, clusters[rows]),
                "difference_from_rest": difference(change, rows, ~rows, clusters),
            }
            if mean(taught, clusters[rows]).interval(0.9)[0] <= 0:
                assert record["retention"] is None
                del expected["retention"]
            for name, estimate in expected.items():
                found = {key: record[name][key] for key in ("value", "low", "high", "confidence", "n", "n_prompts")}
                assert found == pytest.approx(to_json(estimate.record(0.9))), name
            assert record["difference_from_rest"]["p"] == pytest.approx(two_sided(expected["difference_from_rest"]))


def test_difference_from_the_rest_equals_least_squares():
    """statsmodels without its small-sample factor, times G/(G-1) of the side with fewer prompts."""
    cell = random_cell()
    change = cell.after.margin - cell.before.margin
    for record in by_value(records_of(cell), "slice_topic").values():
        rows = members(cell, record)
        fit = sm.OLS(change, sm.add_constant(rows.astype(float))).fit(
            cov_type="cluster", cov_kwds={"groups": cell.panel.clusters, "use_correction": False}
        )
        fewest = min(len(np.unique(cell.panel.clusters[side])) for side in (rows, ~rows))
        found = record["difference_from_rest"]
        half = fit.bse[1] * math.sqrt(fewest / (fewest - 1)) * stats.t.ppf(0.975, fewest - 1)
        assert found["value"] == pytest.approx(fit.params[1])
        assert found["high"] - found["low"] == pytest.approx(2 * half)
        assert (found["n"], found["n_prompts"]) == (len(change), fewest)


def test_retention_needs_a_margin_that_was_learned():
    """Tea learned 3 and 5 (mean 4, t = 4 at 1 df: the 95% interval holds 0, the 80% one does not); pots lost."""
    cell = make_cell([1, 1, 1, 1], [2, 4, 1, 1], {"slice_topic": ["tea", "tea", "pots", "pots"]}, taught=[3, 5, -3, -5])
    assert by_value(records_of(cell, 0.95), "slice_topic")["tea"]["retention"] is None
    found = by_value(records_of(cell, 0.8), "slice_topic")
    assert found["tea"]["retention"]["value"] == 0.75  # 3 of 4
    assert found["pots"]["retention"] is None


def test_undefined_pair_leaves_its_slices_and_all_comparisons_undefined():
    topics = {"slice_topic": ["tea"] * 6 + ["pots"] * 6}
    after = np.arange(12.0)
    after[0] = math.nan
    found = by_value(records_of(make_cell(np.ones(12), after, topics)), "slice_topic")
    tea, pots = found["tea"], found["pots"]
    assert (tea["n"], tea["margin_before"]) == (6, 1)
    assert tea["margin_after"] is tea["margin_change"]["value"] is tea["accuracy_after"] is tea["lost"] is None
    assert (pots["margin_after"], pots["lost"]) == (8.5, 0)
    for record in found.values():
        assert record["difference_from_rest"]["value"] is record["difference_from_rest"]["p"] is record["q"] is None


def test_the_most_lost_come_first_and_the_undefined_last():
    topics = {"slice_topic": list("aabbccdd")}
    records = records_of(make_cell(np.zeros(8), [1, 1, -3, -3, 0, math.nan, -1, -1], topics))
    assert [record["value"] for record in records] == ["b", "d", "a", "c"]


# tests


def test_few_prompts_make_no_test_and_take_no_part_in_the_adjustment():
    """Rare is 8 pairs of 4 prompts, for `slice_rare` and the rest of it; the other column has 20 prompts a side."""
    generator = np.random.default_rng(1)
    n = 48
    prompts = np.concatenate([np.arange(40), np.repeat(np.arange(40, 44), 2)])
    columns = {
        "slice_rare": ["common"] * 40 + ["rare"] * 8,
        "slice_topic": ["tea", "pots", "cups", "pans"] * 12,
    }
    records = records_of(make_cell(np.zeros(n), generator.normal(size=n), columns, prompts))
    rare = by_value(records, "slice_rare")
    assert (rare["rare"]["n"], rare["rare"]["n_prompts"]) == (8, 4)
    assert [(one["difference_from_rest"]["p"], one["q"]) for one in rare.values()] == [(None, None)] * 2
    assert rare["rare"]["difference_from_rest"]["low"] is not None
    tested = list(by_value(records, "slice_topic").values())
    # Benjamini and Hochberg by hand: the i-th smallest of four times 4 / i, never above the one after
    tested.sort(key=lambda record: record["difference_from_rest"]["p"])
    p = [record["difference_from_rest"]["p"] * 4 / (i + 1) for i, record in enumerate(tested)]
    assert [record["q"] for record in tested] == pytest.approx([min(p[i:]) for i in range(4)])


def test_all_columns_share_one_adjustment():
    records = records_of(random_cell())
    p, q = [record["difference_from_rest"]["p"] for record in records], [record["q"] for record in records]
    assert len({record["column"] for record in records}) == 3
    assert q == pytest.approx(stats.false_discovery_control(p).tolist())


def test_a_slice_that_lost_is_found_and_the_others_are_not_lost_with_it():
    """One topic of ten falls by 1 where the changes have an SD of 1: 100 prompts make z about 9.

    Beside a rest that holds that topic the others stand 1/9 higher, and some of them may show it.
    """
    generator = np.random.default_rng(2)
    topics = np.arange(1000) % 10
    after = generator.normal(size=1000) - (topics == 3)
    first, *others = records_of(make_cell(np.zeros(1000), after, {"slice_topic": [f"t{i}" for i in topics]}))
    assert (first["value"], first["difference_from_rest"]["value"]) == ("t3", pytest.approx(-1, abs=0.4))
    assert first["q"] < 1e-6
    assert all(record["q"] > 0.05 or record["difference_from_rest"]["value"] > 0 for record in others)


def test_a_slice_that_control_stages_move_as_far_is_none():
    """Tea falls 2 beside the rest, far beyond the noise of its pairs; in the controls it falls 1, rises 1 and falls 2.

    Differences in the controls -1, 1, -2: mean -2/3, SD sqrt(7/3); the real one is 4/3 below, t = -.756 at 2 df,
    p = .529. Without a second control stage there is no q at all.
    """
    topics = {"slice_topic": ["tea", "pots"] * 50}
    noise = 0.01 * np.tile([1.0, 1.0, -1.0, -1.0], 25)

    def fell(by):
        return noise - by * np.tile([1.0, 0.0], 50)

    def found(controls):
        cell = make_cell(np.zeros(100), fell(2), topics, controls=controls)
        return by_value(records_of(cell), "slice_topic")["tea"]

    tea = found([fell(1), fell(-1), fell(2)])
    beyond = tea["difference_from_rest"]["beyond_controls"]
    assert tea["difference_from_rest"]["p"] < 1e-50
    assert (beyond["excess"], beyond["n_controls"]) == (pytest.approx(-4 / 3), 3)
    assert (tea["q"], beyond["p"]) == pytest.approx((0.5286, 0.5286), abs=1e-4)
    assert found([fell(1)])["q"] is found([])["q"] is None


def test_small_slices_are_not_called_lost_more_often_than_they_should():
    """Slices of five prompts in 2,000 without any change: p below 0.001 in about 1 in 1,000 of them.

    Of 4,000 slices more than 13 have a chance of 0.01% (binomial at 0.001). With the degrees of freedom of all prompts
    in place of the slice's there would be about 120: t at 4 df is beyond 3.29 with a chance of 3%.
    """
    generator = np.random.default_rng(3)
    few = 0
    for _ in range(400):
        codes = np.concatenate([np.repeat(np.arange(10), 5), np.full(1950, 10)])
        names = {"slice_topic": pa.array([f"t{i:02}" for i in range(11)]).take(pa.array(codes))}
        records = records_of(make_cell(np.zeros(2000), generator.normal(size=2000), names))
        few += sum(record["difference_from_rest"]["p"] < 0.001 for record in records if record["n"] == 5)
    assert few <= 13


# properties


def test_the_order_of_the_rows_does_not_matter():
    rows = np.random.default_rng(4).permutation(80)
    for one, other in zip(records_of(random_cell()), records_of(random_cell(rows=rows)), strict=True):
        one["difference_from_rest"].pop("beyond_controls"), other["difference_from_rest"].pop("beyond_controls")
        for key, value in one.items():
            assert other[key] == (value if isinstance(value, str) else pytest.approx(value)), key


def test_shift_scale_and_swap_of_the_labels():
    plain = {(r["column"], r["value"]): r for r in records_of(random_cell())}
    shifted, scaled, swapped = (
        {(r["column"], r["value"]): r for r in records_of(random_cell(**how))}
        for how in ({"shift": 0.7}, {"scale": 5.0}, {"sign": -1.0})
    )
    for name, record in plain.items():
        change, rest = record["margin_change"]["value"], record["difference_from_rest"]["value"]
        assert shifted[name]["margin_change"]["value"] == pytest.approx(change + 0.7)
        assert shifted[name]["difference_from_rest"]["value"] == pytest.approx(rest)
        assert scaled[name]["margin_change"]["value"] == pytest.approx(5 * change)
        assert [other[name]["q"] for other in (shifted, scaled, swapped)] == pytest.approx([record["q"]] * 3)
        assert swapped[name]["margin_change"]["value"] == pytest.approx(-change)
        assert (swapped[name]["lost"], swapped[name]["regained"]) == (record["regained"], record["lost"])


def test_slices_of_a_column_add_up_to_all_pairs():
    cell = random_cell()
    records = records_of(cell)
    for column in ("slice_topic", "slice_half", "length_difference"):
        of_column = by_value(records, column).values()
        assert sum(record["n"] for record in of_column) == 80
        total = sum(record["n"] * record["margin_change"]["value"] for record in of_column)
        assert total == pytest.approx(float(np.sum(cell.after.margin - cell.before.margin)))


def test_no_metadata_and_no_pairs():
    assert records_of(make_cell(np.zeros(3), np.ones(3), {})) == []
    assert records_of(make_cell(np.zeros(0), np.zeros(0), {"slice_topic": pa.array([], pa.string())})) == []
