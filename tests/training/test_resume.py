"""A stage that is stopped after any step, and goes on in another process, is the stage that never stopped."""

import io
from typing import Any

import numpy as np
import pytest
import torch

from seqdpo.measure.gradients import GradientTrace, Halves, TraceSize
from seqdpo.policy.adapters import save_adapter, trainable_policy
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.stage import train_stage

N, STEPS = 12, 6  # pairs; two epochs of three steps


class Stop(BaseException): ...


class Kept:
    """Keeps the stage as bytes, and stops it after some step."""

    def __init__(self, stop_after: int) -> None:
        self.stop_after, self.bytes = stop_after, b""

    def kept(self) -> dict[str, Any] | None:
        return torch.load(io.BytesIO(self.bytes), weights_only=True) if self.bytes else None

    def after_step(self, stage) -> None:
        if len(stage.steps) == self.stop_after:
            stream = io.BytesIO()
            torch.save(stage.state(), stream)
            self.bytes, self.stop_after = stream.getvalue(), 0
            raise Stop


@pytest.mark.parametrize("mode", ["continue", "new_on_merged", "stack"])
def test_a_stage_that_goes_on_ends_with_the_bytes_of_one_that_did_not_stop(
    mode, tiny_model, make_study, random_pairs, tmp_path
):
    """Adapter, steps and gradient trace; with dropout, warm-up, and a trace whose intervals the stops cut."""
    keys = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "lora_dropout": 0.2, "warmup_steps": 2}
    study = make_study(adapter_mode=mode, learning_rate=1e-2, **keys)

    def pairs(seed):
        offsets = np.random.default_rng(seed).normal(0, 1, N)
        return TrainingPairs([f"{seed}-{i}" for i in range(N)], random_pairs(N, seed=seed), offsets, np.zeros(N))

    def halves(seed):
        return Halves(pairs(seed), [range(0, N, 2)], [range(1, N, 2)])

    parent = tmp_path / "parent"
    with trainable_policy(tiny_model, study, None, seed=3) as policy:
        train_stage(policy, pairs(1), study, 3, lambda step: None)
        save_adapter(policy, study, None, parent)

    def stage(keeper):
        heard = []
        with trainable_policy(tiny_model, study, parent, seed=0) as policy:
            trace = GradientTrace(policy, halves(2), {"helpful": halves(3)}, study, TraceSize(3, 4, 1), STEPS)
            steps = train_stage(policy, pairs(4), study, 0, heard.append, [trace], keeper)
            save_adapter(policy, study, parent, tmp_path / "adapter")
        adapter = (tmp_path / "adapter/adapter_model.safetensors").read_bytes()
        assert [step.step for step in heard] == list(range(1, STEPS + 1))
        return adapter, steps.drop(["seconds"]), trace.table

    adapter, steps, trace = stage(None)
    assert trace.num_rows
    for stop in (1, 2, 5, STEPS):
        keeper = Kept(stop)
        with pytest.raises(Stop):
            stage(keeper)
        torch.rand(5)  # another process's random state
        again = stage(keeper)
        assert again[0] == adapter, stop
        assert again[1].equals(steps), stop
        assert again[2].equals(trace), stop
