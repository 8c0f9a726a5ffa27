"""The register of formats: one module and one line each."""

import subprocess
import sys
from typing import get_args

import pytest

from seqdpo.preferences.datasets import Made, Sourced
from seqdpo.preferences.drops import REMEDIES
from seqdpo.study.objectives import FORMATS, format_of, objective_models

THROW_AWAY = """
from typing import Literal

from seqdpo.preferences.datasets import Sourced
from seqdpo.preferences.pairs import Message, Pair
from seqdpo.preferences.rows import numbered
from seqdpo.study.objectives import SourcedObjective


class VotesObjective(SourcedObjective):
    format: Literal["votes"]
    at_least: int = 1


def candidates(rows, objective, split, where):
    for row in numbered(rows, where):
        yield Pair((Message("user", row.text("ask")),), row.text("up"), row.text("down"), upstream_split=split)


FORMAT = Sourced(VotesObjective, candidates, folders=lambda folder, objective: [folder / "ballots"])
"""
#: What a line in FORMATS and a file beside the others do; then a study of it is read, and a wrong key refused.
USE = """
import sys, seqdpo.preferences.datasets as datasets
from seqdpo.study.objectives import FORMATS
folder = sys.argv[1]
datasets.__path__.append(folder)
FORMATS["votes"] = "votes"
from seqdpo.errors import ConfigError
from seqdpo.study.file import study_from
from seqdpo.preferences.sources import read_candidates
def study(**keys):
    objective = {"format": "votes", "dataset_name": folder, **keys}
    return study_from({"model_name_or_path": "m", "output_dir": "o", "objectives": {"a": objective}}, "s.yaml")
[pair] = read_candidates("a", study().objectives["a"])
print(pair.prompt[0].content, pair.chosen, pair.rejected, pair.upstream_split)
try:
    study(at_lest=3)
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("name", FORMATS)
def test_every_line_names_a_format_whose_model_has_its_name(name):
    form = format_of(name)
    assert isinstance(form, Sourced | Made)
    assert get_args(form.objective.model_fields["format"].annotation) == (name,)
    assert objective_models()[name] is form.objective


def test_a_new_format_is_one_file_and_one_line(tmp_path):
    (tmp_path / "votes.py").write_text(THROW_AWAY)
    (tmp_path / "ballots").mkdir()
    (tmp_path / "ballots" / "x.jsonl").write_text('{"ask": "p", "up": "yes", "down": "no"}\n')
    done = subprocess.run([sys.executable, "-c", USE, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("p yes no None\n")
    assert "objectives.a.at_lest is not a key of an objective of format votes. Did you mean 'at_least'" in done.stdout


def test_checking_a_study_file_imports_neither_tables_nor_models():
    code = "import seqdpo.study.file, sys; print([m for m in ('pyarrow', 'torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_remedies_are_sentences():
    assert all(text.endswith(".") for text in REMEDIES.values())
