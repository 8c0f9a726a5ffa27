"""The layout of FlashAttention's sequences, on a CPU: the kernel is replaced by what its page says it does."""

import pytest
import torch
from test_logps import VOCABULARY
from torch import Tensor

from seqdpo.policy.attention import back_ends_for
from seqdpo.policy.packing import packed_trees
from seqdpo.policy.segments import SegmentAttention
from seqdpo.policy.sequences import SequenceAttention

CPU = torch.device("cpu")


def documented(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """torch.nn.attention.varlen.varlen_attn, one sequence after another: queries are the last of their keys.

    Each sees `window_size[0]` keys before itself (-1: all) and `window_size[1]` after.
    """
    assert query_ends.dtype == key_ends.dtype == torch.int32
    assert longest_query == query_ends.diff().max() and longest_key == key_ends.diff().max()
    left, right = window_size
    assert right == 0 and enable_gqa == (query.shape[1] != key.shape[1])
    groups = query.shape[1] // key.shape[1]
    parts = []
    for i in range(len(query_ends) - 1):
        q = query[query_ends[i] : query_ends[i + 1]]
        k, v = (t[key_ends[i] : key_ends[i + 1]].repeat_interleave(groups, dim=1) for t in (key, value))
        distance = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
        hidden = (distance < 0) if left < 0 else (distance < 0) | (distance > left)
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        parts.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(2), v))
    return torch.cat(parts)


@pytest.mark.parametrize("multiple", [1, 64])
@pytest.mark.parametrize("window", [None, 1, 9])
@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_sequences_give_the_numbers_of_the_segments(multiple, window, n_kv_heads, random_pairs, monkeypatch):
    monkeypatch.setattr("seqdpo.policy.sequences.varlen_attn", documented)
    pairs = random_pairs(6, 1, (1, 60), (1, 60), VOCABULARY)
    batch = packed_trees(pairs, CPU, multiple)
    n, real = batch.input_ids.shape[1], batch.trees[-1].end
    torch.manual_seed(0)
    query = torch.randn(1, 4, n, 16)
    key, value = torch.randn(2, 1, n_kv_heads, n, 16).unbind()
    found = SequenceAttention(batch).attend(query, key, value, 0.3, None, window)
    assert found.shape == (1, n, 4, 16)
    cut = [tensor[:, :, :real] for tensor in (query, key, value)]
    torch.testing.assert_close(found[:, :real], SegmentAttention(batch).attend(*cut, 0.3, None, window))


def test_a_soft_cap_is_refused(random_pairs):
    batch = packed_trees(random_pairs(2, 0), CPU)
    heads = torch.zeros(1, 4, batch.input_ids.shape[1], 16)
    with pytest.raises(NotImplementedError, match="soft cap"):
        SequenceAttention(batch).attend(heads, heads, heads, 1.0, 50.0, None)


def test_sequences_come_before_blocks_where_the_kernel_takes_the_dtype():
    cuda = torch.device("cuda")
    assert back_ends_for(cuda, torch.bfloat16) == ["sequences", "blocks"]
    assert back_ends_for(cuda, torch.float32) == ["blocks"]
    assert back_ends_for(CPU, torch.bfloat16) == ["segments"]
