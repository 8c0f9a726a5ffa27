"""The base's log-probabilities in the cache: what is read, what is kept, and what is believed."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from seqdpo.measure.scores import pair_logps
from seqdpo.preferences.pairs import Message, Pair
from seqdpo.preferences.prepare import PreparedPair
from seqdpo.runner.base_logps import BaseLogps


def objective(pairs, name):
    return [PreparedPair(Pair((Message("user", f"{name} {i}"),), "yes", "no"), one) for i, one in enumerate(pairs)]


@pytest.fixture
def objectives(random_pairs):
    """`better` and `safer` label the same five pairs, two of them the other way round; `apart` has others."""
    pairs = random_pairs(5, seed=1)
    swapped = [one._replace(chosen=one.rejected, rejected=one.chosen) for one in pairs[:2]]
    return {
        "better": objective(pairs, "same"),
        "apart": objective(random_pairs(3, seed=2), "other"),
        "safer": objective([*swapped, *pairs[2:]], "same"),
    }


@pytest.fixture
def base(tiny_model, tmp_path):
    return BaseLogps(tiny_model, "the model", "padded", 100, folder=tmp_path / "cache")


def of(base, objectives):
    """What it gives, and how many pairs had to be scored."""
    heard: list[int] = []
    return base.of(objectives, heard.append), sum(heard)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, logps in expected.items():
        np.testing.assert_array_equal(found[name], logps)


def test_objectives_of_the_same_pairs_are_read_and_kept_as_one(base, objectives, tiny_model):
    found, n_scored = of(base, objectives)
    assert n_scored == 13
    assert sorted(pq.read_metadata(path).num_rows for path in base.folder.iterdir()) == [3, 10]
    for name, pairs in objectives.items():
        alone = pair_logps(tiny_model, [one.tokens for one in pairs], 100)
        np.testing.assert_allclose(found[name], alone, rtol=1e-5)  # float32 sums in another order
    np.testing.assert_array_equal(found["better"].chosen[2:], found["safer"].chosen[2:])
    np.testing.assert_array_equal(found["better"].chosen[:2], found["safer"].rejected[:2])
    again, n_scored = of(base, objectives)
    assert n_scored == 0
    assert_same(again, found)


def test_an_objective_that_shares_nothing_is_kept_whatever_is_beside_it(base, objectives):
    whole, _ = of(base, objectives)
    alone, n_scored = of(base, {"renamed": objectives["apart"]})
    assert n_scored == 0
    np.testing.assert_array_equal(alone["renamed"], whole["apart"])


def test_other_pairs_beside_an_objective_are_another_entry(base, objectives):
    """The batches are others, and with them the last bits: as nothing of it had been scored before."""
    of(base, objectives)
    less = {"better": objectives["better"], "safer": objectives["safer"][:4]}
    found, n_scored = of(base, less)
    assert n_scored == 9
    fresh = BaseLogps(base.model, "the model", "padded", 100, folder=base.folder / "fresh")
    assert_same(found, of(fresh, less)[0])


@pytest.mark.parametrize("harm", ["other numbers", "pairs left out", "no table"])
def test_an_entry_that_is_not_what_was_written_is_set_aside(harm, base, objectives):
    said: list[str] = []
    base.say = said.append
    found, _ = of(base, objectives)
    (path,) = [path for path in base.folder.iterdir() if pq.read_metadata(path).num_rows == 10]
    table = pq.read_table(path)
    if harm == "other numbers":
        table = table.set_column(0, "chosen", [table["chosen"].to_numpy() + 1e-9])
        table = table.replace_schema_metadata(pq.read_schema(path).metadata)
    pq.write_table(table.slice(0, 9) if harm == "pairs left out" else table, path)
    if harm == "no table":
        path.write_bytes(b"nothing")
    again, n_scored = of(base, objectives)
    assert n_scored == 10
    assert len(said) == 1 and "set aside and computed again" in said[0]
    assert_same(again, found)
