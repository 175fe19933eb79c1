"""What stands in for sounddevice on a machine without sound."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import numpy as np

from clients.realtime import Waveform


class NoSuchDevice(OSError):
    pass


def take_long() -> None:
    """What PortAudio may do wherever it is asked; an event loop cannot wait for it."""
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        raise AssertionError("PortAudio is asked in the thread of an event loop")


class Stream:
    """Of a device that does nothing by itself."""

    latency = 0.0

    def __init__(self, on_start: Callable[[], object] = lambda: None) -> None:
        self.on_start, self.closed = on_start, False

    def start(self) -> None:
        take_long()
        self.on_start()

    def close(self) -> None:
        take_long()
        self.closed = True


class Room:
    """A microphone that the test speaks into, and a loudspeaker that it waits for; both at 24 kHz."""

    BLOCK = 24_000 * 32 // 1000

    def __init__(self, name: str = "a device", *, microphone: bool = True, loudspeaker: bool = True) -> None:
        self.there = {"input": microphone, "output": loudspeaker}
        self.name, self.rescans = name, 0
        self.streams: list[Stream] = []
        self.on_start: Callable[[], object] = lambda: None
        self.speak: Callable[..., None]
        self.want: Callable[..., None]

    def module(self) -> ModuleType:
        module = ModuleType("sounddevice")
        vars(module).update(
            PortAudioError=OSError,
            query_devices=self.query,
            InputStream=self.input_stream,
            OutputStream=self.output_stream,
            _terminate=lambda: None,
            _initialize=self.rescan,
        )
        return module

    def query(self, device: object, way: str) -> dict[str, Any]:
        take_long()
        if not self.there[way]:
            raise NoSuchDevice("no such device")
        return {"name": self.name, "default_samplerate": 24_000.0}

    def rescan(self) -> None:
        take_long()
        assert all(stream.closed for stream in self.streams), "PortAudio would close it"
        self.rescans += 1

    def input_stream(self, *_: object, callback: Callable[..., None], **__: object) -> Stream:
        self.speak = callback
        return self._stream()

    def output_stream(self, *_: object, callback: Callable[..., None], **__: object) -> Stream:
        self.want = callback
        return self._stream()

    def say(self, ms: int, level: float) -> None:
        for _ in range(ms // 32):
            self.speak(np.full((self.BLOCK, 1), level, np.float32), self.BLOCK, None, None)

    def play(self, waveform: Waveform) -> None:
        """Into the microphone, at once."""
        for start in range(0, len(waveform), self.BLOCK):
            block = waveform[start : start + self.BLOCK, None]
            self.speak(block, len(block), None, None)

    async def stream(self, waveform: Waveform) -> None:
        """The same, sixteen times as fast as somebody speaks."""
        for start in range(0, len(waveform), self.BLOCK):
            self.play(waveform[start : start + self.BLOCK])
            await asyncio.sleep(0.002)

    def hear(self, samples: int) -> Waveform:
        block = np.ones((samples, 1), np.float32)
        self.want(block, samples, None, None)
        return block[:, 0]

    def _stream(self) -> Stream:
        take_long()
        self.streams.append(Stream(self.on_start))
        return self.streams[-1]


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(2_000):
        if happened():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never happened")
