"""A batch that the accelerator's memory does not hold comes again in smaller pieces, and nothing is lost or doubled."""

import logging
from copy import deepcopy

import pytest
import torch
from test_logps import random_model

from seqdpo.policy import batches
from seqdpo.policy.batches import default_tokens, for_each_batch, memory


@pytest.fixture(autouse=True)
def fresh_memory():
    memory.limit = None
    yield
    memory.limit = None


def work_in(limit, pairs, done):
    """Does what fits `limit` tokens, as an accelerator would."""

    def work(batch):
        if sum(pairs[i].n_tokens for i in batch) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append(batch)

    return work


def test_out_of_memory_halves_the_batches_until_they_fit(random_pairs, caplog):
    pairs, done = random_pairs(40, 0, (5, 20), (5, 20)), []
    model = deepcopy(random_model("llama"))
    with caplog.at_level(logging.WARNING, logger=batches.__name__):
        for_each_batch(model, pairs, 4000, work_in(1100, pairs, done))
    assert sorted(i for batch in done for i in batch) == list(range(40))
    assert memory.limit == 1000 or memory.limit == 2000
    said = len(caplog.records)
    for_each_batch(model, pairs, 4000, work_in(1100, pairs, done))
    assert len(caplog.records) == said  # known by now
    assert sorted(i for batch in done for i in batch) == sorted([*range(40), *range(40)])


def test_a_single_pair_that_does_not_fit_is_an_error(random_pairs):
    pairs = random_pairs(4, 0, (30, 30), (30, 30))
    with pytest.raises(torch.OutOfMemoryError):
        for_each_batch(random_model("llama"), pairs, 1000, work_in(10, pairs, []))


def test_a_batch_of_a_cpu_has_as_many_bytes_in_every_dtype():
    """docs/engine.md: 1,024 tokens on a CPU, 2,048 in bfloat16, 8,192 on an accelerator."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [default_tokens(cpu, dtype) for dtype in (torch.float32, torch.bfloat16)] == [1024, 2048]
    assert default_tokens(cuda, torch.bfloat16) == 8192
