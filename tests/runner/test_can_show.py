"""`plan` says what the design can show, and what it would cost to show more."""

import re

import yaml

from seqdpo.study.settings import SETTINGS
from seqdpo.study.template import study_template


def told(tmp_path, tiny_model_folder, seqdpo, **keys):
    study = {
        "model_name_or_path": str(tiny_model_folder),
        "max_length": 512,
        "objectives": {name: {"format": "lab", "angle": 90 * i} for i, name in enumerate(("helpful", "harmless"))},
        "max_train_pairs": 40,
        "max_eval_pairs": 100,
        "eval_fraction": 0.5,
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study | keys))
    code, output, errors = seqdpo("plan", tmp_path / "s.yaml")
    assert code == 0, errors
    return " ".join(output.split())


def test_the_smallest_losses_and_the_reach_of_the_recipe_are_printed(tmp_path, tiny_model_folder, seqdpo):
    """100 prompts, two orders: 12 claims; z of 0.05 / 12 is 2.638, so 0.1 + (2.638 + 0.842) 0.67 / 10 = 33%."""
    text = told(tmp_path, tiny_model_folder, seqdpo, placebo=4)
    assert "helpful: 100 held-out pairs of 100 prompts: a loss of 33% of what was learned" in text
    assert "recipe: a change of 8.9 SDs of run noise, by 4 control stages beside each later one, 1 seed" in text
    assert re.search(r"twice the held-out pairs \(max_eval_pairs\), \+\d+ s: of harmless a loss of 26%", text)
    assert re.search(r"placebo: 8, \+\d+ s: 4.9 SDs", text) and re.search(r"3 seeds, \+\d+ s: 9.0 SDs", text)


def test_a_design_that_cannot_say_anything_of_the_recipe_says_so(tmp_path, tiny_model_folder, seqdpo):
    text = told(tmp_path, tiny_model_folder, seqdpo, placebo=0)
    assert "recipe: nothing, by 1 seed: every recipe will be UNTESTED" in text
    assert "placebo: 4, +" in text


def test_a_study_of_one_stage_has_nothing_to_show(tmp_path, tiny_model_folder, seqdpo):
    assert "What it can show" not in told(tmp_path, tiny_model_folder, seqdpo, orders=[["helpful"]])


def test_init_writes_studies_that_can_reach_attributable():
    assert {yaml.safe_load(study_template(name))["placebo"] for name in SETTINGS} == {4}
