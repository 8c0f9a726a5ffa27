"""What does bfloat16 change in scores and training? `python benchmarks/bfloat16_scores.py`; a minute on two cores.

The lab's trained model. An adapter trained in float32 is scored in both dtypes, each beside its own base; and a second
adapter, trained in bfloat16 from the same start, beside the first.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tables import report
from workload import training_pairs

from seqdpo.measure.scores import pair_logps
from seqdpo.policy.adapters import loaded_adapter, save_adapter, trainable_policy
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import load_model
from seqdpo.preferences.tokens import PairTokens
from seqdpo.runner.inputs import read_preferences, with_model_path
from seqdpo.study.config import Study
from seqdpo.study.settings import LAB
from seqdpo.training.stage import train_stage


def main() -> None:
    keys = {"objectives": {"first": {"format": "lab", "angle": 0, "n_pairs": 4000}}, "max_train_pairs": 800}
    study = with_model_path(Study.model_validate(LAB | keys | {"output_dir": "runs/unused"}))
    preferences, _ = read_preferences(study, print)
    first = preferences.objectives["first"]
    train, held_out = ([pair.tokens for pair in split] for split in (first.train, first.eval))
    margins = {}
    with tempfile.TemporaryDirectory() as folder:
        for trained in ("float32", "bfloat16"):
            teach(study.model_copy(update={"dtype": trained}), train, Path(folder) / trained)
            for scored in ("float32", "bfloat16"):
                given = study.model_copy(update={"dtype": scored})
                margins[trained, scored] = margin(given, held_out, Path(folder) / trained)
    exact = margins["float32", "float32"]
    rows = [{"trained in": a, "scored in": b, **beside(found, exact)} for (a, b), found in margins.items()]
    n_tokens = np.mean([len(pair.chosen) + len(pair.rejected) for pair in held_out])
    report(
        "bfloat16_scores",
        rows,
        f"Margins of {len(held_out)} held-out pairs of {n_tokens:.0f} response tokens, in nats; differences from those "
        "trained and scored in float32.",
    )


def teach(study: Study, train: list[PairTokens], folder: Path) -> None:
    base = load_model(study)
    choose_engine(base, max(pair.longest for pair in train))
    pairs = training_pairs(base, train, study)
    with trainable_policy(base, study, None, seed=0) as policy:
        train_stage(policy, pairs, study, 0, lambda step: None)
        save_adapter(policy, study, None, folder)


def margin(study: Study, pairs: list[PairTokens], folder: Path) -> np.ndarray:
    base = load_model(study)
    choose_engine(base, max(pair.longest for pair in pairs))
    before = pair_logps(base, pairs, None).difference
    with loaded_adapter(base, folder) as policy:
        return pair_logps(policy, pairs, None).difference - before


def beside(found: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    difference = found - exact
    return {
        "mean margin": float(found.mean()),
        "accuracy": float((found > 0).mean()),
        "mean difference": float(difference.mean()),
        "SD of the difference": float(difference.std(ddof=1)),
        "largest": float(np.abs(difference).max()),
        "SD of the margins": float(exact.std(ddof=1)),
        "signs that differ": int(((found > 0) != (exact > 0)).sum()),
    }


if __name__ == "__main__":
    main()
