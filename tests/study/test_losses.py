"""The keys of the loss: TRL's names, and what goes together."""

import dataclasses
import re

import pytest

from seqdpo.study.config import Study
from seqdpo.study.keys import LossKeys
from seqdpo.study.losses import LOSSES
from seqdpo.study.problems import problems_of

STUDY = {"model_name_or_path": "lab", "setting": "lab-null", "output_dir": "run"}


def test_names_and_defaults_are_those_of_trl():
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'seqdpo[test]'")
    theirs = {field.name: field for field in dataclasses.fields(trl.DPOConfig)}
    keys = LossKeys()
    assert [keys.loss_type] == theirs["loss_type"].default_factory()
    assert keys.label_smoothing == theirs["label_smoothing"].default
    assert keys.ld_alpha == theirs["ld_alpha"].default


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss_type": "robst"}, r"loss_type = 'robst'; expected one of sigmoid, .*Did you mean 'robust'\?"),
        ({"label_smoothing": 0.1}, r"label_smoothing = 0.1 with loss_type = 'sigmoid'.*; expected .* 'robust'"),
        ({"label_smoothing": 0.5, "loss_type": "robust"}, r"label_smoothing = 0.5; expected less than 0.5"),
        ({"label_smoothing": -0.1, "loss_type": "robust"}, r"label_smoothing = -0.1; expected greater than or equal"),
        ({"ld_alpha": 1.5}, r"ld_alpha = 1.5; expected less than or equal to 1"),
    ],
)
def test_a_loss_that_cannot_be_is_refused(values, message):
    (problem,) = problems_of(STUDY | values, Study)
    assert re.search(message, problem), problem


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_can_be_studied(name):
    smoothing = {"label_smoothing": 0.49} if LOSSES[name].smooths else {}
    assert problems_of(STUDY | {"loss_type": name, "ld_alpha": 0.0} | smoothing, Study) == []
