"""The peak of a stage is its own."""

import importlib
import sys

import numpy as np
import pytest

from seqdpo.runner import environment

MEGABYTE = 2**20


def test_a_meter_counts_from_where_it_began():
    """300 MB held and given back before the second meter began are not in what it says; 200 MB since are."""
    before = environment.peak_memory_meter()
    if before() is None:
        pytest.skip("this system only tells the peak of the whole process")
    start = before()
    np.ones(300 * MEGABYTE, dtype=np.uint8)
    assert before() > start + 250 * MEGABYTE
    after = environment.peak_memory_meter()
    begun = after()
    assert begun < start + 100 * MEGABYTE
    np.ones(200 * MEGABYTE, dtype=np.uint8)
    assert after() > begun + 40 * MEGABYTE  # the allocator may have kept some of what was given back


def test_where_the_peak_cannot_be_reset_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "_CLEAR_REFS", tmp_path / "no" / "such")
    assert environment.peak_memory_meter()() is None


def test_module_needs_nothing_that_windows_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    importlib.reload(environment)
