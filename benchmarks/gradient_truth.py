"""Do the gradients tell the truth that was planted? `python benchmarks/gradient_truth.py [--runs runs/gradient-truth]`.

Four parts, three of them with real trainings of the lab's model, about forty minutes on two cores; a second call reads
the runs that are there:
    words     near-orthogonal, opposed, aligned: how often each is said of planted cosines, by simulation (a minute)
    cosine    two small batches against the full data, at checkpoints that stand still, over the planted angle
    account   the first-order account of lab-conflict and lab-compatible against what happened, over ten seeds
    forecast  how well one gradient ranked the changes of held-out pairs, real stages beside control stages
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from peft import PeftModel
from rich.console import Console
from tables import report
from torch import Tensor
from transformers import PreTrainedModel
from workload import training_pairs

from seqdpo.analysis.gradients import NEAR_ORTHOGONAL, Trace, corrected_cosine, opposition, trace_of
from seqdpo.analysis.points import average
from seqdpo.measure.gradients import MOST_BLOCKS, GradientTrace, Halves, TraceSize
from seqdpo.policy.adapters import trainable_policy
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import load_model
from seqdpo.preferences.prepare import PreparedPair
from seqdpo.preferences.tokens import PairTokens
from seqdpo.report.words import OPPOSITION
from seqdpo.runner.board import board_for
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.inputs import read_preferences, with_model_path
from seqdpo.runner.study import run_study
from seqdpo.study.config import Study
from seqdpo.study.settings import LAB, SETTINGS
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.stage import mean_vector, train_stage

ANGLES = (0, 45, 90, 135, 180)
#: Pairs of the first objective that the policy has learned from when the gradients are taken, and how fast it learned.
LEARNED = ((0, 1e-3), (640, 1e-4))
SIZE = TraceSize(n_points=20, n_pairs=48, n_blocks=MOST_BLOCKS)
#: Of the simulated words: the cosines that are planted, the draws, and the dimensions of a gradient.
PLANTED, SIMULATED, DIMENSIONS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.3, 0.8, 1.0), 2000, 300
DRAWS = 2
STILL = 1e-12  # a learning rate that moves nothing
SEEDS = tuple(range(10))
#: folder -> (setting, keys). A trace of as many passes as the training itself, and one of six times as many, since a
#: stage of 600 pairs has batches of seven otherwise. Control stages show what a forecast ranks where nothing is taught.
STUDIES = {
    "lab-conflict": ("lab-conflict", {"mechanism_share": 2.0, "placebo": 1}),
    "lab-compatible": ("lab-compatible", {"mechanism_share": 2.0, "placebo": 0}),
    "lab-compatible-large": (
        "lab-compatible",
        {"mechanism_share": 6.0, "placebo": 0, "mechanism_pairs": 0, "orders": [["helpfulness", "honesty"]]},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/gradient-truth"))
    parser.add_argument("--only", choices=["words", "cosine", "runs"])
    arguments = parser.parse_args()
    if arguments.only in (None, "words"):
        words()
    if arguments.only in (None, "cosine"):
        cosine()
    if arguments.only in (None, "runs"):
        folders = [_run(account_study(name, arguments.runs)) for name in STUDIES]
        account(folders)
        forecast(folders)


def words() -> None:
    """20 points on 8 blocks of pairs: what is said, and how often the interval holds the planted cosine."""
    rows = []
    for reliability in (0.05, 0.2, 0.6):
        for planted in PLANTED:
            found = [_statement(planted, reliability, np.random.default_rng(draw)) for draw in range(SIMULATED)]
            said = [one.statement for one in found]
            shares = {word: said.count(word) / SIMULATED for word in OPPOSITION}
            covered = [one.low - 1e-9 <= planted <= one.high + 1e-9 for one in found]
            rows.append(
                {"reliability": reliability, "cosine": planted, "coverage": float(np.mean(covered)), **shares}
                | {"side of 0 told": float(np.mean([one.side for one in found]))}
            )
    report(
        "gradient_words",
        rows,
        f"{SIMULATED:,} draws each, two unit signals in {DIMENSIONS} dimensions and noise by reliability; 20 points "
        f"that read {MOST_BLOCKS} blocks of pairs in turn. Words at the 5% level each, bound {NEAR_ORTHOGONAL:g}; "
        "interval at 95%.",
    )


class _Said(NamedTuple):
    statement: str
    low: float
    high: float
    side: bool


def _statement(planted: float, reliability: float, generator: np.random.Generator) -> _Said:
    current, earlier = np.zeros((2, DIMENSIONS))
    current[0], earlier[:2] = 1, (planted, np.sqrt(1 - planted**2))
    size = np.sqrt((1 / reliability - 1) / DIMENSIONS)
    shape = (MOST_BLOCKS, DIMENSIONS)
    c1, c2, e1, e2 = (of + size * generator.normal(size=shape) for of in (current, current, earlier, earlier))
    blocks = np.arange(SIZE.n_points) % MOST_BLOCKS

    def at_points(*products: np.ndarray) -> np.ndarray:
        return np.mean([product.sum(axis=1) for product in products], axis=0)[blocks, None]

    none = np.zeros((SIZE.n_points, 1))
    trace = Trace(
        list(range(SIZE.n_points)), SIZE.n_pairs, [("(all)", None)], blocks,
        at_points((c1 + c2) * (e1 + e2) / 4), at_points(c1**2, c2**2), at_points(c1 * c2),
        at_points(e1**2, e2**2), at_points(e1 * e2), none, none,
    )  # fmt: skip
    found = corrected_cosine(trace)
    side = average(trace.raw_cosines, blocks).interval(0, 0.95)
    return _Said(opposition(found.interval(0, 0.9)), *found.interval(0, 0.95), not side[0] <= 0 <= side[1])


def cosine() -> None:
    names = {angle: f"at{angle}" for angle in ANGLES}
    objectives = {name: {"format": "lab", "angle": angle, "n_pairs": 4000} for angle, name in names.items()}
    keys = LAB | {"objectives": objectives, "max_eval_pairs": 2000, "orders": [["at0"]], "output_dir": "runs/unused"}
    study = with_model_path(Study.model_validate(keys))
    preferences, _ = read_preferences(study, print)
    base = load_model(study)
    choose_engine(base, preferences.longest)
    held_out = {name: training_pairs(base, tokens_of(preferences.objectives[name].eval), study) for name in objectives}
    training = training_pairs(base, tokens_of(preferences.objectives["at0"].train), study)
    rows = []
    for learned, rate in LEARNED:
        with learned_policy(base, training, study, learned, rate) as policy:
            full = {name: half_gradients(policy, pairs, study) for name, pairs in held_out.items()}
            for angle, name in names.items():
                if angle:
                    raw, corrected = small_batches(policy, held_out["at0"], held_out[name], study)
                    plain, noiseless = full_cosines(full["at0"], full[name])
                    rows.append(
                        {
                            "learned pairs": learned,
                            "angle": angle,
                            "cos(angle)": round(float(np.cos(np.radians(angle))), 3),
                            "full data": plain,
                            "full data, corrected": noiseless,
                            "raw": float(np.mean(raw)),
                            "corrected": float(np.mean(corrected)) if len(corrected) == DRAWS else None,
                            "SD of a draw": float(np.std(corrected, ddof=1)) if len(corrected) == DRAWS else None,
                            "defined": f"{len(corrected)} of {DRAWS}",
                        }
                    )
    report(
        "gradient_cosine",
        rows,
        f"Cosine of the loss gradients of two objectives at a checkpoint that stands still. Raw and corrected: {DRAWS} "
        f"draws of {SIZE.n_points} points, two batches of {SIZE.n_pairs} pairs each. Full data: 2,000 held-out pairs, "
        "and the same with the noise of its own two halves taken out.",
    )


@contextmanager
def learned_policy(
    base: PreTrainedModel, pairs: TrainingPairs, study: Study, learned: int, rate: float
) -> Iterator[PeftModel]:
    with trainable_policy(base, study, None, seed=0) as policy:
        if learned:
            part = pairs.take(range(learned))
            train_stage(policy, part, study.model_copy(update={"learning_rate": rate}), 0, lambda step: None)
        yield policy


def tokens_of(pairs: Sequence[PreparedPair]) -> list[PairTokens]:
    return [pair.tokens for pair in pairs]


def half_gradients(policy: PeftModel, pairs: TrainingPairs, study: Study) -> list[Tensor]:
    """The mean gradients of every second pair, and of the others."""
    halves = (mean_vector(policy, pairs.take(range(start, pairs.n_pairs, 2)), study) for start in (0, 1))
    return [torch.cat([gradient.double().flatten() for gradient in half]) for half in halves]


def full_cosines(one: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[float, float]:
    """(of the means of both halves, the same with what the halves do not share taken out)"""
    dot = float((one[0] + one[1]) @ (other[0] + other[1])) / 4
    norms = [float((halves[0] + halves[1]).norm()) / 2 for halves in (one, other)]
    shared = float(one[0] @ one[1]) * float(other[0] @ other[1])
    return dot / (norms[0] * norms[1]), dot / shared**0.5


def small_batches(
    policy: PeftModel, earlier: TrainingPairs, current: TrainingPairs, study: Study
) -> tuple[list[float], list[float]]:
    """Raw and corrected cosine of each draw, by the trace that a run has; undefined corrected ones are left out."""
    still = study.model_copy(update={"learning_rate": STILL, "per_device_train_batch_size": 1})
    raw, corrected = [], []
    for draw in range(DRAWS):
        generator = np.random.default_rng(draw)
        halves = [_halves(pairs, generator) for pairs in (earlier, current)]
        trace = GradientTrace(policy, halves[1], {"at0": halves[0]}, still, SIZE, SIZE.n_points)
        train_stage(policy, current.take(range(20)), still, 0, lambda step: None, [trace])
        points = trace_of(trace.table.filter(pa.compute.field("module") == "(all)"))
        raw.append(
            float(np.sum(points.dot) / np.sqrt(points.current_squared_norm.sum() * points.earlier_squared_norm.sum()))
        )
        value = float(corrected_cosine(points).value[0])
        if np.isfinite(value):
            corrected.append(value)
    return raw, corrected


def _halves(pairs: TrainingPairs, generator: np.random.Generator) -> Halves:
    order = generator.permutation(len(pairs.tokens)).tolist()
    blocks = [order[k :: 2 * MOST_BLOCKS] for k in range(2 * MOST_BLOCKS)]
    return Halves(pairs, blocks[::2], blocks[1::2])


def account_study(name: str, runs: Path) -> Study:
    setting, more = STUDIES[name]
    keys = {"setting": setting, "seeds": list(SEEDS), "max_train_pairs": 600, "max_eval_pairs": 600}
    return Study.model_validate(SETTINGS[setting].defaults | keys | more | {"output_dir": str(runs / name)})


def _run(study: Study) -> RunFolder:
    with board_for(Console()) as board:
        return run_study(study, board)


def _mechanism(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(folder.results.read_text(encoding="utf-8"))["mechanism"]
    return found


def account(folders: Sequence[RunFolder]) -> None:
    rows = []
    for folder in folders:
        records = [record for record in _mechanism(folder)["gradients"] if not record["placebo"]]
        for stage in dict.fromkeys(record["to"] for record in records):
            own = [record for record in records if record["to"] == stage]
            accounts = [record["account"] for record in own]
            signs = [(one["predicted"]["value"] > 0) == (one["actual"]["value"] > 0) for one in accounts]
            rows.append(
                {
                    "study": folder.root.name,
                    "stage": stage,
                    "earlier": own[0]["objective"],
                    "pairs a batch": own[0]["pairs_per_batch"],
                    "sign right": f"{sum(signs)} of {len(signs)}",
                    "predicted": float(np.mean([one["predicted"]["value"] for one in accounts])),
                    "actual": float(np.mean([one["actual"]["value"] for one in accounts])),
                    **{
                        word: sum(one["statement"] == word for one in accounts)
                        for word in ("confirmed", "contradicted", "unresolved")
                    },
                    "raw cosine": float(np.mean([record["raw_cosine"] for record in own])),
                    "opposed": sum(record["statement"] == "opposed" for record in own),
                    "aligned": sum(record["statement"] == "aligned" for record in own),
                }
            )
    report(
        "gradient_account",
        rows,
        f"First-order account of the earlier objective's loss (nats a pair, mean over {len(SEEDS)} seeds) beside the "
        "change that came. Statements: at 95% each.",
    )


def forecast(folders: Sequence[RunFolder]) -> None:
    rows = []
    for folder in folders:
        for record in _mechanism(folder)["kl_and_path"]:
            for one in record["objectives"]:
                if one["forecast"] is not None and one["forecast"]["spearman"] is not None:
                    kind = "control" if record["placebo"] else "real"
                    stage = "first" if record["from"] == "base" else "later"
                    trained = record["to"].partition("~")[0].split(">")[-1] == one["objective"]
                    whose = "its own" if trained else ("earlier" if stage == "later" else "the other")
                    rows.append((folder.root.name, f"{stage}, {kind}", whose, one["forecast"]["spearman"]))
    keys = sorted({row[:3] for row in rows})
    report(
        "gradient_forecast",
        [
            {
                "setting": key[0],
                "stage": key[1],
                "objective": key[2],
                "Spearman, mean": float(np.mean(values)),
                "lowest": min(values),
                "highest": max(values),
                "stages": len(values),
            }
            for key in keys
            for values in [[row[3] for row in rows if row[:3] == key]]
        ],
        "Rank correlation of the forecast change of the margin (one mean gradient at the stage's start) and the change "
        "that came, 200 held-out pairs an objective.",
    )


if __name__ == "__main__":
    main()
