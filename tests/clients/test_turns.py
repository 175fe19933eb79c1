from __future__ import annotations

import io

from rich.console import Console

from clients.display import turn_lines
from clients.realtime import Event
from clients.turns import Latency, TurnLog
from tests.clients.scripted_server import answer, spoken_turn

STARTED = {"type": "input_audio_buffer.speech_started", "item_id": "item_1"}


def log_of(events: list[Event]) -> TurnLog:
    log = TurnLog()
    for event in events:
        log.apply(event)
    return log


def test_a_turn_is_complete_in_either_order() -> None:
    late = spoken_turn(1, "computer", "yes")
    early = late[:3] + late[-1:] + late[4:-1]
    for events in (late, early):
        log = log_of([STARTED, *events[:-1]])
        assert not log.settled
        log.apply(events[-1])
        (turn,) = log.turns
        assert log.settled
        assert (turn.transcript, turn.reply, turn.speaker) == ("computer", "yes", "speaker 1")
        assert turn.latency == Latency(100.0, 20.0, 50.0)


def test_transcripts_may_begin_before_the_commit() -> None:
    events = spoken_turn(1, "computer", "yes")
    log = log_of([STARTED, events[3]])
    assert log.turns[0].transcript == "com"
    assert not log.settled
    for event in events[:3] + events[4:]:
        log.apply(event)
    assert log.settled
    assert [turn.transcript for turn in log.turns] == ["computer"]


def test_speech_under_way_is_not_settled() -> None:
    log = log_of([*spoken_turn(1, "computer", "yes"), STARTED])
    assert not log.settled


def test_an_interrupted_reply_keeps_what_was_said_and_why_it_ended() -> None:
    events = spoken_turn(1, "computer", "yes")
    cut = {"status": "cancelled", "id": "resp_1", "status_details": {"reason": "turn_detected"}}
    (turn,) = log_of([*events[:6], {"type": "response.done", "response": cut}]).turns
    assert turn.reply == "y"
    assert turn.problem == "cancelled: turn_detected"
    assert turn.latency is None


def test_failures_and_errors_are_kept() -> None:
    failed = "conversation.item.input_audio_transcription.failed"
    log = log_of(
        [
            {"type": "input_audio_buffer.committed", "item_id": "item_1"},
            {"type": failed, "item_id": "item_1", "error": {"message": "too noisy"}},
            {"type": "error", "error": {"message": "odd byte count"}},
        ]
    )
    assert log.turns[0].problem == "too noisy"
    assert log.problems == ["odd byte count"]


def test_a_typed_turn_needs_no_transcript() -> None:
    log = TurnLog()
    log.typed("hello")
    assert not log.settled
    for event in answer("resp_1", "hi"):
        log.apply(event)
    assert log.settled
    assert log.turns[0].reply == "hi"


def test_unknown_events_and_foreign_responses_pass_by() -> None:
    assert log_of([{"type": "rate_limits.updated"}, *answer("resp_9", "out of band")]).turns == []


def test_messages_of_one_response_do_not_run_into_each_other() -> None:
    part = {"type": "response.content_part.added", "response_id": "resp_1"}
    created, *deltas, done = answer("resp_1", "ab")
    log = TurnLog()
    log.typed("hello")
    for event in [created, part, deltas[0], part, deltas[1], done]:
        log.apply(event)
    assert log.turns[0].reply == "a b"


def test_what_the_assistant_says_by_itself_is_shown_alone() -> None:
    log = log_of(spoken_turn(1, "computer", "yes"))
    created, *rest = answer("resp_2", "Tea is over.")
    created["response"]["conversation_id"] = "conv_1"
    for event in [created, *rest]:
        log.apply(event)
    console = Console(file=io.StringIO(), width=80)
    console.print(turn_lines(log.turns[1]))
    assert log.settled
    shown = console.file.getvalue().split("\n")  # type: ignore[attr-defined]
    assert [" ".join(line.split()) for line in shown if line] == [
        "assistant Tea is over.",
        "VAD wait 100 ms · first token 20 ms · total 50 ms",
    ]


def test_one_response_answers_all_that_was_spoken_before_it() -> None:
    """Several turns into one reply, of which nobody knows at once whether they were words."""
    committed, heard = ([spoken_turn(number, "", "yes")[place] for number in (1, 2)] for place in (1, -1))
    log = log_of([*committed, *heard, *answer("resp_1", "yes")])
    assert log.settled
    assert [turn.reply for turn in log.turns] == ["", "yes"]


def test_calls_that_the_server_has_answered_are_shown_with_what_came_of_them() -> None:
    created, *rest = answer("resp_1", "Sorry.")
    told = {"type": "wavllm.function", "response_id": "resp_1", "name": "brew"}
    log = TurnLog()
    log.typed("coffee")
    refused = told | {"status": "failed", "error": {"code": "not_allowed", "message": "brew is only for Anna"}}
    for event in [created, told | {"status": "in_progress"}, refused, told | {"status": "completed"}, *rest]:
        log.apply(event)
    assert log.turns[0].calls == ["brew: brew is only for Anna", "brew: done"]
    console = Console(file=io.StringIO(), width=80)
    console.print(turn_lines(log.turns[0]))
    assert "function  brew: brew is only for Anna" in console.file.getvalue()  # type: ignore[attr-defined]
