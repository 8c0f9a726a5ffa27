"""The peak of a stage is its own."""

import importlib
import subprocess
import sys

import pytest

from seqdpo.runner import environment

METERED = """
import numpy as np
from seqdpo.runner.environment import peak_memory_meter
before = peak_memory_meter()
if before() is None:
    raise SystemExit("unknown")
start = before()
np.ones(300 * 2**20, dtype=np.uint8)
peak = before()
after = peak_memory_meter()
begun = after()
np.ones(200 * 2**20, dtype=np.uint8)
print(peak - start, begun - start, after() - begun)
"""


def test_a_meter_counts_from_where_it_began():
    """300 MB held and given back before the second meter began are not in what it says; 200 MB since are.

    In a process of its own: in this one, what earlier tests left may be given back just then.
    """
    ran = subprocess.run([sys.executable, "-c", METERED], capture_output=True, text=True, check=False)
    if "unknown" in ran.stderr:
        pytest.skip("this system only tells the peak of the whole process")
    assert ran.returncode == 0, ran.stderr
    first, between, second = (int(number) / 2**20 for number in ran.stdout.split())
    assert first == pytest.approx(300, abs=40)
    assert between == pytest.approx(0, abs=40)
    assert second == pytest.approx(200, abs=40)


def test_where_the_peak_cannot_be_reset_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "_CLEAR_REFS", tmp_path / "no" / "such")
    assert environment.peak_memory_meter()() is None


def test_module_needs_nothing_that_windows_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    importlib.reload(environment)
