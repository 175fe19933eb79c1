from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.speech.speaking import (
    CHUNK_BYTES,
    MAX_SENTENCE_S,
    AudioChunk,
    Pace,
    SentenceBegun,
    SentenceMade,
    SpeechOptions,
    Spoken,
    VoiceLost,
    speak,
)
from agent.speech.voice import BYTES_PER_S, Voice
from tests.agent.scripted import ScriptedVoice


async def texts(*sentences: str) -> AsyncGenerator[str, None]:
    for sentence in sentences:
        yield sentence


async def spoken(voice: Voice, *sentences: str, timeout_s: float = 5) -> list[Spoken]:
    """All that is said, at a time that stands still, with a lead that holds all of it."""
    async with aclosing(speak(texts(*sentences), SpeechOptions(voice, timeout_s, 1e6), Pace(1e6), lambda: 0)) as pieces:
        return [piece async for piece in pieces]


class Endless:
    """Never stops, in pieces of ten seconds."""

    name = "endless"
    closed = False

    async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield bytes(10 * BYTES_PER_S)
        finally:
            self.closed = True


async def test_sentences_their_audio_and_their_lengths() -> None:
    found = await spoken(ScriptedVoice(), "One. ", "... ", "Two.")
    chunks = [piece.pcm for piece in found if isinstance(piece, AudioChunk)]
    assert b"".join(chunks) == ScriptedVoice.sound("One. Two.")
    assert max(map(len, chunks)) <= CHUNK_BYTES
    assert [piece for piece in found if not isinstance(piece, AudioChunk)] == [
        SentenceBegun("One. "),
        SentenceMade(5 * ScriptedVoice.CHAR_SAMPLES),
        SentenceBegun("... "),
        SentenceMade(0),
        SentenceBegun("Two."),
        SentenceMade(4 * ScriptedVoice.CHAR_SAMPLES),
    ]


async def test_the_pause_after_a_sentence_is_played_but_is_no_part_of_it() -> None:
    class Pausing(ScriptedVoice):
        async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
            yield bytes(2 * 100) + self.sound("a") + bytes(2 * 10)
            yield bytes(2 * 5_000)

    found = await spoken(Pausing(), "a")
    assert SentenceMade(100 + ScriptedVoice.CHAR_SAMPLES) in found
    sent = sum(len(piece.pcm) for piece in found if isinstance(piece, AudioChunk))
    assert sent == 2 * (100 + ScriptedVoice.CHAR_SAMPLES + 10 + 5_000)


async def test_a_voice_that_never_stops_is_stopped() -> None:
    voice = Endless()
    found = await spoken(voice, "One. ", "Two.")
    assert sum(len(piece.pcm) for piece in found if isinstance(piece, AudioChunk)) == MAX_SENTENCE_S * BYTES_PER_S
    (lost,) = [piece for piece in found if isinstance(piece, VoiceLost)]
    assert f"more than {MAX_SENTENCE_S} s" in lost.why
    assert found[-2:] == [SentenceBegun("Two."), SentenceMade(0)]
    assert voice.closed


async def test_a_long_sentence_is_made_at_once_and_sent_when_it_is_due() -> None:
    """The voice is done, and its process gone, long before the listener is."""
    voice = ScriptedVoice()
    now_s = 0.0
    pace = Pace(0.2)
    async with aclosing(speak(texts("x" * 100), SpeechOptions(voice, 5, 0.2), pace, lambda: now_s)) as pieces:
        sent_s = 0.0
        async for piece in pieces:
            if isinstance(piece, SentenceMade):
                assert voice.running == 0
                assert sent_s <= 0.2 + 1e-9
                now_s = 10.0  # everything is due
            elif isinstance(piece, AudioChunk):
                sent_s += len(piece.pcm) / BYTES_PER_S
    assert sent_s == pytest.approx(1.0)


async def test_closing_closes_the_voice_at_once() -> None:
    voice = ScriptedVoice()
    pieces = speak(texts("One. ", "Two."), SpeechOptions(voice, 5, 1e6), Pace(1e6), lambda: 0)
    async with asyncio.timeout(5), aclosing(pieces):
        while not isinstance(await anext(pieces), AudioChunk):
            pass
        assert voice.running == 1
    assert voice.running == 0
    with pytest.raises(StopAsyncIteration):
        await anext(pieces)


async def test_a_surprise_in_a_voice_is_no_failure_to_speak() -> None:
    class Broken(ScriptedVoice):
        async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
            yield b"\0\0"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await spoken(Broken(), "One.")


@given(
    lead_s=st.floats(0.2, 5),
    steps=st.lists(st.tuples(st.floats(0.001, 0.1), st.floats(0, 3)), min_size=1, max_size=60),
)
def test_nothing_is_ever_sent_further_ahead_than_the_lead(lead_s: float, steps: list[tuple[float, float]]) -> None:
    """A client plays what it has without a pause; each step is a chunk, and time lost before it."""
    pace, now_s, plays_until_s = Pace(lead_s), 100.0, 100.0
    for seconds, lost_s in steps:
        now_s += lost_s
        wait_s = pace.wait_s(now_s, seconds)
        ahead_s = max(plays_until_s, now_s) - now_s
        assert wait_s == pytest.approx(max(0.0, ahead_s + seconds - lead_s), abs=1e-6)
        now_s += wait_s
        pace.sent(now_s, seconds)
        plays_until_s = max(plays_until_s, now_s) + seconds
        assert plays_until_s - now_s <= lead_s + 1e-6


def test_what_the_client_drops_is_not_waited_for() -> None:
    pace = Pace(1.0)
    pace.sent(0, 0.9)
    assert pace.wait_s(0, 0.5) == pytest.approx(0.4)
    pace.drop()
    assert pace.wait_s(0, 0.5) == 0
