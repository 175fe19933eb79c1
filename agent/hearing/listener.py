"""From a client's PCM to turns with their audio, as it arrives.

`Resampler` changes the rate; `Listener` cuts that into turns. Both hold the state of one stream,
which does not grow, and neither knows the network or the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from agent.hearing.turns import Listening, Speaking, SpeechStarted, SpeechStopped, TurnEvent, TurnRules, advance, expire
from agent.hearing.vad import FRAME_BYTES, FRAME_SAMPLES, SAMPLE_RATE, Vad


@dataclass(frozen=True, slots=True)
class Speech:
    """Audio of the turn under way, next after what was given before."""

    pcm: bytes  # 16-bit mono at 16 kHz


class Resampler:
    """Turns 16-bit PCM of one rate into another, chunk by chunk; holds back about 25 ms until flushed."""

    def __init__(self, sample_rate: int, wanted_rate: int = SAMPLE_RATE) -> None:
        self._stream: Any = None
        if sample_rate != wanted_rate:
            self._stream = soxr.ResampleStream(sample_rate, wanted_rate, 1, dtype="int16")

    def push(self, pcm: bytes) -> bytes:
        if self._stream is None:
            return pcm
        return bytes(self._stream.resample_chunk(np.frombuffer(pcm, "<i2")).tobytes())

    def flush(self) -> bytes:
        """What was held back; the next chunk begins a new stream."""
        if self._stream is None:
            return b""
        rest = bytes(self._stream.resample_chunk(np.empty(0, np.int16), last=True).tobytes())
        self._stream.clear()
        return rest


class Listener:
    """Finds the turns of one stream, and keeps just enough audio to begin one where it began."""

    def __init__(self, vad: Vad, rules: TurnRules, start_sample: int) -> None:
        self.vad = vad  # may be replaced between chunks
        self._state: Listening | Speaking = Listening(start_sample, start_sample)
        self._partial = b""  # less than one frame
        self._recent: deque[bytes] = deque()  # the last frames, enough for window and prefix
        self._withheld: list[bytes] = []  # of a pause, after the tail; less than the silence that ends a turn
        self._pause_samples: int | None = None  # after which the present pause ends the turn; None: by the rules
        self.rules = rules

    @property
    def rules(self) -> TurnRules:
        """What counts as a turn; may be replaced between chunks, even inside a turn."""
        return self._rules

    @rules.setter
    def rules(self, rules: TurnRules) -> None:
        self._rules = rules
        frames = rules.start_window_frames - (-rules.prefix_samples // FRAME_SAMPLES)
        self._recent = deque(self._recent, maxlen=frames)

    def feed(self, pcm: bytes) -> Iterator[Speech | TurnEvent]:
        """Take in 16 kHz audio of any length; what comes out must be used up before the next call."""
        pcm = self._partial + pcm
        end = len(pcm) - len(pcm) % FRAME_BYTES
        self._partial = pcm[end:]
        spoken: list[bytes] = []
        for offset in range(0, end, FRAME_BYTES):
            frame = pcm[offset : offset + FRAME_BYTES]
            self._recent.append(frame)
            speaking = isinstance(self._state, Speaking)
            voiced = self.vad.is_speech(frame)
            self._pause_samples = None if voiced else self._pause_samples
            self._state, event = advance(self._rules_now(), self._state, voiced=voiced)
            if speaking:
                self._withheld.append(frame)
                if self._belongs(event):
                    spoken += self._withheld
                    self._withheld.clear()
            if isinstance(event, SpeechStarted):
                lead_samples = self._state.now_sample - event.start_sample
                spoken.append(b"".join(self._recent)[-2 * lead_samples :])
                yield event
            elif event:
                if spoken:
                    yield Speech(b"".join(spoken))
                spoken.clear()
                yield event
            if isinstance(event, SpeechStopped):
                self._forget_pause()
        if spoken:
            yield Speech(b"".join(spoken))

    def reset(self) -> None:
        """Forget the turn under way, and all audio so far; the clock goes on."""
        self._state = Listening(self._state.now_sample, free_sample=self._state.now_sample)
        self._recent.clear()
        self._forget_pause()

    def wait(self, silence_samples: int) -> SpeechStopped | None:
        """Let the pause under way end the turn after so much; returns the end when it has lasted longer already."""
        self._pause_samples = silence_samples
        self._state, stopped = expire(self._rules_now(), self._state)
        if stopped:
            self._forget_pause()
        return stopped

    def _rules_now(self) -> TurnRules:
        if self._pause_samples is None:
            return self._rules
        return replace(self._rules, silence_samples=self._pause_samples)

    def _forget_pause(self) -> None:
        self._withheld.clear()
        self._pause_samples = None

    def _belongs(self, event: TurnEvent | None) -> bool:
        """Whether the frame that was just taken in is part of the turn for certain."""
        if isinstance(event, SpeechStopped):
            return event.end_sample == event.confirmed_sample
        if isinstance(self._state, Listening):
            return False
        silent_samples = self._state.now_sample - self._state.last_voiced_sample
        return silent_samples <= self.rules.tail_frames * FRAME_SAMPLES


def to_waveform(pcm: bytes) -> npt.NDArray[np.float32]:
    """(samples,) in [-1, 1)."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32_768)
