"""Control stages are added at fixed numbers, and no further than needed."""

from types import SimpleNamespace as Some

import pytest

from seqdpo.analysis.recipes import ATTRIBUTABLE, NOT_SEPARABLE
from seqdpo.errors import ConfigError
from seqdpo.runner import until_separable
from seqdpo.runner.until_separable import run_until_separable

BOARD = Some(message=lambda text: None)


def cell(statement, verdict="DEGRADED", later=("b",)):
    return Some(
        objective="a", to="a>b", later=later, verdict=Some(verdict=verdict), recipe=Some(read=Some(statement=statement))
    )


@pytest.fixture
def runs(monkeypatch):
    """The studies that are run; the change stands out from 8 control stages on."""
    seen = []

    def run_study(study, board, elsewhere):
        seen.append(study)
        return Some(root=study.placebo)

    def read_run(placebo):
        of_change = ATTRIBUTABLE if placebo >= 8 else NOT_SEPARABLE
        cells = [cell(of_change), cell(NOT_SEPARABLE, "STABLE"), cell(NOT_SEPARABLE, later=("b", "c"))]
        findings = Some(cells=cells)
        findings.plain = lambda: findings  # no variants
        return Some(findings=findings)

    monkeypatch.setattr(until_separable, "run_study", run_study)
    monkeypatch.setattr(until_separable, "read_run", read_run)
    return seen


def test_it_stops_where_what_moved_is_attributable(make_study, runs):
    run_until_separable(make_study(), BOARD)
    assert [(study.placebo, study.looks) for study in runs] == [(4, 3), (8, 3)]  # 16 is not needed


def test_several_seeds_are_refused(make_study, runs):
    with pytest.raises(ConfigError, match="--until-separable: 2 seeds; expected one"):
        run_until_separable(make_study(seeds=[0, 1]), BOARD)
    assert runs == []
