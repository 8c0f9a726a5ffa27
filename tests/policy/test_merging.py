"""Merges of adapters: each rule by hand or entry by entry, on delta W, and what a rank cuts off."""

import pytest
import torch
from peft import PeftModel
from test_between import checkpoints, delta_w  # noqa: F401 - a fixture

from seqdpo.policy.merging import dare, linear, save_merged, ties

GENERATOR = torch.Generator()


def test_ties_by_hand():
    """Half of four entries are kept. The first adapter keeps 4 and -3, the second -6 and 2: of the first entry the sum
    is -2, so -6 stands alone; -3 and 2 meet nobody."""
    deltas = torch.tensor([[[4.0, -3.0, 1.0, 0.0]], [[-6.0, 1.0, 2.0, 1.0]]])
    assert ties(deltas, 0.5, GENERATOR).tolist() == [[-6.0, -3.0, 2.0, 0.0]]
    assert linear(deltas, 0.5, GENERATOR).tolist() == [[-1.0, -1.0, 1.5, 0.5]]


def test_ties_entry_by_entry():
    """The slow way: sort, trim, elect, average, one number after another."""
    deltas = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = ties(deltas, 0.3, GENERATOR)
    kept = [set(sorted(range(20), key=lambda i: -abs(one.flatten()[i]))[:6]) for one in deltas]
    for i in range(20):
        values = [one.flatten()[i].item() for one, of in zip(deltas, kept, strict=True) if i in of]
        side = [v for v in values if v * sum(values) > 0]
        assert found.flatten()[i].item() == pytest.approx(sum(side) / max(len(side), 1), rel=1e-5)


def test_dare_keeps_the_mean_over_its_draws():
    deltas = torch.tensor([[[4.0, -3.0]], [[-6.0, 1.0]]])
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([dare(deltas, 0.5, generator) for _ in range(4000)])
    # each draw is (2a or 0) + (2b or 0) over 2; the SD of the mean of 4000 is at most 5 / sqrt(4000)
    assert draws.mean(dim=0)[0].tolist() == pytest.approx([-1.0, -1.0], abs=0.3)
    assert set(draws[:, 0, 0].tolist()) == {0.0, 4.0, -6.0, -2.0}


def test_a_linear_merge_is_exact_along_the_rank(checkpoints, tmp_path):  # noqa: F811
    lost = save_merged(checkpoints, "linear", 0.5, None, 0, tmp_path / "merged")
    first, second, found = map(delta_w, (*checkpoints, tmp_path / "merged"))
    for name, value in found.items():
        expected = (first[name] + second[name]) / 2
        assert (value - expected).norm() <= 1e-5 * expected.norm()
    assert lost == pytest.approx(0, abs=1e-9)


def test_pefts_linear_merge_of_factors_is_another_one_and_its_cat_is_this(
    checkpoints,  # noqa: F811
    tiny_model,
    tmp_path,
):
    save_merged(checkpoints, "linear", 0.5, None, 0, tmp_path / "merged")
    found = delta_w(tmp_path / "merged")
    policy = PeftModel.from_pretrained(tiny_model, str(checkpoints[0]), adapter_name="one")
    try:
        policy.load_adapter(str(checkpoints[1]), adapter_name="other")
        policy.add_weighted_adapter(["one", "other"], [0.5, 0.5], "cat", combination_type="cat")
        name, layer = next((n, m) for n, m in policy.named_modules() if hasattr(m, "get_delta_weight"))
        of_cat = layer.get_delta_weight("cat").double()
        key = next(key for key in found if name.removeprefix("base_model.model.") in key)
        assert (of_cat - found[key]).norm() <= 1e-5 * of_cat.norm()
    finally:
        policy.unload()


@pytest.mark.parametrize("kind", ["linear", "ties", "dare"])
def test_a_smaller_rank_is_the_best_approximation_and_its_loss_is_measured(
    kind,
    checkpoints,  # noqa: F811
    tmp_path,
):
    """By Eckart and Young: what is cut off are the smallest singular values of the whole."""
    save_merged(checkpoints, kind, 0.5, 64, 7, tmp_path / "whole")  # every module has rank 64 at most
    lost = save_merged(checkpoints, kind, 0.5, 2, 7, tmp_path / "cut")
    whole, cut = delta_w(tmp_path / "whole"), delta_w(tmp_path / "cut")
    squares = sum(of.norm() ** 2 for of in whole.values())
    apart = sum((whole[name] - cut[name]).norm() ** 2 for name in whole)
    smallest = sum(torch.linalg.svdvals(of)[2:].square().sum() for of in whole.values())
    assert lost == pytest.approx((apart / squares).item(), rel=1e-3)
    assert lost == pytest.approx((smallest / squares).item(), rel=1e-3)
    assert lost > 0.1
