"""When the assistant is meant; what the server says is written down here, as are the seconds."""

from __future__ import annotations

from typing import Any

import pytest

from clients.wake import Attention

ANSWER: dict[str, Any] = {"type": "response.create"}


class Server:
    """Does what it is told, and says what happens."""

    def __init__(self, *phrases: str) -> None:
        self.now_s = 100.0
        self.attention = Attention(phrases or ("computer",), lambda: self.now_s, window_s=8)
        self.answers_itself = True
        self.items = 0
        self.obey([self.attention.begin()])

    def obey(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for event in events:
            if event["type"] == "session.update":
                session = event["session"]
                self.answers_itself = session["audio"]["input"]["turn_detection"]["create_response"]
                assert self.attention.take({"type": "session.updated", "session": session}) == []
        return [event for event in events if event["type"] != "session.update"]

    def begin(self) -> None:
        assert self.attention.take({"type": "input_audio_buffer.speech_started"}) == []

    def end(self, text: str, *, failed: bool = False) -> list[dict[str, Any]]:
        self.items += 1
        item = {"item_id": f"item_{self.items}"}
        assert self.attention.take({"type": "input_audio_buffer.committed", **item}) == []
        kind = "conversation.item.input_audio_transcription." + ("failed" if failed else "completed")
        return self.obey(self.attention.take({"type": kind, "transcript": text, **item}))

    def hear(self, text: str) -> list[dict[str, Any]]:
        self.begin()
        return self.end(text)

    def reply(self, sounding_s: int = 0) -> None:
        self.attention.take({"type": "response.done"})
        for _ in range(sounding_s):
            self.now_s += 1
            assert self.attention.tick(True) == []

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.obey(self.attention.tick(False))


def test_somebody_who_was_speaking_to_a_server_that_is_gone_keeps_nobody_awake() -> None:
    server = Server()
    server.hear("computer")
    server.reply()
    server.begin()
    server.wait(60)
    assert server.attention.awake, "one may speak for long"
    server.obey([server.attention.begin()])
    assert not server.attention.awake and not server.answers_itself
    assert server.hear("it is raining") == [{"type": "conversation.item.delete", "item_id": "item_2"}]


def test_who_was_speaking_when_the_server_was_lost_keeps_nobody_awake() -> None:
    server = Server()
    server.hear("computer")
    server.reply()
    server.begin()  # and the server is gone
    server.obey([server.attention.begin()])
    assert server.answers_itself, "the window is still open"
    server.wait(9)
    assert not server.attention.awake and not server.answers_itself


def test_what_is_not_meant_is_forgotten() -> None:
    server = Server()
    assert not server.answers_itself
    assert server.hear("it is raining") == [{"type": "conversation.item.delete", "item_id": "item_1"}]
    assert server.hear("my computer is slow") == [{"type": "conversation.item.delete", "item_id": "item_2"}]
    assert not server.attention.awake


def test_a_call_is_answered_and_for_a_while_no_other_is_needed() -> None:
    server = Server()
    assert server.hear("Computer, a latte!") == [ANSWER]
    assert server.answers_itself
    server.reply(sounding_s=30)
    server.wait(7)
    assert server.hear("three") == [], "the server answers by itself"
    server.reply()
    server.wait(9)
    assert not server.answers_itself
    assert server.hear("two")[0]["type"] == "conversation.item.delete"
    assert server.hear("computer") == [ANSWER]


def test_whoever_began_in_time_may_end_later() -> None:
    server = Server()
    server.hear("computer")
    server.wait(7)
    server.begin()
    server.wait(10)
    assert server.attention.awake
    assert server.end("a very long order") == []


def test_a_turn_that_crosses_the_end_of_the_window_is_answered_once() -> None:
    """The server was told to answer nothing more before it told that somebody speaks."""
    server = Server()
    server.hear("computer")
    server.now_s += 7.9
    server.begin()
    server.attention.take(
        {"type": "session.updated", "session": {"audio": {"input": {"turn_detection": {"create_response": False}}}}}
    )
    assert server.end("three") == [ANSWER]


def test_a_transcript_that_fails_is_no_call() -> None:
    server = Server()
    server.begin()
    assert server.end("", failed=True) == [{"type": "conversation.item.delete", "item_id": "item_1"}]


def test_any_phrase_will_do() -> None:
    server = Server("Hey, Jarvis", "alexa")
    assert server.hear("hey jarvis what time is it") == [ANSWER]
    with pytest.raises(ValueError, match="at least one letter"):
        Attention(["?!"], lambda: 0)
