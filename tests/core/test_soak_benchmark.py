"""What the soak takes for a fault: each is found, and named by its own line alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wavllm_core.engine.api import Exchange

FOLDER = Path(__file__).parents[2] / "benchmarks"
Said = list[dict[str, Any]]


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("soak")


def answer(history: list[Exchange], instructions: str) -> str:
    """A model that tells whose history it was given."""
    return " / ".join([instructions, *(f"{one.text} {one.speaker} {one.reply}" for one in history)])


def turn(spoken: bool, text: str, reply: str, **more: Any) -> dict[str, Any]:
    speaker = 1 if spoken else None
    fine = {"speaker": speaker, "answered": True, "problem": None, "first_token_ms": 5.0}
    return {"spoken": spoken, "text": text, "reply": reply, **fine, **more}


def conversation(seed: int) -> dict[str, Any]:
    told, heard = f"you talk with guest {seed}", turn(True, "a mocha", f"coming, {seed}")
    asked = answer([Exchange("a mocha", None, 1, heard["reply"]), Exchange("what did i order")], told)
    return {
        "instructions": told,
        "turns": [heard, turn(False, "what did i order", asked)],
        "unanswered": 0,
        "problems": [],
        "ids": [f"item_{seed}", f"resp_{seed}"],
    }


def found_by(soak: ModuleType, said: Said, readings: list[Any] | None = None, left: list[int] | None = None) -> Any:
    identical, compared = soak.recompute(said, answer)
    steady = [(float(second), 300.0, 0) for second in range(60)]
    numbers = {"identical": identical, "compared": compared, "left": left or [0, 0, 0, 0]}
    return {"readings": readings or steady, **numbers, **soak.judge(said)}


def faults(soak: ModuleType, *found: Any) -> list[str]:
    return [what for what, _, fine in soak.check(found_by(soak, *found)) if not fine]


def test_where_all_is_well_nothing_is_found(soak: ModuleType) -> None:
    said = [conversation(1), conversation(2)]
    assert faults(soak, said) == []
    found = found_by(soak, said)
    assert (found["turns"], found["spoken"], found["names"], found["talked_on"]) == (4, 2, 4, 0)
    assert (found["identical"], found["compared"]) == (2, 2)


def test_what_nobody_answered_is_no_wrong_answer(soak: ModuleType) -> None:
    said = [conversation(1)]
    said[0]["turns"].append(turn(False, "and now", "", answered=False))
    found = found_by(soak, said)
    assert (found["identical"], found["compared"]) == (1, 1)


def test_the_model_is_not_shown_what_was_no_words(soak: ModuleType) -> None:
    said = [conversation(1)]
    said[0]["turns"].insert(0, turn(True, "", ""))
    found = found_by(soak, said)
    assert (found["identical"], found["compared"]) == (1, 1)


def spoil(change: Callable[[Said], object]) -> Said:
    said = deepcopy([conversation(1), conversation(2)])
    change(said)
    return said


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda said: said[0].update(unanswered=1), "turns without an answer"),
        (lambda said: said[0]["turns"][0].update(problem="failed: out of memory"), "replies that failed, errors"),
        (lambda said: said[1]["problems"].append("the connection is gone"), "replies that failed, errors"),
        (lambda said: said[1]["ids"].append("resp_1"), "names told to two conversations"),
        (
            lambda said: said[0]["turns"][1].update(reply=said[1]["turns"][1]["reply"]),
            "typed replies as the model gives them alone",
        ),
    ],
)
def test_each_fault_is_found(soak: ModuleType, change: Callable[[Said], object], fault: str) -> None:
    assert faults(soak, spoil(change)) == [fault]


def test_talking_on_is_no_fault_and_its_history_is_not_compared(soak: ModuleType) -> None:
    said = spoil(lambda said: said[0]["turns"][0].update(problem="cancelled: turn_detected"))
    assert faults(soak, said) == []
    found = found_by(soak, said)
    assert (found["talked_on"], found["compared"]) == (1, 1)


def test_a_soak_in_which_nobody_spoke_proves_nothing(soak: ModuleType) -> None:
    assert faults(soak, []) == ["turns without an answer", "typed replies as the model gives them alone"]


def test_what_is_left_behind_is_found(soak: ModuleType) -> None:
    assert faults(soak, [conversation(1)], None, [0, 0, 0, 1]) == ["left: conversations, utterances, replies, slots"]


@pytest.mark.parametrize(("grown_mib", "flat"), [(0.0, True), (5.9, True), (6.1, False), (-6.1, False), (100.0, False)])
def test_memory_counts_after_the_warm_up(soak: ModuleType, grown_mib: float, flat: bool) -> None:
    """It grows as it likes in the first sixth, and an outlier is none of its middle."""
    readings = [(float(second), 100.0 if second < 100 else 300.0, 0) for second in range(540)]
    readings += [(float(second), 300.0 + grown_mib, 0) for second in range(540, 600)]
    readings[150] = (150.0, 900.0, 0)
    assert soak.memory(readings) == (300.0, 300.0 + grown_mib)
    named = ["memory after the warm-up, at the end"]
    assert faults(soak, [conversation(1)], readings) == ([] if flat else named)
