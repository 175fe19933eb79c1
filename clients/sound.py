"""Microphone and loudspeaker of this machine, held open together and opened again when one of them is lost.

Owns PortAudio, which is loaded when it is asked for, not before, and asked outside of the event loop: devices may take
their time. Knows no server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from types import ModuleType
from typing import Any, Final

import numpy as np
import soxr

from clients.playback import Playback
from clients.realtime import SAMPLE_RATE, ClientError, Waveform
from clients.retry import Backoff

BLOCK_MS: Final = 32
MAX_BLOCKS: Final = 100  # about three seconds
LOST_S: Final = 2.0  # without a block, after which a device is gone


class Microphone:
    """Audio of an input device at 16 kHz, whatever rate the device runs at.

    When nobody listens for three seconds the oldest block is dropped, and counted in `dropped`. Nothing is heard
    while `is_deaf`, which is asked in the thread of the device, says so.
    """

    def __init__(self) -> None:
        self.name = ""
        self.dropped = 0
        self.is_deaf: Callable[[], bool] = lambda: False
        self._blocks: asyncio.Queue[Waveform | None] = asyncio.Queue(MAX_BLOCKS)  # overflow: the oldest is dropped
        self.plug(SAMPLE_RATE)

    def plug(self, sample_rate: int) -> None:
        """Hear a device from now on."""
        self._resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32")

    def put(self, block: Waveform) -> None:
        """Take a block from the device; to be called in the event loop."""
        if self._blocks.full():
            self._blocks.get_nowait()
            self.dropped += 1
        self._blocks.put_nowait(block)

    def mark(self) -> None:
        """Remember this moment in what is heard."""
        if not self._blocks.full():
            self._blocks.put_nowait(None)

    async def hear(self) -> Waveform | None:
        """The next block; None where a moment was marked."""
        block = await self._blocks.get()
        if block is None:
            return None
        waveform: Waveform = self._resampler.resample_chunk(block)
        return waveform


class Sound:
    """The two devices, by name or number, or the default ones; without a loudspeaker `playback` is None.

    It is open within `async with sound.open()`, and may be opened again.
    """

    def __init__(self, device: str | None = None, output_device: str | None = None) -> None:
        """To be made in a thread, as PortAudio looks for devices.

        Raises ClientError when PortAudio is missing, or the loudspeaker that was asked for.
        """
        self._portaudio = load_portaudio()
        self._device, self._output_device = _by_number(device), _by_number(output_device)
        self.microphone = Microphone()
        self.playback: Playback | None = None
        self.no_loudspeaker = ""  # why there is none
        self.playing: Callable[[Waveform], None] | None = None  # told of every block, in the thread of the device
        self.input_latency_s = 0.0
        self._block_s: dict[str, float] = {}  # when each device called last
        try:
            rate = int(self._query("loudspeaker", self._output_device, "output")["default_samplerate"])
            self.playback = Playback(rate)
        except ClientError as error:
            if output_device:
                raise
            self.no_loudspeaker = str(error)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hear and play within this block. Raises ClientError when a device cannot be opened."""
        loop, streams = asyncio.get_running_loop(), ExitStack()
        with ThreadPoolExecutor(1, "sound devices") as thread:  # one: what opens, and is not waited for, opens first
            try:
                await loop.run_in_executor(thread, self._open, streams, loop)
                yield
            finally:
                await loop.run_in_executor(thread, streams.close)

    def rescan(self) -> None:
        """Look for devices anew: PortAudio knows those alone that were there when it began. Only while closed."""
        self._portaudio._terminate()
        self._portaudio._initialize()

    def silent(self, now_s: float) -> str | None:
        """Which device has been still for too long to be there."""
        return next((name for name, called_s in self._block_s.items() if now_s - called_s > LOST_S), None)

    def _open(self, streams: ExitStack, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to hear and to play; `streams` ends what was begun."""
        self._run("microphone", self._device, self._open_microphone(loop), streams)
        if self.playback:
            self._run("loudspeaker", self._output_device, self._open_loudspeaker(self.playback, loop), streams)

    def _open_microphone(self, loop: asyncio.AbstractEventLoop) -> Any:
        info = self._query("microphone", self._device, "input")
        sample_rate, microphone = int(info["default_samplerate"]), self.microphone
        microphone.name = info["name"]
        microphone.plug(sample_rate)

        def arrived(block: Any, frames: int, time: Any, status: Any) -> None:
            self._block_s["microphone"] = loop.time()
            if not microphone.is_deaf():
                loop.call_soon_threadsafe(microphone.put, np.array(block[:, 0]))

        frames = sample_rate * BLOCK_MS // 1000
        stream = self._stream(
            "InputStream", "microphone", self._device, sample_rate, blocksize=frames, callback=arrived
        )
        self.input_latency_s = stream.latency
        self._block_s["microphone"] = loop.time()
        return stream

    def _open_loudspeaker(self, playback: Playback, loop: asyncio.AbstractEventLoop) -> Any:
        def wanting(block: Any, frames: int, time: Any, status: Any) -> None:
            self._block_s["loudspeaker"] = loop.time()
            block[:, 0] = playback.take(frames)
            if self.playing:
                self.playing(np.array(block[:, 0]))

        stream = self._stream(
            "OutputStream", "loudspeaker", self._output_device, playback.sample_rate, callback=wanting
        )
        playback.latency_s = stream.latency
        self._block_s["loudspeaker"] = loop.time()
        return stream

    def _run(self, kind: str, device: str | int | None, stream: Any, streams: ExitStack) -> None:
        streams.callback(self._close, stream)
        try:
            stream.start()
        except self._portaudio.PortAudioError as error:
            raise _cannot_open(kind, device, error) from error

    def _close(self, stream: Any) -> None:
        with suppress(self._portaudio.PortAudioError):  # it may be gone
            stream.close()

    def _query(self, kind: str, device: str | int | None, way: str) -> Any:
        try:
            return self._portaudio.query_devices(device, way)
        except (self._portaudio.PortAudioError, ValueError) as error:
            raise _cannot_open(kind, device, error) from error

    def _stream(self, form: str, kind: str, device: str | int | None, sample_rate: int, **how: Any) -> Any:
        try:
            return getattr(self._portaudio, form)(sample_rate, device=device, channels=1, dtype="float32", **how)
        except (self._portaudio.PortAudioError, ValueError) as error:
            raise _cannot_open(kind, device, error) from error


async def keep_open(
    sound: Sound,
    notice: Callable[[str], None],
    backoff: Backoff,
    on_open: Callable[[], None] = lambda: None,
    look_s: float = 0.5,
) -> None:
    """Hold the devices open until cancelled, over any number of losses.

    on_open: called once, when they are open for the first time
    Raises ClientError when they cannot be opened the first time; later that is waited for.
    """
    async with sound.open():
        on_open()
        lost = await _first_lost(sound, look_s)
    while True:
        notice(f"the {lost} is lost; waiting for it")
        if sound.playback:
            sound.playback.drop()
        for pause_s in backoff.pauses_s():
            await asyncio.sleep(pause_s)
            await asyncio.to_thread(sound.rescan)
            try:
                async with sound.open():
                    notice(f"back: {sound.microphone.name}")
                    lost = await _first_lost(sound, look_s)
                break
            except ClientError:
                continue


async def _first_lost(sound: Sound, look_s: float) -> str:
    clock = asyncio.get_running_loop().time
    while (lost := sound.silent(clock())) is None:  # noqa: ASYNC110 (what is waited for is that nothing happens)
        await asyncio.sleep(look_s)
    return lost


def load_portaudio() -> ModuleType:
    """The package sounddevice. Raises ClientError when it, or the library that it wraps, is missing."""
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        raise ClientError(
            "microphone and loudspeaker need one more package: pip install 'wavllm-agent[mic]'"
        ) from error
    except OSError as error:  # the package is there, the library it wraps is not
        raise ClientError(f"{error}; on Debian and Ubuntu: apt install libportaudio2") from error
    module: ModuleType = sounddevice
    return module


def _by_number(device: str | None) -> str | int | None:
    return int(device) if device and device.isdecimal() else device


def _cannot_open(kind: str, device: str | int | None, error: Exception) -> ClientError:
    wish = f"{kind} {device!r}" if device is not None else f"a {kind}"
    return ClientError(f"{wish} cannot be opened: {error}; python -m sounddevice lists them")
