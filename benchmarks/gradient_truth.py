"""Do the gradients tell the truth that was planted? `python benchmarks/gradient_truth.py [--runs runs/gradient-truth]`.

Two parts, with real trainings of the lab's model:
    cosine   two small batches against the full data, at checkpoints that stand still, over the planted angle
    account  the first-order account of lab-conflict and lab-compatible against what happened, over ten seeds
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from rich.console import Console
from tables import report

from seqdpo.measure.gradients import GradientTrace, Halves, TraceSize
from seqdpo.policy.adapters import trainable_policy
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import load_model
from seqdpo.preferences.prepare import Preferences
from seqdpo.run.board import board_for
from seqdpo.run.inputs import read_preferences, with_model_path
from seqdpo.run.runner import run_study
from seqdpo.study.config import Study
from seqdpo.study.settings import LAB, SETTINGS
from seqdpo.training.placebo import TrainingPairs
from seqdpo.training.stage import accumulate_gradients, train_stage

ANGLES = (0, 45, 90, 135, 180)
#: Pairs of the first objective that the policy has learned from when the gradients are taken.
LEARNED_PAIRS = 160
N_POINTS, N_PAIRS = 20, 8  # of the trace: batches of eight pairs
SEEDS = tuple(range(10))


def full_cosine(policy: PeftModel, first: TrainingPairs, second: TrainingPairs, study: Study) -> tuple[float, float]:
    """(cosine of the two mean gradients, the same with the noise that is left in them taken out), all pairs read."""
    one, other = (gradient_halves(policy, pairs, study) for pairs in (first, second))
    mean_one, mean_other = (sum(halves) / 2 for halves in (one, other))
    dot = float(mean_one @ mean_other)
    return (
        dot / float(mean_one.norm() * mean_other.norm()),
        dot / float(torch.sqrt((one[0] @ one[1]) * (other[0] @ other[1]))),
    )


def gradient_halves(policy: PeftModel, pairs: TrainingPairs, study: Study) -> list[torch.Tensor]:
    parameters = [p for p in policy.parameters() if p.requires_grad]
    found = []
    for start in (0, 1):
        indices = range(start, len(pairs.tokens), 2)
        accumulate_gradients(policy, pairs, indices, study)
        found.append(torch.cat([p.grad.double().flatten() for p in parameters]))
        for parameter in parameters:
            parameter.grad = None
    return found
