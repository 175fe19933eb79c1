"""What the benchmark of interruptions says that a limit of confidence costs, and buys."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest

from agent.sessions.transcripts import Transcript
from wavllm_core.engine.api import Written

FOLDER = Path(__file__).parents[2] / "benchmarks"


def turn(voiced_ms: int, text: str, probability: float) -> tuple[int, Transcript]:
    return voiced_ms, Transcript((Written(text, math.log(probability)),))


def test_a_limit_takes_what_is_nothing_and_what_is_short_and_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    benchmark = importlib.import_module("interruptions")
    turns = [turn(300, "", 0.99), turn(300, "seven", 0.5), turn(300, "two", 0.9), turn(2_000, "a mocha", 0.1)]
    assert [benchmark.taken(turns, limit) for limit in (0.4, 0.6, 0.95)] == [25, 50, 75]
    assert benchmark.describe("digits", 5, turns)[-len(benchmark.LIMITS) :] == [25, 50, 50, 50, 50]
