"""From the command line to the training loop a study's settings go down the layers; only callbacks lead back up."""

import inspect
import itertools
from pathlib import Path

import seqdpo
import test_architecture
from seqdpo.study.config import Study
from seqdpo.study.file import study_yaml
from seqdpo.study.settings import LAB
from seqdpo.training import loss, stage

PACKAGE = Path(seqdpo.__file__).parent
LAYERS = test_architecture.LAYERS
STUDY = LAB | {
    "objectives": {name: {"format": "lab", "angle": angle, "n_pairs": 40} for name, angle in (("a", 0), ("b", 90))},
    "orders": [["a", "b"]],
    "placebo": 0,
}


def layers_of_stack():
    """The layers of seqdpo's own calls, the command line first; `seqdpo/__main__` and the like have none."""
    paths = [Path(frame.filename) for frame in reversed(inspect.stack(context=0))]
    names = [path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in paths if PACKAGE in path.parents]
    return [LAYERS.index(name) for name in names if name in LAYERS]


def climbs(layers):
    """Calls from a layer to one that imports it."""
    return sum(callee > caller for caller, callee in itertools.pairwise(layers))


def test_climbs_are_counted():
    assert climbs([9, 7, 7, 3, 7, 2, 1]) == 1
    assert climbs([9, 3, 5, 7]) == 2


def test_from_the_command_line_to_the_loss_there_are_at_most_two_climbs(seqdpo, tmp_path, monkeypatch):
    """A batch is tried by `policy/batches`, which calls the loop back; a hook of a step may add one of its own."""
    monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: tmp_path / "cache")
    seen = []
    monkeypatch.setattr(stage, "pair_losses", lambda *given: seen.append(layers_of_stack()) or loss.pair_losses(*given))
    study = tmp_path / "study.yaml"
    study.write_text(study_yaml(Study.model_validate(STUDY | {"output_dir": str(tmp_path / "run")})))
    code, _, errors = seqdpo("run", study)
    assert code == 0, errors
    assert {layers[0] for layers in seen} == {LAYERS.index("cli")}
    assert {climbs(layers) for layers in seen} <= {1, 2}
