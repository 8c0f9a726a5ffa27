"""The accelerators' attention, looked at on a CPU: its block masks, and its numbers beside those of the segments.

Without an accelerator FlexAttention is not compiled; the mask, the cap and the layout are the same.
"""

import numpy as np
import pytest
import torch
from test_logps import VOCABULARY, mixed_pairs

from seqdpo.policy.blocks import BUCKET, BlockAttention
from seqdpo.policy.packing import PackedTrees, packed_trees
from seqdpo.policy.segments import SegmentAttention

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")

CPU = torch.device("cpu")


def dense_mask(batch: PackedTrees, window: int | None) -> np.ndarray:
    """Who sees whom, token by token from the definition: the same tree, no later, not in another response."""
    n = batch.input_ids.shape[1]
    sees = np.zeros((n, n), dtype=bool)
    for tree in batch.trees:
        prompt = list(range(tree.start, tree.ends[0]))
        for start, end in zip(tree.ends, tree.ends[1:], strict=False):
            sequence = [*prompt, *range(start, end)]
            for later, query in enumerate(sequence):
                first = 0 if window is None else max(0, later - window + 1)
                sees[query, sequence[first : later + 1]] = True
    for query in range(batch.trees[-1].end, n):  # padding sees padding, so that no row is empty
        sees[query, batch.trees[-1].end : query + 1] = window is None
    return sees


@pytest.mark.parametrize("window", [None, 1, 7, 30])
@pytest.mark.parametrize("seed", range(3))
def test_block_masks_equal_the_dense_mask(seed, window, random_pairs):
    pairs = mixed_pairs(random_pairs, seed)
    batch = packed_trees(pairs, CPU, BUCKET)
    n = batch.input_ids.shape[1]
    assert n % BUCKET == 0
    mask = BlockAttention(batch).mask(window)
    place = torch.arange(n)
    found = mask.mask_mod(torch.tensor(0), torch.tensor(0), place[:, None], place[None])
    real = batch.trees[-1].end
    np.testing.assert_array_equal(found[:real].numpy(), dense_mask(batch, window)[:real])
    assert found.any(dim=1).all()  # a row that sees nothing would be NaN
    # a block is left out exactly if nobody in it sees anybody
    blocks = found.view(n // 128, 128, n // 128, 128).any(dim=3).any(dim=1)
    assert torch.equal(mask.to_dense()[0, 0].bool(), blocks)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_blocks_give_the_numbers_of_the_segments(softcap, window, n_kv_heads, random_pairs):
    batch = packed_trees(random_pairs(6, 1, (1, 60), (1, 60), VOCABULARY), CPU, BUCKET)
    n, real = batch.input_ids.shape[1], batch.trees[-1].end
    torch.manual_seed(0)
    query = torch.randn(1, 4, n, 16)
    key, value = torch.randn(2, 1, n_kv_heads, n, 16).unbind()
    given = (0.3, softcap, window)
    found = BlockAttention(batch).attend(query, key, value, *given)
    cut = [tensor[:, :, :real] for tensor in (query, key, value)]
    torch.testing.assert_close(found[:, :real], SegmentAttention(batch).attend(*cut, *given))


def test_padding_after_the_trees_changes_no_tree(random_pairs):
    pairs = random_pairs(3, 0)
    plain, filled = packed_trees(pairs, CPU), packed_trees(pairs, CPU, 64)
    n = plain.input_ids.shape[1]
    assert filled.input_ids.shape[1] % 64 == 0
    assert torch.equal(filled.input_ids[:, :n], plain.input_ids)
    assert filled.trees == plain.trees
    assert torch.equal(filled.predictors, plain.predictors)
