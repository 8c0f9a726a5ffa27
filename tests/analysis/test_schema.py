"""results.json is what its schema says: written and read again it is the same, and wrong content is named."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from seqdpo.analysis import comparison, schema
from seqdpo.analysis.results import results
from seqdpo.analysis.schema import findings_from_json, to_json
from seqdpo.errors import DataError

PATH = Path("run/results.json")


@pytest.fixture
def findings(make_scores, score_rows):
    """Two orders and two seeds with a control stage; everything that was learned by one seed is lost."""
    generator = np.random.default_rng(0)
    rows = []
    for seed in (0, 1):
        for order in ("a>b", "b>a"):
            for objective in ("a", "b"):
                taught = generator.normal(2, 1, 12)
                margins = {(1, 0): taught * (order[0] == objective), (2, 0): taught - 2 * seed, (2, 1): taught}
                rows.append(score_rows(margins, objective=objective, order=order, seed=seed))
    return results(make_scores(*rows), None, 0.3, study={"reference": "base"})


def text_of(findings):
    return json.dumps(to_json(findings), indent=2, ensure_ascii=False, allow_nan=False)


def test_findings_read_again_are_the_same_to_the_byte(findings):
    again = findings_from_json(text_of(findings), PATH)
    assert again == findings
    assert text_of(again) == text_of(findings)


def test_keys_are_the_fields_in_their_order():
    """`from` and `class` are words of Python, so their fields have an underscore."""
    judged = schema.Judged(
        value=1.0, low=None, high=None, confidence=0.9, n=4, n_prompts=2, tolerance=0.1, class_="held"
    )
    keys = ["value", "low", "high", "confidence", "n", "n_prompts", "tolerance", "class"]
    assert list(to_json(judged)) == keys
    assert list(to_json([judged])[0].values()) == [1.0, None, None, 0.9, 4, 2, 0.1, "held"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda f: f["cells"][1]["verdict"].update(verdict="RUINED"), "cells.1.verdict.verdict = 'RUINED'"),
        (lambda f: f["cells"][0].update(n="12"), "cells.0.n = '12'"),
        (lambda f: f["cells"][0].pop("from"), "cells.0.from"),
        (lambda f: f.update(more=1), "more = 1"),
        (lambda f: f["score_matrix"][3].update(margin=None), "score_matrix.3.margin = None"),
        (lambda f: f["cells"][0]["slices"].append({}), "cells.0.slices."),
    ],
)
def test_wrong_content_is_refused_with_file_and_key(findings, change, key):
    content = to_json(findings)
    change(content)
    with pytest.raises(DataError) as found:
        findings_from_json(json.dumps(content), PATH)
    assert str(found.value).startswith(f"{PATH}: {key}")
    assert "expected findings as this release writes them. Run the study again" in str(found.value)


def test_no_record_can_be_changed(findings):
    with pytest.raises(dataclasses.FrozenInstanceError):
        findings.cells[0].verdict.verdict = "STABLE"


def records_of(module):
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, schema.Record) and value is not schema.Record
    ]


def test_every_key_of_results_is_documented(request):
    docs = request.config.rootpath / "docs"
    words = set(re.findall(r"\w+", (docs / "results.md").read_text() + (docs / "mechanism.md").read_text()))
    keys = {field.name.removesuffix("_") for kind in records_of(schema) for field in dataclasses.fields(kind)}
    assert len(keys) > 150
    assert keys - words == set()


def test_every_key_of_a_comparison_is_documented(request):
    words = set(re.findall(r"\w+", (request.config.rootpath / "docs" / "commands.md").read_text()))
    own = [kind for kind in records_of(comparison) if kind.__module__ == comparison.__name__]
    assert {field.name for kind in own for field in dataclasses.fields(kind)} - words == set()


def test_the_schema_in_the_documentation_is_of_this_version(request):
    text = (request.config.rootpath / "docs" / "results.md").read_text()
    assert f"| `schema_version` | {schema.SCHEMA_VERSION} |" in text


def test_records_are_all_in_the_schema():
    """A dataclass without Record as its base would be read without its config."""
    kinds = [kind for kind in vars(schema).values() if dataclasses.is_dataclass(kind)]
    assert all(issubclass(kind, schema.Record) and kind.__dataclass_params__.frozen for kind in kinds)
