"""A model that answers by rule: what it hears is told by how loud it is.

Voice n of these tests is a constant of n × LOUDNESS; its transcript is "voice n for so many ms".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt

from agent.errors import VoiceError
from wavllm_core.engine.api import Exchange, Heard, PromptUsage, Sampling, Written
from wavllm_core.engine.load import Load, Spread
from wavllm_core.errors import CapacityError, CoreError

LOUDNESS = 3_000


def speech(ms: int, voice: int = 1, rate: int = 16_000) -> bytes:
    """PCM that the scripted detector takes for speech."""
    return np.full(ms * rate // 1000, voice * LOUDNESS, "<i2").tobytes()


def silence(ms: int, rate: int = 16_000) -> bytes:
    return bytes(2 * (ms * rate // 1000))


class LoudnessVad:
    """Takes whatever is loud for speech."""

    lag_samples = 0

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def is_speech(self, frame: bytes) -> bool:
        return int(np.abs(np.frombuffer(frame, "<i2").astype(np.int32)).max()) > LOUDNESS // 2


class ScriptedUtterance:
    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine
        self.chunks: list[npt.NDArray[np.float32]] = []
        self.heard: Heard | None = None

    def push(self, waveform: npt.NDArray[np.float32]) -> None:
        if not self.chunks:
            self.engine.listened.append(self)
        self.chunks.append(waveform)
        self.heard = None

    async def hear(self) -> Heard:
        while self not in self.engine.listened[: self.engine.seats]:
            self.engine.left.clear()
            await self.engine.left.wait()
        if self.engine.deaf:
            raise CoreError("the encoder is out of order")
        if self.heard:
            return self.heard
        waveform = np.concatenate(self.chunks)
        self.engine.heard.append(waveform)
        vector = np.zeros(8, np.float32)
        vector[min(voice_of(waveform), len(vector) - 1)] = 1
        self.heard = Heard(waveform, vector, len(waveform) / 16_000)
        return self.heard

    def cancel(self) -> None:
        self.engine.open.discard(self)
        self.engine.listened = [other for other in self.engine.listened if other is not self]
        self.engine.left.set()


class ScriptedContext:
    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine

    def open_utterance(self) -> ScriptedUtterance:
        utterance = ScriptedUtterance(self.engine)
        self.engine.open.add(utterance)
        return utterance

    def prepare(self, instructions: str, history: Sequence[Exchange]) -> None:
        self.engine.prepared.append((instructions, list(history)))

    def speculate(self, instructions: str, history: Sequence[Exchange], sampling: Sampling) -> None:
        self.engine.speculated.append((instructions, list(history), sampling))

    def reply(self, instructions: str, history: Sequence[Exchange], sampling: Sampling) -> AsyncGenerator[str, None]:
        return self.engine.reply(instructions, history, sampling)

    def prompt_usage(self) -> PromptUsage | None:
        return self.engine.usage

    def close(self) -> None:
        self.engine.open.discard(self)


class ScriptedEngine:
    """Counts what is open, so that a test can see what was left behind."""

    def __init__(self) -> None:
        self.open: set[ScriptedUtterance | ScriptedContext] = set()
        self.prepared: list[tuple[str, list[Exchange]]] = []
        self.speculated: list[tuple[str, list[Exchange], Sampling]] = []
        self.full = self.dead = False
        self.spreads: dict[str, Spread] = {}
        self.usage: PromptUsage | None = None  # that is told of every reply
        self.running = 0  # replies and transcripts under way
        self.seats = 1_000  # utterances that are listened to at a time; the others wait in their order
        self.listened: list[ScriptedUtterance] = []  # that have audio, oldest first
        self.left = asyncio.Event()  # one of them has
        self.heard: list[npt.NDArray[np.float32]] = []
        self.asked: list[tuple[str, list[Exchange], Sampling]] = []
        self.replies: list[list[str]] = []  # that are said once each, before all others
        self.words: list[str] | None = None  # of every reply; None: it depends on the question
        self.go_on = asyncio.Event()  # a reply waits for it after its first word
        self.go_on.set()
        self.pencil = asyncio.Event()  # a transcript waits for it
        self.pencil.set()
        self.deaf = self.mute = self.cannot_write = False
        self.written: str | None = None  # every transcript; None: it tells the voice
        self.logprob = 0.0  # of each piece of one

    def open_context(self) -> ScriptedContext:
        if self.full:
            raise CapacityError("the engine holds 0 conversations; more are not possible")
        context = ScriptedContext(self)
        self.open.add(context)
        return context

    async def transcribe(self, heard: Heard) -> AsyncGenerator[Written, None]:
        self.running += 1
        try:
            await self.pencil.wait()
            if self.written is not None:
                yield Written(self.written, self.logprob)
                return
            yield Written(f"voice {voice_of(heard.speech_embeds)} ", self.logprob)
            if self.cannot_write:
                raise CoreError("the pencil is broken")
            yield Written(f"for {round(1000 * heard.seconds)} ms", self.logprob)
        finally:
            self.running -= 1

    async def reply(
        self, instructions: str, history: Sequence[Exchange], sampling: Sampling
    ) -> AsyncGenerator[str, None]:
        self.asked.append((instructions, list(history), sampling))
        words = [f"answer {len(history)}", " to ", history[-1].text or "speech"] if self.words is None else self.words
        self.running += 1
        try:
            for number, word in enumerate(self.replies.pop(0) if self.replies else words):
                if number == 1:
                    await self.go_on.wait()
                    if self.mute:
                        raise CoreError("out of memory")
                yield word
        finally:
            self.running -= 1

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    async def load_figures(self) -> Load:
        if self.dead:
            raise CoreError("the engine is closed")
        return Load(*[0] * (len(fields(Load)) - 1), spreads=self.spreads)

    async def close(self) -> None:
        pass


def voice_of(waveform: npt.NDArray[np.float32]) -> int:
    return round(float(np.abs(waveform).max()) * 32_768 / LOUDNESS)


class ScriptedVoice:
    """Says every character for CHAR_SAMPLES, as the constant that the character's number is."""

    CHAR_SAMPLES = 240
    name = "scripted"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.running = 0
        self.broken = False  # fails at once
        self.breaks_after = 10**9  # characters of a sentence
        self.works = asyncio.Event()  # waits for it before every piece
        self.works.set()

    async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        self.asked.append(text)
        self.running += 1
        try:
            if self.broken:
                raise VoiceError("the voice is hoarse")
            for start in range(0, len(text), 7):
                await self.works.wait()
                if start >= self.breaks_after:
                    raise VoiceError("the voice broke")
                yield self.sound(text[start : start + 7])
        finally:
            self.running -= 1

    @classmethod
    def sound(cls, text: str) -> bytes:
        return np.repeat(np.array([ord(character) for character in text], "<i2"), cls.CHAR_SAMPLES).tobytes()
