"""The studies of `seqdpo demo`: lab settings in both orders, with four control stages."""

from pathlib import Path

from seqdpo.study.config import Study
from seqdpo.study.settings import SETTINGS

#: Fewer pairs than a study of the lab has, so that the first verdict is there within a minute on two cores; and with a
#: higher learning rate, so that what they teach still stands out of the noise of a run.
SMALLER = {
    "max_train_pairs": 280,
    "max_eval_pairs": 280,
    "learning_rate": 3e-3,
    "placebo": 4,
    "mechanism_pairs": 40,
}
#: Beside the range that control stages give.
HOW_FAR_RUNS_DIFFER = (
    "Another seed varies the stages before, too, and digits differ between machines: docs/lab.md has how far."
)
DEMO_SETTINGS = ("lab-conflict", "lab-interaction", "lab-strong-signal", "lab-compatible")


def demo_studies(output_dir: str, every: bool = False) -> list[Study]:
    """A study of the first setting, or of every one, in a folder of its own below `output_dir`."""
    return [
        Study.model_validate(
            SETTINGS[name].defaults | SMALLER | {"setting": name, "output_dir": str(Path(output_dir) / name)}
        )
        for name in (DEMO_SETTINGS if every else DEMO_SETTINGS[:1])
    ]
