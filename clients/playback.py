"""Spoken replies on their way to a loudspeaker or a file, and how much of them was heard.

Knows neither the device nor the socket. Samples are those of the device, which asks for them in a thread of its own.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
import soundfile
import soxr

from clients.realtime import ClientError, Conversation, Event, Waveform

REPLY_RATE: Final = 24_000
MAX_CUT: Final = 8  # replies that are remembered as cut off
ECHO_S: Final = 0.3  # after the last sample, until the room is quiet again


@dataclass(slots=True)
class _Reply:
    item_id: str
    waiting: Waveform  # not taken yet
    taken_samples: int = 0
    received_ms: float = 0.0
    finished: bool = False


class Playback:
    """Plays replies in the order they come."""

    def __init__(self, sample_rate: int, latency_s: float = 0.0) -> None:
        """latency_s: from a sample being taken to its being heard"""
        self.sample_rate, self.latency_s = sample_rate, latency_s
        self._resampler = soxr.ResampleStream(REPLY_RATE, sample_rate, 1, dtype="float32")
        self._replies: deque[_Reply] = deque()  # bounded by the server, which sends little ahead
        self._cut: deque[str] = deque(maxlen=MAX_CUT)  # item ids, of which more may be under way
        self._quiet_samples: float = float("inf")  # taken since there was sound
        self._lock = Lock()

    @property
    def sounding(self) -> bool:
        """A reply, or its echo, can be heard."""
        with self._lock:
            tail_s = self.latency_s + ECHO_S
            return self._waiting() or self._quiet_samples < tail_s * self.sample_rate

    def put(self, item_id: str, pcm: bytes) -> None:
        """Add 16-bit mono audio at 24 kHz to a reply; of one that was cut off, nothing more is heard."""
        if item_id in self._cut:
            return
        waveform = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32_768)
        self._add(item_id, self._resampler.resample_chunk(waveform), 1000 * len(waveform) / REPLY_RATE)

    def finish(self, item_id: str) -> None:
        """No more audio of this reply follows."""
        if item_id in self._cut:
            return
        self._add(item_id, self._resampler.resample_chunk(np.empty(0, np.float32), last=True), 0, finished=True)
        self._resampler.clear()

    def take(self, samples: int) -> Waveform:
        """The next so many samples; silence where there are none."""
        block = np.zeros(samples, np.float32)
        filled = 0
        with self._lock:
            for reply in self._replies:
                part = reply.waiting[: samples - filled]
                block[filled : filled + len(part)] = part
                reply.waiting = reply.waiting[len(part) :]
                reply.taken_samples += len(part)
                filled += len(part)
            while len(self._replies) > 1 and not len(self._replies[0].waiting):
                self._replies.popleft()
            self._quiet_samples = samples - filled if filled else self._quiet_samples + samples
        return block

    def drop(self) -> list[tuple[str, int]]:
        """Fall silent; returns the replies that were cut off, and after how many milliseconds of each."""
        with self._lock:
            unheard_samples = self.latency_s * self.sample_rate
            cut = []
            for reply in self._replies:
                heard_ms = 1000 * max(0.0, reply.taken_samples - unheard_samples) / self.sample_rate
                if len(reply.waiting) or not reply.finished:
                    cut.append((reply.item_id, int(min(heard_ms, reply.received_ms))))
            self._replies.clear()
            self._resampler.clear()
            self._cut.extend(item_id for item_id, _ in cut)
            return cut

    def _add(self, item_id: str, waveform: Waveform, received_ms: float, *, finished: bool = False) -> None:
        with self._lock:
            if not self._replies or self._replies[-1].item_id != item_id:
                self._replies.append(_Reply(item_id, np.empty(0, np.float32)))
            reply = self._replies[-1]
            reply.waiting = np.concatenate([reply.waiting, waveform])
            reply.received_ms += received_ms
            reply.finished = finished

    def _waiting(self) -> bool:
        return any(len(reply.waiting) for reply in self._replies)


async def play_replies(conversation: Conversation, playback: Playback) -> AsyncIterator[Event]:
    """The events of a conversation, whose audio is played, and cut off where somebody speaks."""
    async for event in conversation:
        kind = event["type"]
        if kind == "response.output_audio.delta":
            playback.put(event["item_id"], base64.b64decode(event["delta"]))
        elif kind == "response.output_audio.done":
            playback.finish(event["item_id"])
        elif kind == "input_audio_buffer.speech_started":
            await interrupt(conversation, playback)
        yield event


async def interrupt(conversation: Conversation, playback: Playback) -> None:
    """Fall silent, and tell the server how much was heard."""
    for item_id, heard_ms in playback.drop():
        await conversation.truncate(item_id, heard_ms)


async def record_replies(conversation: Conversation, file: soundfile.SoundFile) -> AsyncIterator[Event]:
    """The events of a conversation, whose audio is written to a file."""
    async for event in conversation:
        if event["type"] == "response.output_audio.delta":
            file.buffer_write(base64.b64decode(event["delta"]), "int16")
        yield event


@contextmanager
def open_recording(path: Path) -> Iterator[soundfile.SoundFile]:
    """A sound file for replies, of the kind that its name says. Raises ClientError when it cannot be written."""
    try:
        file = soundfile.SoundFile(path, "w", REPLY_RATE, channels=1, subtype="PCM_16")
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise ClientError(f"{path}: cannot be written as sound: {error}") from error
    with file:
        yield file
