"""What `test_several_processes.py` lets one process do, and two of them: `torchrun --nproc_per_node=2 two_processes.py
MODEL PARENT FILE` writes FILE."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqdpo.measure.gradients import GradientTrace, Halves, TraceSize
from seqdpo.measure.kl_and_path import line_kl
from seqdpo.measure.scores import pair_logps
from seqdpo.policy.adapters import line_between, loaded_adapter, save_adapter, trainable_policy
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import load_model
from seqdpo.policy.ranks import join, leave, this_process
from seqdpo.preferences.tokens import PairTokens
from seqdpo.study.config import Study
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.stage import mean_gradient, train_stage

MODES = ("continue", "new_on_merged", "stack")
#: Pairs of a step as `per_device_train_batch_size` x `gradient_accumulation_steps`: two of them are no even number.
STEPS = ((1, 3), (3, 1), (2, 2))
N_PAIRS = 10  # the last step of three has one pair, so that one of two processes has none


def study_of(model: Path, **keys: Any) -> Study:
    fixed = {
        "model_name_or_path": str(model),
        "lora_r": 4,
        "lora_alpha": 8,
        "learning_rate": 1e-4,
        "tokens_per_batch": 64,
        "objectives": {"helpful": {"format": "lab"}, "harmless": {"format": "lab", "angle": 90}},
        "output_dir": "unused",
    }
    return Study.model_validate(fixed | keys)


def random_tokens(n: int, seed: int) -> list[PairTokens]:
    generator = np.random.default_rng(seed)

    def ids() -> Any:
        return generator.integers(300, size=generator.integers(1, 20, endpoint=True), dtype=np.int32)

    return [PairTokens(ids(), ids(), ids(), truncated=False) for _ in range(n)]


def sharing_tokens() -> list[PairTokens]:
    """Seven pairs, and three that share prompts and responses with the first of them."""
    own = random_tokens(7, 5)
    return [*own, *(one._replace(chosen=one.rejected, rejected=one.prompt) for one in own[:3])]


def pairs(seed: int, n: int = N_PAIRS) -> TrainingPairs:
    offsets = np.random.default_rng(seed).normal(0, 1, n)
    return TrainingPairs([f"{seed}-{i}" for i in range(n)], random_tokens(n, seed), offsets, np.zeros(n))


def make_parent(model: Path, folder: Path) -> None:
    """A checkpoint to start from, which says other things than the base."""
    study = study_of(model, learning_rate=1e-2)
    with trainable_policy(load_model(study), study, None, seed=3) as policy:
        train_stage(policy, pairs(1), study, 3, lambda step: None)
        save_adapter(policy, study, None, folder)


def found(model: Path, parent: Path) -> dict[str, Any]:
    """By adapter mode and pairs of a step: the trained adapter, its steps; of the first also trace, scores and KL."""
    torch.set_num_threads(1)
    study = study_of(model)
    base = load_model(study)
    choose_engine(base, 60)
    halves = {seed: Halves(pairs(seed), [range(0, N_PAIRS, 2)], [range(1, N_PAIRS, 2)]) for seed in (2, 3)}
    result: dict[str, Any] = {}
    for mode in MODES:
        for batch, accumulated in STEPS:
            keys = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
            one = study_of(model, adapter_mode=mode, **keys)
            with trainable_policy(base, one, parent, seed=0) as policy:
                _, gradient = mean_gradient(policy, pairs(5), one)
                trace = GradientTrace(policy, halves[2], {"helpful": halves[3]}, one, TraceSize(3, 4, 1), 4)
                steps = train_stage(policy, pairs(4), one, 0, lambda step: None, [trace])
                weights = [parameter.detach().clone() for parameter in policy.parameters() if parameter.requires_grad]
            result[f"{mode} {batch}x{accumulated}"] = {
                "weights": weights,
                "gradient": gradient,
                "losses": torch.tensor(steps["loss"].to_numpy(), dtype=torch.float64),
                "norms": torch.tensor(steps["grad_norm"].to_numpy(), dtype=torch.float64),
                "dots": torch.tensor(trace.table["dot"].to_numpy(), dtype=torch.float64),
            }
    with loaded_adapter(base, parent) as policy:
        scores = pair_logps(policy, sharing_tokens(), 64)
    with line_between(base, None, parent) as line:
        kl = line_kl(line, {"helpful": sharing_tokens()}, 64)["helpful"]
    return result | {"scores": torch.tensor(np.array(scores)), "kl": torch.tensor(np.array(kl))}


if __name__ == "__main__":
    join()
    model, parent, file = map(Path, sys.argv[1:])
    result = found(model, parent)
    if this_process().is_first:
        torch.save(result, file)
    leave()
