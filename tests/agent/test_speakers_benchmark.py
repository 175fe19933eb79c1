"""What the benchmark of speakers says that a limit for a name costs, and buys."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_a_stricter_limit_costs_names_and_spares_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    benchmark = importlib.import_module("speakers")
    known = [benchmark.Nearest(similarity, right, False) for similarity, right in ((0.9, True), (0.6, True))]
    known += [benchmark.Nearest(0.7, False, False), benchmark.Nearest(0.2, False, False)]
    found = [*known, benchmark.Nearest(0.65, False, True), benchmark.Nearest(0.3, False, True)]
    assert benchmark.shares(found, 0.5) == [50, 25, 50]  # their own name, none, strangers taken
    assert benchmark.shares(found, 0.68) == [25, 50, 0]
