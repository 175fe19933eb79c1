"""Who has the floor: the table, line by line, and any order of what may happen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sessions.floor import (
    Answer,
    Began,
    Commit,
    Dropped,
    Ended,
    Floor,
    FloorEffect,
    FloorEvent,
    Ignore,
    Known,
    Lasted,
    LetGo,
    Resume,
    Scene,
    SetAside,
    TakenOver,
    Tell,
    Worded,
    advance,
)

QUIET = Scene(interrupts=True, holds=True, resumes=True, replying=False, resumable=False)
REPLYING = replace(QUIET, replying=True, resumable=True)
AT_ONCE = replace(REPLYING, holds=False)
STANDARD = replace(AT_ONCE, resumes=False)
CUT = replace(QUIET, resumable=True)  # after an interruption
ANSWER, WAIT = Commit(None, "answer"), Commit(None, "wait")
IGNORED, RESUMED = Commit(False, "wait"), Commit(False, "resume")


def run(*steps: tuple[Scene, FloorEvent]) -> list[FloorEffect]:
    floor, effects = Floor(), []
    for scene, event in steps:
        floor, what = advance(scene, floor, event)
        effects += what
    return effects


@pytest.mark.parametrize(
    ("steps", "effects"),
    [
        ([(QUIET, Began()), (QUIET, Ended("a", None))], [Tell(), ANSWER]),
        ([(STANDARD, Began()), (QUIET, Ended("a", False))], [Tell(), ANSWER]),
        ([(AT_ONCE, Began()), (CUT, Ended("a", True))], [Tell(), ANSWER]),
        ([(AT_ONCE, Began()), (CUT, Ended("a", False))], [Tell(), RESUMED]),
        (
            [(AT_ONCE, Began()), (CUT, Ended("a", None)), (CUT, Known("a", True))],
            [Tell(), WAIT, LetGo(), Answer()],
        ),
        (
            [(AT_ONCE, Began()), (CUT, Ended("a", None)), (CUT, Known("a", False))],
            [Tell(), WAIT, SetAside("a"), Resume()],
        ),
        ([(REPLYING, Began()), (REPLYING, Ended("a", False))], [Ignore()]),
        ([(REPLYING, Began()), (REPLYING, Ended("a", None))], [Tell(), WAIT]),
        ([(REPLYING, Began()), (REPLYING, Ended("a", True))], [Tell(), ANSWER]),
        ([(REPLYING, Began()), (QUIET, Ended("a", False))], [Tell(), ANSWER]),  # it was said to the end meanwhile
        ([(REPLYING, Began()), (REPLYING, Lasted()), (CUT, Ended("a", False))], [Tell(), RESUMED]),
        ([(REPLYING, Began()), (REPLYING, Worded()), (CUT, Ended("a", False))], [Tell(), ANSWER]),
        ([(AT_ONCE, Began()), (CUT, Worded()), (CUT, Ended("a", False))], [Tell(), LetGo(), ANSWER]),
        ([(REPLYING, Began()), (REPLYING, Dropped()), (QUIET, Began())], [LetGo(), Tell()]),
        ([(REPLYING, Began()), (REPLYING, TakenOver()), (QUIET, Ended("a", None))], [LetGo(), Tell(), ANSWER]),
        ([(AT_ONCE, Began()), (CUT, TakenOver()), (QUIET, Known("a", False))], [Tell(), LetGo()]),
        (  # the first was words, so that the second is answered, too
            [
                *[(AT_ONCE, Began()), (CUT, Ended("a", None)), (CUT, Began())],
                *[(CUT, Known("a", True)), (QUIET, Ended("b", False))],
            ],
            [Tell(), WAIT, Tell(), LetGo(), ANSWER],
        ),
        (  # neither was
            [
                *[(AT_ONCE, Began()), (CUT, Ended("a", None)), (CUT, Began())],
                *[(CUT, Ended("b", False)), (CUT, Known("a", False))],
            ],
            [Tell(), WAIT, Tell(), IGNORED, SetAside("a"), Resume()],
        ),
    ],
)
def test_what_follows(steps: list[tuple[Scene, FloorEvent]], effects: list[FloorEffect]) -> None:
    assert run(*steps) == effects


SCENES = st.builds(
    Scene,
    interrupts=st.booleans(),
    holds=st.booleans(),
    resumes=st.booleans(),
    replying=st.booleans(),
    resumable=st.booleans(),
)


@given(st.lists(st.tuples(SCENES, st.sampled_from(["speech", "lasted", "worded", "known", "drop", "take"]), st.data())))
def test_every_turn_is_told_once_and_followed_by_one_thing(steps: list[tuple[Scene, str, st.DataObject]]) -> None:
    floor, unread, owed = Floor(), list[str](), 0
    for number, (scene, what, data) in enumerate(steps):
        event: FloorEvent
        if what == "speech":
            words = data.draw(st.sampled_from([True, False, None]))
            event = Began() if floor.speech == "none" else Ended(f"item {number}", words)
        elif what == "known" and unread:
            event = Known(unread.pop(data.draw(st.integers(0, len(unread) - 1))), data.draw(st.booleans()))
        else:
            event = {"drop": Dropped(), "take": TakenOver(), "lasted": Lasted()}.get(what, Worded())
        before = floor
        floor, effects = advance(scene, floor, event)
        tells, ends = effects.count(Tell()), [e for e in effects if isinstance(e, Commit | Ignore)]
        assert tells == (floor.speech == "told" and before.speech != "told") + (
            before.speech == "held" and any(isinstance(e, Commit) for e in ends)
        )
        assert len(ends) == isinstance(event, Ended)
        if Tell() in effects or event in (TakenOver(),):
            owed = 0  # what is said now comes in its place
        if isinstance(event, Ended) and isinstance(ends[0], Commit):
            unread += [event.item_id] if ends[0].then == "wait" and event.words is None else []
            owed = ends[0].then == "wait"
        settled = sum(isinstance(effect, Answer | Resume) for effect in effects)
        assert settled <= owed
        owed -= settled
        assert floor.owes == bool(owed)
        assert not (floor.owes and not floor.unread), "nobody is going to settle it"
