"""Which responses there are: the table, line by line, and any order of what may happen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol.errors import ProtocolError
from agent.protocol.response_create import ResponseCreate
from agent.protocol.settings import SessionSettings
from agent.sessions.response import ReplyDue, ReplyPlan
from agent.sessions.stage import (
    MAX_BESIDE,
    Abandoned,
    Asked,
    Begin,
    Cancelled,
    End,
    Hush,
    Keep,
    LetGo,
    Over,
    Settled,
    SpokenInto,
    Stage,
    StageEffect,
    StageEvent,
    TakenUp,
    Truncated,
    advance,
    check,
)
from wavllm_core.engine.api import Sampling

DUE = ReplyDue(SessionSettings(), 0.0)
FAILED = ReplyDue(SessionSettings(), 0.0, failure="nothing was heard")
BESIDE = ReplyDue(SessionSettings(), 0.0, overrides=ResponseCreate(out_of_band=True))
REST = ReplyPlan(DUE, [], "", [], Sampling(), None, (), True, (0, 0), None, "root")
NOISE, WORDS = SpokenInto(True, 0.0, False), SpokenInto(False, 0.0, False)
LATE = SpokenInto(True, 1.5, False)  # while the end of a reply is still heard
SAID = Over("a", spoken=True)


def begun(name: str, due: ReplyDue = DUE) -> Begin:
    return Begin(name, due)


def cancelled(name: str, reason: str = "client_cancelled", *, keep_draft: bool = False) -> End:
    return End(name, "cancelled", reason, keep_draft=keep_draft)


def run(*events: StageEvent) -> list[StageEffect]:
    stage, effects = Stage(), list[StageEffect]()
    for event in events:
        stage, what = advance(stage, event)
        effects += what
    return effects


CUT = [Hush(), cancelled("a", "turn_detected", keep_draft=True), Keep("a", 0.0, False)]


@pytest.mark.parametrize(
    ("events", "effects"),
    [
        ([Asked("a", DUE), Over("a")], [begun("a"), End("a", "completed")]),
        ([Asked("a", DUE), Asked("b", DUE), Over("a")], [begun("a"), End("a", "completed"), begun("b")]),
        (  # what is owed is the newest
            [Asked("a", DUE), Asked("b", DUE), Asked("c", DUE), Cancelled(None)],
            [begun("a"), cancelled("a"), begun("c")],
        ),
        ([Asked("a", FAILED)], [begun("a", FAILED), End("a", "failed", failure="nothing was heard")]),
        (
            [Asked("a", DUE), Asked("b", FAILED), Over("a"), Asked("c", DUE)],
            [
                *[begun("a"), End("a", "completed"), begun("b", FAILED)],
                *[End("b", "failed", failure="nothing was heard"), begun("c")],
            ],
        ),
        (
            [Asked("a", DUE), Asked("b", BESIDE), Cancelled("b"), Over("b"), Over("a")],
            [begun("a"), begun("b", BESIDE), cancelled("b"), End("a", "completed")],
        ),
        ([Asked("a", DUE), Truncated("a"), Cancelled("a"), Cancelled(None)], [begun("a"), cancelled("a")]),
        ([Asked("a", DUE), Asked("b", DUE), WORDS], [begun("a"), Hush(), cancelled("a", "turn_detected")]),
        ([Asked("a", DUE), NOISE, TakenUp("b", REST)], [begun("a"), *CUT, Begin("b", REST, resumes="a")]),
        ([Asked("a", DUE), NOISE, Settled(), TakenUp("b", REST)], [begun("a"), *CUT, LetGo()]),
        ([Asked("a", DUE), NOISE, Asked("b", DUE)], [begun("a"), *CUT, LetGo(), begun("b")]),
        ([Asked("a", DUE), NOISE, NOISE, WORDS], [begun("a"), *CUT, Hush(), Hush(), LetGo()]),
        ([Asked("a", DUE), SAID, LATE], [begun("a"), End("a", "completed"), Hush(), Keep("a", 1.5, False)]),
        ([Asked("a", DUE), SAID, NOISE], [begun("a"), End("a", "completed"), Hush()]),  # it was played to its end
        ([Asked("a", DUE), Over("a"), LATE], [begun("a"), End("a", "completed"), Hush()]),  # it was in writing
        (
            [Asked("a", DUE), Asked("b", BESIDE), NOISE, Abandoned("time"), Over("a"), Over("b")],
            [begun("a"), begun("b", BESIDE), *CUT, LetGo(), End("b", "failed", failure="time")],
        ),
    ],
)
def test_the_table(events: Sequence[StageEvent], effects: Sequence[StageEffect]) -> None:
    assert run(*events) == effects


def test_who_truncates_may_say_so_twice_until_another_one_begins() -> None:
    stage = Stage()
    for event in (Asked("a", DUE), Truncated("a"), Cancelled("a"), Asked("b", DUE), Over("b")):
        stage, _ = advance(stage, event)
    with pytest.raises(ProtocolError, match="response a is active"):
        advance(stage, Cancelled("a"))


@pytest.mark.parametrize("named", [None, "a", "b"])
def test_nothing_can_be_cancelled_that_is_not_under_way(named: str | None) -> None:
    over, _ = advance(advance(Stage(), Asked("a", DUE))[0], Over("a"))
    with pytest.raises(ProtocolError, match=f"response {named} is active" if named else "no response is active"):
        advance(over, Cancelled(named))


def test_a_client_has_one_response_in_the_conversation_and_some_beside_it() -> None:
    stage = Stage()
    for number in range(MAX_BESIDE):
        check(stage, beside=True)
        stage, _ = advance(stage, Asked(str(number), BESIDE))
    with pytest.raises(ProtocolError, match=f"{MAX_BESIDE} responses outside"):
        check(stage, beside=True)
    check(stage, beside=False)
    stage, _ = advance(stage, Asked("a", DUE))
    with pytest.raises(ProtocolError, match="response a is still active"):
        check(stage, beside=False)


NAMES = st.sampled_from("abcde")
HAPPENINGS = st.one_of(
    st.sampled_from([DUE, FAILED, BESIDE]),
    st.builds(Over, NAMES, spoken=st.booleans()),
    st.builds(Cancelled, st.none() | NAMES),
    st.builds(Truncated, NAMES),
    st.builds(SpokenInto, st.booleans(), st.sampled_from([0.0, 1.0]), st.booleans()),
    st.just(REST),
    st.just(Settled()),
    st.just(Abandoned("time")),
)


@given(st.lists(HAPPENINGS, max_size=30))
def test_any_order(happenings: Sequence[StageEvent | ReplyDue | ReplyPlan]) -> None:
    stage, kept = Stage(), None
    begun, ended, inside = set[str](), set[str](), set[str]()
    for number, happening in enumerate(happenings):
        try:
            stage, effects = advance(stage, named(happening, f"new {number}", stage))
        except ProtocolError:
            assert isinstance(happening, Cancelled)
            continue
        for effect in effects:
            match effect:
                case Begin(name, what, resumes):
                    assert name not in begun, "one begins once"
                    begun.add(name)
                    if what is not BESIDE:
                        assert inside <= ended, "one at a time in the conversation"
                        inside.add(name)
                    assert resumes in (None, kept)
                    kept = None if resumes else kept
                case End(name):
                    assert name in begun - ended, "one ends once, after its beginning"
                    ended.add(name)
                case Keep(name):
                    assert name in ended and kept is None, "what is kept is over, and alone"
                    kept = name
                case LetGo():
                    assert kept is not None, "nothing is let go that is not kept"
                    kept = None
        assert stage.under_way == begun - ended
        assert stage.kept == kept
        assert stage.owed is None or stage.active
    _, effects = advance(stage, Abandoned("time"))
    assert {effect.response_id for effect in effects if isinstance(effect, End)} == begun - ended


def named(happening: StageEvent | ReplyDue | ReplyPlan, new: str, stage: Stage) -> StageEvent:
    """With a name that nobody has, or in place of a letter of one that is under way."""
    names = sorted(stage.under_way) or ["nobody"]
    match happening:
        case ReplyDue():
            return Asked(new, happening)
        case ReplyPlan():
            return TakenUp(new, happening)
        case Over(letter) | Truncated(letter) | Cancelled(str(letter)):
            return replace(happening, response_id=names["abcde".index(letter) % len(names)])
    return happening
