"""Movement from factors against the materialised delta W, under a change of gauge, and its random values."""

import math

import numpy as np
import pytest

from seqdpo.errors import DataError
from seqdpo.measure.movement import (
    ALL,
    Factors,
    adapter_factors,
    directions,
    inner,
    movement_table,
    update_factors,
    weight_norms,
)
from seqdpo.policy.adapters import save_adapter, trainable_policy

RNG = np.random.default_rng(0)


def factors(d_out=12, d_in=7, rank=3, size=1.0):
    return Factors(size * RNG.normal(size=(d_out, rank)), RNG.normal(size=(rank, d_in)))


def whole(f):
    return f.b @ f.a


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_update_is_the_difference_of_the_delta_ws(rank):
    previous, new = factors(), factors(rank=rank)
    np.testing.assert_allclose(whole(update_factors(previous, new)), whole(new) - whole(previous), atol=1e-12)
    assert update_factors(None, new) is new


def test_a_tiny_update_keeps_its_digits():
    """Moved by 1e-9 of itself: exact from the factors, where the difference of squared norms has no digit left."""
    previous = factors()
    step = factors(size=1e-9)
    new = Factors(previous.b + step.b, previous.a)
    assert directions(update_factors(previous, new)).norm == pytest.approx(
        np.linalg.norm((new.b - previous.b) @ previous.a), rel=1e-6
    )


def test_singular_vectors_are_those_of_the_delta_w():
    f = factors()
    found = directions(f)
    np.testing.assert_allclose(found.values, np.linalg.svd(whole(f), compute_uv=False)[:3])
    np.testing.assert_allclose(found.left * found.values @ found.right.T, whole(f), atol=1e-12)
    assert directions(Factors(f.b[:, [0, 0, 0]], f.a)).values.shape == (1,)  # of rank one
    assert directions(Factors(0 * f.b, f.a)).norm == 0


def test_inner_product_is_that_of_the_delta_ws():
    first, second = factors(), factors(rank=5)
    assert inner(first, second) == pytest.approx(np.sum(whole(first) * whole(second)))


@pytest.fixture
def checkpoints(tiny_model, make_study, tmp_path):
    """Adapters after two stages, by adapter mode; every stage adds noise to its factors."""

    def make(mode):
        study = make_study(adapter_mode=mode)
        folders: list = []
        for stage in (1, 2):
            parent = folders[-1] if folders else None
            with trainable_policy(tiny_model, study, parent, seed=stage) as policy:
                for i, parameter in enumerate(p for p in policy.parameters() if p.requires_grad):
                    noise = np.random.default_rng([stage, i]).normal(0, 0.05, parameter.shape)
                    parameter.data += parameter.data.new_tensor(noise)
                folders.append(tmp_path / f"{mode}{stage}")
                save_adapter(policy, study, parent, folders[-1])
        return folders

    return make


@pytest.mark.parametrize("mode", ["continue", "new_on_merged", "stack"])
def test_every_row_equals_the_materialised_delta_w(checkpoints, tiny_model, mode):
    first, second = checkpoints(mode)
    norms = weight_norms(tiny_model)
    rows = {row["module"]: row for row in movement_table(first, second, norms).to_pylist()}
    old, new = ({name: whole(f) for name, f in adapter_factors(folder).items()} for folder in (first, second))
    updates = {name: new[name] - old[name] for name in new}
    assert set(rows) == {*new, ALL}
    total = sum(np.sum(u**2) for u in updates.values())
    for name, update in updates.items():
        row, w = rows[name], old[name]
        cosine = np.sum(update * w) / np.linalg.norm(update) / np.linalg.norm(w)
        values = np.linalg.svd(update, compute_uv=False)
        expected = {
            "update_norm": np.linalg.norm(update),
            "previous_norm": np.linalg.norm(w),
            "new_norm": np.linalg.norm(new[name]),
            "weight_norm": float(tiny_model.get_submodule(name).weight.norm()),
            "share_of_update": np.sum(update**2) / total,
            "cosine": cosine,
            "perpendicular_norm": np.linalg.norm(update - cosine * np.linalg.norm(update) * w / np.linalg.norm(w)),
            "stable_rank": np.sum(values**2) / values[0] ** 2,
        }
        for key, value in expected.items():
            assert row[key] == pytest.approx(value, rel=1e-6), (name, key)
    flat = [np.concatenate([part[name].ravel() for name in new]) for part in (updates, old)]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert rows[ALL]["cosine"] == pytest.approx(cosine, rel=1e-6)
    assert rows[ALL]["update_norm"] == pytest.approx(math.sqrt(total))
    if mode != "continue":  # only the new ranks moved
        assert {row["rank"] for row in rows.values() if row["rank"]} == {4}


def write(folder, factors_, rank, **config):
    import json

    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": rank, "bias": "none"} | config))
    prefix = "base_model.model.layers.0.q_proj.lora_"
    tensors = {"A": factors_.a, "B": factors_.b}
    save_file(
        {f"{prefix}{name}.weight": torch.tensor(value) for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


def test_turning_the_factors_turns_nothing(tmp_path):
    previous, new = factors(), factors()
    turn = [RNG.normal(size=(3, 3)) for _ in range(2)]
    turned = [Factors(f.b @ g, np.linalg.solve(g, f.a)) for f, g in zip((previous, new), turn, strict=True)]
    one = movement_table(write(tmp_path / "a", previous, 3), write(tmp_path / "b", new, 3), {})
    other = movement_table(write(tmp_path / "c", turned[0], 3), write(tmp_path / "d", turned[1], 3), {})
    for column in one.column_names:
        for first, second in zip(one[column].to_pylist(), other[column].to_pylist(), strict=True):
            assert first == (pytest.approx(second, rel=1e-6) if isinstance(second, float) else second)


def test_planted_directions(tmp_path):
    """An update of half the adapter itself: cosine 1, the outputs' overlap 1, nothing perpendicular.

    Only B changed, so the update's inputs are A's by algebra and tell nothing.
    """
    previous = factors()
    grown = Factors(1.5 * previous.b, previous.a)
    row = movement_table(write(tmp_path / "a", previous, 3), write(tmp_path / "b", grown, 3), {}).to_pylist()[0]
    assert row["cosine"] == pytest.approx(1)
    assert row["update_norm"] == pytest.approx(0.5 * row["previous_norm"])
    assert row["perpendicular_norm"] == pytest.approx(0, abs=1e-6)
    assert (row["left_overlap"], row["left_largest_cosine"]) == (pytest.approx(1), pytest.approx(1))
    assert (row["right_overlap"], row["right_largest_cosine"], row["right_energy_overlap_null"]) == (None, None, None)
    shares = directions(previous).values ** 2 / directions(previous).norm ** 2  # of the same directions on both sides
    assert row["right_energy_overlap"] == pytest.approx(np.sum(shares**2))


def test_what_is_one_by_algebra_is_no_overlap(tmp_path):
    """Trained on with random changes of A and B, the update's spaces hold both of the previous adapter's, though the
    changes have nothing to do with it: an overlap of exactly 1 on both sides, which is left out."""
    previous, change = factors(40, 30), factors(40, 30, size=0.1)
    new = Factors(previous.b + change.b, previous.a + 0.1 * change.a)
    update, before = directions(update_factors(previous, new)), directions(previous)
    for one, other in ((update.left, before.left), (update.right, before.right)):
        assert np.sum((one.T @ other) ** 2) / 3 == pytest.approx(1)
    row = movement_table(write(tmp_path / "a", previous, 3), write(tmp_path / "b", new, 3), {}).to_pylist()[0]
    assert (row["left_overlap"], row["right_overlap"], row["left_largest_cosine"]) == (None, None, None)
    added = Factors(np.hstack([previous.b, change.b]), np.vstack([previous.a, change.a]))
    row = movement_table(write(tmp_path / "c", previous, 3), write(tmp_path / "d", added, 6), {}).to_pylist()[0]
    assert 0 < row["left_overlap"] < 1  # factors of its own


def test_a_stage_that_moved_nothing_and_a_first_stage_have_null_where_undefined(tmp_path):
    folder = write(tmp_path / "a", factors(), 3)
    still, first = movement_table(folder, folder, {}).to_pylist()[0], movement_table(None, folder, {}).to_pylist()[0]
    assert (still["update_norm"], still["cosine"], still["left_overlap"], still["share_of_update"]) == (
        0, None, None, None,
    )  # fmt: skip
    assert first["previous_norm"] is None
    assert first["cosine"] is None
    assert first["update_norm"] == first["new_norm"]


def test_random_updates_read_their_null(tmp_path):
    """300 random pairs of 40 x 30, rank 3: each mean lies within four standard errors of the stated null."""
    rows = []
    for i in range(300):
        folders = [write(tmp_path / f"{i}{name}", factors(40, 30), 3) for name in "ab"]
        new = adapter_factors(folders[1])["layers.0.q_proj"]
        old = adapter_factors(folders[0])["layers.0.q_proj"]
        added = Factors(np.hstack([old.b, new.b]), np.vstack([old.a, new.a]))  # the update is random, as new
        rows.append(movement_table(folders[0], write(tmp_path / f"{i}c", added, 6), {}).to_pylist()[0])
    for name in ("left_overlap", "right_overlap", "left_energy_overlap", "right_energy_overlap"):
        values = np.array([row[name] for row in rows])
        assert values.mean() == pytest.approx(rows[0][f"{name}_null"], abs=4 * values.std() / math.sqrt(300))


def test_largest_cosine_of_random_directions_is_near_its_edge(tmp_path):
    old, new = factors(400, 300, rank=20), factors(400, 300, rank=20)
    added = Factors(np.hstack([old.b, new.b]), np.vstack([old.a, new.a]))
    table = movement_table(write(tmp_path / "a", old, 20), write(tmp_path / "b", added, 40), {})
    row = table.to_pylist()[0]
    for side in ("left", "right"):  # the largest of few falls short of the edge by some percent at this size
        assert row[f"{side}_largest_cosine"] == pytest.approx(row[f"{side}_largest_cosine_null"], rel=0.15)


@pytest.mark.parametrize(("key", "value"), [("use_dora", True), ("bias", "all"), ("modules_to_save", ["lm_head"])])
def test_adapters_that_are_no_product_are_refused(tmp_path, key, value):
    with pytest.raises(DataError, match=f"{key} = "):
        adapter_factors(write(tmp_path / "a", factors(), 3, **{key: value}))
