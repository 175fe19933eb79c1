"""One reply aloud: sentences go to the voice, audio comes out in small chunks at the pace of a listener.

Knows a voice and a clock; events, history and client are for whoever iterates.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.errors import VoiceError
from agent.speech.voice import BYTES_PER_S, Voice

CHUNK_BYTES: Final = BYTES_PER_S // 10  # of one event; so much may still be sent after an interruption
QUIET: Final = 16  # of 32768; what is not louder is a pause
MAX_SENTENCE_S: Final = 60  # of audio; a voice that makes more has gone wrong


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """What the operator decides about speaking."""

    voice: Voice
    timeout_s: float  # without audio, after which the voice counts as failed
    lead_s: float  # that audio is sent ahead of its playing


@dataclass(frozen=True, slots=True)
class SentenceBegun:
    """What is spoken next."""

    text: str


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """More of the sentence."""

    pcm: bytes  # 16-bit mono at the rate of voices


@dataclass(frozen=True, slots=True)
class SentenceMade:
    """How long the sentence is, without the pause after it; known early, as voices are faster than listeners."""

    samples: int  # 0: there is nothing to hear


@dataclass(frozen=True, slots=True)
class VoiceLost:
    """The voice failed; what follows of this reply is text alone."""

    why: str


Spoken = SentenceBegun | AudioChunk | SentenceMade | VoiceLost


class Pace:
    """Sees to it that audio is never sent more than `lead_s` ahead of a client that plays it as it comes."""

    def __init__(self, lead_s: float) -> None:
        self._lead_s = lead_s
        self._played_s = float("-inf")  # when the client will have played all

    def wait_s(self, now_s: float, seconds: float) -> float:
        """How long to wait before so much more audio may be sent."""
        return max(0.0, max(self._played_s, now_s) + seconds - now_s - self._lead_s)

    def sent(self, now_s: float, seconds: float) -> None:
        self._played_s = max(self._played_s, now_s) + seconds

    def left_s(self, now_s: float) -> float:
        """What the client still has to play."""
        return max(0.0, self._played_s - now_s)

    def drop(self) -> None:
        """The client plays no more of what it has."""
        self._played_s = float("-inf")


async def speak(
    sentences: AsyncIterable[str], options: SpeechOptions, pace: Pace, clock: Callable[[], float]
) -> AsyncGenerator[Spoken, None]:
    """Speak one sentence after the other; the voice is asked for the next when all of one was sent.

    All sentences come, whatever the voice does; after each its length, and before or after that its audio.
    Whoever iterates has sent a chunk when asking for the next.
    """
    lost = False
    async for text in sentences:
        yield SentenceBegun(text)
        waiting: deque[bytes] = deque()  # bounded by MAX_SENTENCE_S
        made_samples, sounding_samples, failure = 0, 0, None
        if not lost and any(character.isalnum() for character in text):
            try:
                async with aclosing(_made(text, options)) as pieces:
                    async for pcm in pieces:
                        sounding_samples = made_samples + loud if (loud := _last_loud(pcm)) else sounding_samples
                        made_samples += len(pcm) // 2
                        waiting.extend(_chunks(pcm))
                        while waiting and not pace.wait_s(clock(), _seconds(waiting[0])):
                            yield AudioChunk(waiting[0])
                            pace.sent(clock(), _seconds(waiting.popleft()))
            except VoiceError as error:
                lost, failure = True, str(error)
        yield SentenceMade(sounding_samples)
        while waiting:
            await asyncio.sleep(pace.wait_s(clock(), _seconds(waiting[0])))
            yield AudioChunk(waiting[0])
            pace.sent(clock(), _seconds(waiting.popleft()))
        if failure is not None:
            yield VoiceLost(failure)


async def _made(text: str, options: SpeechOptions) -> AsyncGenerator[bytes, None]:
    """What the voice makes of a sentence. Raises VoiceError, also when that takes too long or never ends."""
    left_bytes = MAX_SENTENCE_S * BYTES_PER_S
    async with aclosing(options.voice.speak(text)) as pieces:
        while pcm := await _next(pieces, options.timeout_s):
            left_bytes -= len(pcm)
            if left_bytes < 0:
                raise VoiceError(f"the voice spoke for more than {MAX_SENTENCE_S} s about one sentence")
            yield pcm


async def _next(pieces: AsyncGenerator[bytes, None], timeout_s: float) -> bytes:
    """The next piece; empty at the end."""
    try:
        async with asyncio.timeout(timeout_s):
            return await anext(pieces, b"")
    except TimeoutError as error:
        raise VoiceError(f"the voice gave no audio for {timeout_s:g} s") from error


def _last_loud(pcm: bytes) -> int:
    """How many samples there are up to the last that can be heard."""
    loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2").astype(np.int32)) > QUIET)
    return int(loud[-1]) + 1 if len(loud) else 0


def _chunks(pcm: bytes) -> Iterator[bytes]:
    return (pcm[start : start + CHUNK_BYTES] for start in range(0, len(pcm), CHUNK_BYTES))


def _seconds(pcm: bytes) -> float:
    return len(pcm) / BYTES_PER_S
