from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol.errors import ProtocolError
from clients.mqtt import topics
from clients.mqtt.audio import MAX_GAP_SAMPLES, StreamClock
from clients.mqtt.lines import MAX_ANSWERED, MAX_ATTEMPTS, MAX_WAITING, Lines
from clients.mqtt.topics import AudioChunk, Line


@given(start=st.integers(0, 2**64 - 1), samples=st.integers(0, 16_000))
def test_audio_survives_the_way(start: int, samples: int) -> None:
    chunk = AudioChunk(start, bytes(2 * samples))
    assert AudioChunk.decode(chunk.encode()) == chunk


@given(st.binary(max_size=40))
def test_any_bytes_are_audio_or_refused(payload: bytes) -> None:
    try:
        assert AudioChunk.decode(payload).encode() == payload
    except ProtocolError as error:
        assert error.code == "invalid_audio"


@given(st.text(min_size=1, max_size=100).filter(str.strip), st.text(min_size=1, max_size=64))
def test_lines_survive_the_way(text: str, line_id: str) -> None:
    line = Line(line_id, text)
    assert Line.decode(line.encode()) == line


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_a_line_or_refused(payload: bytes) -> None:
    try:
        Line.decode(payload)
    except ProtocolError as error:
        assert error.message


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"hello", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 10_000, "not JSON"),
        (b'"hello"', 'a JSON object like {"text": "hello"}'),
        (b"{}", "text is missing"),
        (b'{"text": 3}', "text must be a string, not 3"),
        (b'{"text": " "}', "text must be something to say"),
        (b'{"text": "\\ud800"}', "valid Unicode"),
        (b'{"text": "' + b"a" * 4_097 + b'"}', "text has 4097 characters; the limit is 4096"),
        (b'{"text": "' + b"a" * 20_000 + b'"}', "has 20012 bytes; the limit is 16384"),
        (b'{"text": "a", "id": ""}', "id must be a string that is not empty"),
        (b'{"text": "a", "id": 7}', "id must be a string"),
        (b'{"text": "a", "id": "' + b"a" * 65 + b'"}', "id has 65 characters; the limit is 64"),
    ],
)
def test_bad_lines_are_named_with_their_fault(payload: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        Line.decode(payload)
    assert complaint in caught.value.message


def test_long_audio_is_refused_by_its_size() -> None:
    with pytest.raises(ProtocolError, match="audio has 32010 bytes; the limit is 32008"):
        AudioChunk.decode(bytes(32_010))


def test_a_line_without_an_id_gets_one() -> None:
    first, second = (Line.decode(b'{"text": "hello"}') for _ in range(2))
    assert first.id and first.id != second.id


@pytest.mark.parametrize("name", ["kitchen", "living-room_2", "A" * 64])
def test_names_of_devices(name: str) -> None:
    assert topics.split(topics.topic(name, "audio")) == (name, "audio")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "empty"),
        ("a" * 65, "65 characters; the limit is 64"),
        ("a/b", "only letters"),
        ("a#", "only letters"),
        ("+", "only letters"),
        ("küche", "only letters"),
        ("a\n", "only letters"),
        ("gateway", "no device may be called"),
    ],
)
def test_names_that_no_device_may_have(name: str, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        topics.check_device(name)


@given(st.text())
def test_any_topic_is_split_or_refused(topic: str) -> None:
    for candidate in (topic, f"wavllm/1/{topic}", f"wavllm/1/{topic}/audio"):
        try:
            device, channel = topics.split(candidate)
            assert topics.topic(device, channel) == candidate
        except ProtocolError as error:
            assert error.code in ("unknown_topic", "invalid_device")


def ramp(start: int, stop: int) -> bytes:
    return np.arange(start, stop).astype("<i2").tobytes()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 500)), min_size=1, max_size=20), st.integers(0, 2**40))
def test_lost_audio_becomes_silence(pieces: list[tuple[bool, int]], origin: int) -> None:
    """Whatever is lost after the first chunk, what was not lost stays where it was."""
    clock, heard, expected, at = StreamClock(), b"", b"", 0
    for lost, samples in [(False, 1), *pieces, (False, 1)]:
        pcm = ramp(at, at + samples)
        expected += bytes(len(pcm)) if lost else pcm
        if not lost:
            heard += clock.in_time(AudioChunk(origin + at, pcm))
        at += samples
    assert heard == expected
    assert clock.lost_samples == sum(samples for lost, samples in pieces if lost)


def test_repeated_audio_is_heard_once() -> None:
    clock = StreamClock()
    pieces = [(0, 10), (5, 15), (0, 15), (15, 20)]
    assert b"".join(clock.in_time(AudioChunk(a, ramp(a, b))) for a, b in pieces) == ramp(0, 20)


@pytest.mark.parametrize("jump", [-MAX_GAP_SAMPLES - 1, MAX_GAP_SAMPLES + 1])
def test_a_large_jump_begins_another_stream(jump: int) -> None:
    clock, origin = StreamClock(), 10**6
    clock.in_time(AudioChunk(origin, ramp(0, 10)))
    assert clock.in_time(AudioChunk(origin + 10 + jump, ramp(0, 10))) == ramp(0, 10)
    assert clock.lost_samples == 0


def test_each_line_is_asked_once_and_its_reply_kept() -> None:
    lines = Lines()
    assert lines.accept(Line("a", "hello"))
    assert not lines.accept(Line("a", "hello"))  # while it waits
    assert lines.ask() == Line("a", "hello")
    assert not lines.accept(Line("a", "hello"))  # while it is asked
    assert lines.reply("a") is None
    lines.answer({"id": "a"})
    assert not lines
    assert not lines.accept(Line("a", "hello"))
    assert lines.reply("a") == {"id": "a"}
    assert not lines
    for number in range(MAX_ANSWERED):
        lines.accept(Line(str(number), "more"))
        lines.ask()
        lines.answer({"id": str(number)})
    assert lines.accept(Line("a", "hello")), "forgotten, so asked anew"


def test_attempts_at_a_line_are_counted() -> None:
    lines = Lines()
    lines.accept(Line("a", "hello"))
    for _ in range(MAX_ATTEMPTS):
        assert not lines.hopeless
        assert lines.ask().id == "a"
    assert lines.hopeless
    with pytest.raises(ValueError, match="no line"):
        Lines().answer({})


def test_too_many_lines_are_refused() -> None:
    lines = Lines()
    for number in range(MAX_WAITING):
        lines.accept(Line(str(number), "hello"))
    with pytest.raises(ProtocolError, match="line 'one more' is refused: 16 lines wait"):
        lines.accept(Line("one more", "hello"))
