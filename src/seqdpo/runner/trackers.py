"""Experiment trackers: a run for each stage, by accelerate's own integrations. Files are written without them, too."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seqdpo.errors import ConfigError
from seqdpo.measure.scores import PairLogps
from seqdpo.study.checkpoints import Node
from seqdpo.study.keys import TrackKeys
from seqdpo.training.stage import Step
from seqdpo.wording import reason

#: Steps of which a tracker is told; the rest of a row of train.parquet is counters and clocks.
OF_A_STEP = ("loss", "accuracy", "reward_margin", "chosen_logp", "rejected_logp", "grad_norm", "learning_rate")


def check_trackers(keys: TrackKeys) -> None:
    """Raises: ConfigError that names the packages that are not installed."""
    missing = [name for name in keys.report_to if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"report_to: {', '.join(missing)} not installed; expected every tracker that is named. "
            f"pip install {' '.join(missing)}"
        )


class StageTrackers:
    """The trackers of one stage; none where the study names none."""

    def __init__(self, trackers: Sequence[Any] = ()) -> None:
        self._trackers, self._steps = trackers, 0

    def step(self, step: Step) -> None:
        """A step's numbers, as in train.parquet, under `train/`."""
        self._steps = step.step
        self._log({f"train/{name}": value for name, value in asdict(step).items() if name in OF_A_STEP})

    def scores(self, scores: Mapping[str, PairLogps], base: Mapping[str, PairLogps]) -> None:
        """Mean margin against the base and accuracy of every objective, at the stage's end, under `eval/`."""
        for name, logps in scores.items():
            margin = logps.difference - base[name].difference
            accuracy = ((margin > 0) + 0.5 * (margin == 0)).mean()
            self._log({f"eval/{name}/margin": float(margin.mean()), f"eval/{name}/accuracy": float(accuracy)})

    def finish(self) -> None:
        for tracker in self._trackers:
            tracker.finish()

    def _log(self, values: dict[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(values, step=self._steps)


@contextmanager
def stage_trackers(keys: TrackKeys, root: Path, node: Node) -> Iterator[StageTrackers]:
    """Those of a stage; the name of the run folder is the project, that of the stage the run."""
    config = {name: str(value) for name, value in keys.model_dump(mode="json").items()}
    found = StageTrackers([_begun(name, root, node, config) for name in keys.report_to])
    try:
        yield found
    finally:
        found.finish()


def _begun(name: str, root: Path, node: Node, config: dict[str, str]) -> Any:
    """Raises: ConfigError for what a tracker finds wrong with its own settings, of whatever kind its error is."""
    try:
        return _started(name, root, node, config)
    except Exception as error:
        raise ConfigError(
            f"report_to: {name} does not begin: {reason(error)} Set it up, or take it out of report_to, and run the "
            "same command again: finished stages are safe."
        ) from error


def _started(name: str, root: Path, node: Node, config: dict[str, str]) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # late: it imports every tracker that is installed

    PartialState()  # without it accelerate's own log refuses what W&B's and Trackio's integration tell it
    project, of = root.resolve().name, LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        tracker = of(node.folder, logging_dir=str(root / "tensorboard"))
    elif name == "mlflow":
        tracker = of(experiment_name=project, run_name=node.folder)
    else:  # wandb, trackio
        tracker = of(project, name=node.folder)
    tracker.start()
    tracker.store_init_configuration(config)
    return tracker
