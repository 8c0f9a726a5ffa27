"""Two processes that share out the pairs of every step train what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_processes import MODES, STEPS, found, make_parent, random_tokens

from seqdpo.errors import ConfigError
from seqdpo.launched import Launch, check_alone, launch
from seqdpo.policy.ranks import shares

#: Float32 sums in another order. Adam forgets the gradient's size, so that a single weight may differ by more.
RELATIVE = 1e-5


@pytest.fixture(scope="module")
def both(tiny_model_folder, tmp_path_factory):
    """What one process found, and two."""
    folder = tmp_path_factory.mktemp("two")
    parent, file = folder / "parent", folder / "found.pt"
    make_parent(tiny_model_folder, parent)
    script = Path(__file__).with_name("two_processes.py")
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script, tiny_model_folder, parent, file]
    two = subprocess.Popen([sys.executable, *map(str, run)], stderr=subprocess.PIPE, text=True)
    one = found(tiny_model_folder, parent)
    _, said = two.communicate()
    assert two.returncode == 0, said
    return one, torch.load(file, weights_only=True)


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def distance(one, other):
    return ((one - other).norm() / one.norm()).item()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pairs_of_step", STEPS)
def test_two_processes_train_the_adapter_of_one(mode, pairs_of_step, both):
    one, two = (found[f"{mode} {pairs_of_step[0]}x{pairs_of_step[1]}"] for found in both)
    assert distance(flat(one["weights"]), flat(two["weights"])) < RELATIVE
    assert distance(flat(one["gradient"]), flat(two["gradient"])) < RELATIVE
    for column in ("losses", "norms", "dots"):
        assert torch.isfinite(one[column]).all()
        assert distance(one[column], two[column]) < RELATIVE, column


def test_two_processes_score_as_one(both):
    one, two = both
    for column in ("scores", "kl"):
        assert one[column].shape == (2, 10)
        assert (one[column] > 0).all() if column == "kl" else (one[column] < 0).all()
        assert distance(one[column], two[column]) < RELATIVE, column


def test_shares_hold_every_pair_once_and_about_as_many_tokens():
    pairs = random_tokens(50, seed=6)
    for size in (1, 2, 3, 8):
        given = shares(pairs, size)
        assert sorted(index for share in given for index in share) == list(range(50))
        assert all(share == sorted(share) for share in given)
        tokens = [sum(pairs[i].n_tokens for i in share) for share in given]
        # the lightest one was given each pair, so that no two differ by more than one
        assert max(tokens) - min(tokens) <= max(pair.n_tokens for pair in pairs)
    assert shares(pairs[:1], 2) == [[0], []]


TOLD = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def test_a_scheduler_that_sets_a_world_size_alone_launches_nothing(monkeypatch):
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launch() == Launch(0, 1, 0)
    check_alone("this")
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)
    assert launch() == Launch(1, 4, 1)
    assert not launch().is_first
    with pytest.raises(ConfigError, match="seqdpo gate: started as 4 processes of one run"):
        check_alone("seqdpo gate")
    assert os.environ["WORLD_SIZE"] == "4"
