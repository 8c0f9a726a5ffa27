"""Sequential preference tuning, and what each later stage did to what was learned before.

    study = seqdpo.load_study("study.yaml", learning_rate=1e-4)
    run = seqdpo.run(study)                  # or seqdpo.read_run("runs/hh-rlhf")
    run.findings.cells[0].verdict.sentence

Everything here is imported when it is first asked for; only `run` and `preflight` need torch. docs/python.md has more.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqdpo.analysis.preflight import Preflights as Preflights
    from seqdpo.analysis.schema import Findings as Findings
    from seqdpo.errors import ConfigError as ConfigError
    from seqdpo.errors import DataError as DataError
    from seqdpo.errors import RunError as RunError
    from seqdpo.errors import SeqdpoError as SeqdpoError
    from seqdpo.report.compared import ComparedRuns as ComparedRuns
    from seqdpo.report.compared import compare as compare
    from seqdpo.report.finished import Run as Run
    from seqdpo.report.finished import read_run as read_run
    from seqdpo.runner.findings import analyse as analyse
    from seqdpo.runner.preflight import preflight as preflight
    from seqdpo.runner.study import run as run
    from seqdpo.study.config import Study as Study
    from seqdpo.study.file import load_study as load_study

__version__ = "0.1.0"

#: Where each name of the front door is at home.
_HOMES = {
    "load_study": "study.file",
    "run": "runner.study",
    "read_run": "report.finished",
    "analyse": "runner.findings",
    "compare": "report.compared",
    "preflight": "runner.preflight",
    "Study": "study.config",
    "Run": "report.finished",
    "Findings": "analysis.schema",
    "Preflights": "analysis.preflight",
    "ComparedRuns": "report.compared",
    "SeqdpoError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "RunError": "errors",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seqdpo' has no attribute {name!r}")
    found = getattr(import_module(f"seqdpo.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
