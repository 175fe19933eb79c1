"""What a device's microphone sent, on its way to the server: bounded, in time, closed when it stops.

Repairs what a radio loses, so that the server hears a stream without jumps. Knows no broker.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from clients.mqtt.topics import AudioChunk
from clients.realtime import SAMPLE_RATE

MAX_WAITING_SAMPLES: Final = 5 * SAMPLE_RATE
MIN_ROOM_SAMPLES: Final = SAMPLE_RATE // 100
MAX_GAP_SAMPLES: Final = 2 * SAMPLE_RATE  # a larger jump in the position begins another stream
CLOSING_SILENCE: Final = bytes(2 * SAMPLE_RATE)  # a second: enough for a server to find the end of a turn
PAUSE_CHUNK: Final = AudioChunk(0, b"")


class StreamClock:
    """Follows the position of one stream, and makes whole what was lost or came twice."""

    def __init__(self) -> None:
        self.lost_samples = 0
        self._next_sample: int | None = None
        self._paused = False

    def pause(self) -> None:
        """Nothing comes for now; who then begins at an earlier position begins another stream."""
        self._paused = True

    def in_time(self, chunk: AudioChunk) -> bytes:
        """The PCM that continues what came before: silence for a gap, nothing for a repetition."""
        ahead = 0 if self._next_sample is None else chunk.start_sample - self._next_sample
        if abs(ahead) > MAX_GAP_SAMPLES or (self._paused and ahead < 0):
            ahead = 0
        self._paused = False
        if -ahead >= chunk.samples:
            return b""
        self._next_sample = chunk.start_sample + chunk.samples
        self.lost_samples += max(ahead, 0)
        return bytes(2 * max(ahead, 0)) + chunk.pcm[2 * max(-ahead, 0) :]


class AudioFeed:
    """The chunks that the server has not taken yet. When five seconds wait the oldest is dropped, and counted."""

    def __init__(self, stall_s: float, clock: Callable[[], float]) -> None:
        self.dropped_samples = 0
        self._stall_s, self._clock = stall_s, clock
        self._stream = StreamClock()
        self._chunks: deque[AudioChunk] = deque()  # overflow: the oldest is dropped
        self._waiting_samples = 0
        self._arrived = asyncio.Event()
        self.last_put_s = clock()

    @property
    def empty(self) -> bool:
        return not self._chunks

    @property
    def lost_samples(self) -> int:
        """What never arrived, and was replaced by silence; dropped chunks count here as well."""
        return self._stream.lost_samples

    def put(self, chunk: AudioChunk) -> None:
        """Take in a chunk; never waits."""
        self.last_put_s = self._clock()
        self._chunks.append(chunk)
        self._waiting_samples += _room(chunk)
        while self._waiting_samples > MAX_WAITING_SAMPLES:
            dropped = self._chunks.popleft()
            self._waiting_samples -= _room(dropped)
            self.dropped_samples += dropped.samples
        self._arrived.set()

    def clear(self) -> None:
        """Forget what waits; nobody counts it as lost."""
        self._chunks.clear()
        self._waiting_samples = 0

    async def pump(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand on everything until cancelled.

        When the device pauses, or its chunks stay away for `stall_s`, silence follows: otherwise the server
        would wait for the end of a turn that nothing more is coming of.
        """
        open_ended = False
        while True:
            try:
                async with asyncio.timeout(self._stall_s if open_ended else None):
                    chunk = await self._next()
            except TimeoutError:
                chunk = PAUSE_CHUNK
            if chunk.pcm:
                open_ended = True
                if pcm := self._stream.in_time(chunk):
                    await send(pcm)
            elif open_ended:
                open_ended = False
                self._stream.pause()
                await send(CLOSING_SILENCE)

    async def _next(self) -> AudioChunk:
        while not self._chunks:
            self._arrived.clear()
            await self._arrived.wait()
        chunk = self._chunks.popleft()
        self._waiting_samples -= _room(chunk)
        return chunk


def _room(chunk: AudioChunk) -> int:
    """Samples that a chunk counts for; the least, so that a flood of empty ones is bounded too."""
    return max(chunk.samples, MIN_ROOM_SAMPLES)
