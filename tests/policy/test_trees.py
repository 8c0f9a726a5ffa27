"""Trees of more than two responses: what is read of pairs, laid out as by hand, and the numbers of a pass each."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from test_blocks import dense_mask
from test_logps import FAMILIES, TOLERANCE, VOCABULARY, random_model
from test_packing import packed, with_lora
from test_sequences import documented

from seqdpo.policy.batches import batch_indices, for_each_batch, memory
from seqdpo.policy.blocks import BUCKET, BlockAttention
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.logps import tree_logps
from seqdpo.policy.packing import Tree, packed_trees
from seqdpo.policy.ranks import shares
from seqdpo.policy.segments import SegmentAttention
from seqdpo.policy.sequences import SequenceAttention
from seqdpo.policy.singles import single_logps
from seqdpo.policy.trees import PromptTree, distinct_trees, joined
from seqdpo.preferences.tokens import PairTokens

CPU = torch.device("cpu")


def ids(*tokens):
    return np.array(tokens, dtype=np.int32)


def random_trees(seed, sizes=(1, 2, 3, 7, 4), longest=40):
    """Prompts with so many responses each."""
    generator = np.random.default_rng(seed)

    def text():
        return generator.integers(VOCABULARY, size=generator.integers(1, longest, endpoint=True), dtype=np.int32)

    return [PromptTree(text(), tuple(text() for _ in range(size))) for size in sizes]


def plain(trees):
    return [(tree.prompt.tolist(), [response.tolist() for response in tree.responses]) for tree in trees]


def test_each_prompt_and_each_response_to_it_is_there_once():
    """Two pairs of prompt [7 8] hold responses [1], [2 3] and again [1], [4]; that of [9] says [1] twice."""
    pairs = [
        PairTokens(ids(7, 8), ids(1), ids(2, 3), truncated=False),
        PairTokens(ids(9), ids(1), ids(1), truncated=False),
        PairTokens(ids(7, 8), ids(4), ids(1), truncated=True),
        PairTokens(ids(7), ids(8, 1), ids(2, 3), truncated=False),  # [7 8 1] too, but of another prompt
    ]
    found = distinct_trees(pairs)
    assert plain(found.trees) == [([7, 8], [[1], [2, 3], [4]]), ([9], [[1]]), ([7], [[8, 1], [2, 3]])]
    assert found.places.tolist() == [[0, 1], [3, 3], [2, 0], [4, 5]]
    assert found.n_tokens == 6 + 2 + 5
    assert sum(pair.n_tokens for pair in pairs) == 5 + 3 + 4 + 5
    assert distinct_trees([]).places.shape == (0, 2)


def test_a_tree_of_three_is_packed_as_by_hand():
    tree = PromptTree(ids(7, 8), (ids(1), ids(2, 3), ids(4, 5, 6)))
    batch = packed_trees([tree, PromptTree(ids(9), (ids(2),))], CPU)
    assert batch.input_ids.tolist() == [[7, 8, 1, 2, 3, 4, 5, 6, 9, 2]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 2, 3, 2, 3, 4, 0, 1]]
    assert batch.trees == (Tree(0, (2, 3, 5, 8)), Tree(8, (9, 10)))
    assert [one.longest for one in batch.trees] == [5, 2]
    assert batch.targets.tolist() == [1, 2, 3, 4, 5, 6, 2]
    assert batch.predictors.tolist() == [1, 1, 3, 1, 5, 6, 8]
    assert batch.responses.tolist() == [0, 1, 1, 2, 2, 2, 3]
    assert batch.n_responses == 4
    # one response after another, each after the very same prompt: the same tree
    apart = packed_trees([*tree.parts, PromptTree(ids(9), (ids(2),))], CPU)
    assert apart.trees == batch.trees
    assert torch.equal(apart.input_ids, batch.input_ids)
    assert len(packed_trees([PromptTree(ids(7, 8), (part,)) for part in tree.responses], CPU).trees) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_logps_and_gradients_are_those_of_a_pass_for_each_sequence(family):
    """Relative to the norm of each gradient, for single entries may cancel to nearly nothing."""
    trees = random_trees(1)
    slow, fast = with_lora(deepcopy(random_model(family))), with_lora(packed(random_model(family)))
    weights = torch.linspace(-1, 1, 17)
    expected, found = single_logps(slow.get_base_model(), trees), tree_logps(fast, trees)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=0)
    of_slow, of_fast = (
        torch.autograd.grad((logps * weights).sum(), [p for p in model.parameters() if p.requires_grad])
        for logps, model in ((expected, slow), (found, fast))
    )
    for gradient, other in zip(of_fast, of_slow, strict=True):
        assert (gradient - other).norm() <= TOLERANCE * other.norm()


def test_padded_trees_give_the_same_numbers():
    trees, model = random_trees(2), random_model("llama")
    with torch.no_grad():
        torch.testing.assert_close(tree_logps(model, trees), single_logps(model, trees), rtol=TOLERANCE, atol=0)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("window", [None, 9])
def test_all_back_ends_agree_on_trees_of_any_size(window, monkeypatch):
    monkeypatch.setattr("seqdpo.policy.sequences.varlen_attn", documented)
    batch = packed_trees(random_trees(3), CPU, BUCKET)
    n, real = batch.input_ids.shape[1], batch.trees[-1].end
    place = torch.arange(n)
    seen = BlockAttention(batch).mask(window).mask_mod(torch.tensor(0), torch.tensor(0), place[:, None], place[None])
    np.testing.assert_array_equal(seen[:real].numpy(), dense_mask(batch, window)[:real])
    torch.manual_seed(0)
    heads = torch.randn(3, 1, 4, n, 16).unbind()
    expected = SegmentAttention(batch).attend(*(tensor[:, :, :real] for tensor in heads), 0.3, None, window)
    for back_end in (BlockAttention, SequenceAttention):
        found = back_end(batch).attend(*heads, 0.3, None, window)
        torch.testing.assert_close(found[:, :real], expected)


def test_a_back_end_that_is_wrong_from_the_third_response_on_is_found_out(monkeypatch):
    """One that takes what follows the second response for a part of it."""
    right = SegmentAttention.__init__

    def two_at_most(self, batch):
        cut = [tree._replace(ends=(*tree.ends[:2], tree.end)) if len(tree.ends) > 3 else tree for tree in batch.trees]
        right(self, type("Batch", (), {"trees": cut}))

    monkeypatch.setattr(SegmentAttention, "__init__", two_at_most)
    assert choose_engine(deepcopy(random_model("llama")), 200).startswith("padded: packed trees differ")


def test_responses_of_a_prompt_fill_one_batch_and_a_prompt_of_too_many_is_split():
    """Prompts of 10 tokens. Budget 60: three responses of 15 and one of 10 need 65; two of 5 need 20."""

    def tree(token, *lengths):
        return PromptTree(np.full(10, token, np.int32), tuple(np.full(n, token, np.int32) for n in lengths))

    trees = [part for one in (tree(1, 15, 15, 15, 10), tree(2, 5, 5), tree(3, 20, 20)) for part in one.parts]
    parts = [part for one in joined(trees) for part in one.parts]
    found = batch_indices(packed(random_model("llama")), parts, 60)
    # [2]: 20 of 60; [1] needs 65, which fit nowhere, so that it goes on behind: 10 + 30, then 10 + 25
    assert found == [[4, 5, 0, 1], [2, 3], [6, 7]]
    sizes = [sum(one.n_tokens for one in joined([parts[i] for i in batch])) for batch in found]
    assert sizes == [60, 35, 50]
    roomy = batch_indices(packed(random_model("llama")), parts, 70)
    assert roomy == [[4, 5], [0, 1, 2, 3], [6, 7]]  # 20 + 65 are too many, and [1] is not torn for it


def test_out_of_memory_tears_a_prompts_responses_apart(random_pairs):
    parts = [part for tree in random_trees(4, sizes=(12, 9), longest=20) for part in tree.parts]
    done = []

    def work(batch):
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append(batch)

    try:
        for_each_batch(packed(random_model("llama")), parts, 4000, work)
    finally:
        memory.limit = None
    assert sorted(i for batch in done for i in batch) == list(range(21))


def test_processes_share_out_whole_prompts():
    trees = random_trees(5, sizes=(3, 1, 4, 1, 5))
    assert sorted(i for share in shares(trees, 3) for i in share) == list(range(5))
