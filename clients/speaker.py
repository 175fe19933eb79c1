"""`wavllm talk`: a microphone and a loudspeaker as one side of a conversation.

Owns the audio devices. PortAudio is loaded when it is asked for, not before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, Final

import numpy as np
import soxr
from rich.console import Console

from clients.display import follow
from clients.playback import Playback, play_replies
from clients.realtime import DEFAULT_URL, SAMPLE_RATE, ClientError, Waveform, connect

BLOCK_MS: Final = 32
MAX_BLOCKS: Final = 100  # about three seconds


class Microphone:
    """Audio of an input device at 16 kHz, whatever rate the device runs at; iterate to hear it.

    When nobody listens for three seconds the oldest block is dropped, and counted in `dropped`. Nothing is heard
    while `is_deaf`, which is asked in the thread of the device, says so.
    """

    def __init__(self, name: str, sample_rate: int) -> None:
        self.name = name
        self.dropped = 0
        self.is_deaf: Callable[[], bool] = lambda: False
        self._blocks: asyncio.Queue[Waveform] = asyncio.Queue(MAX_BLOCKS)  # overflow: the oldest is dropped
        self._resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32")

    def put(self, block: Waveform) -> None:
        """Take a block from the device; to be called in the event loop."""
        if self._blocks.full():
            self._blocks.get_nowait()
            self.dropped += 1
        self._blocks.put_nowait(block)

    async def __aiter__(self) -> AsyncIterator[Waveform]:
        while True:
            yield self._resampler.resample_chunk(await self._blocks.get())


@contextmanager
def open_microphone(device: str | None = None) -> Iterator[Microphone]:
    """Record from a device, by name or number, or from the default one.

    Raises ClientError when PortAudio or the device is missing.
    """
    portaudio = _load_portaudio()
    loop = asyncio.get_running_loop()
    wanted = _by_number(device)
    try:
        info = portaudio.query_devices(wanted, "input")
        sample_rate = int(info["default_samplerate"])
        microphone = Microphone(info["name"], sample_rate)

        def arrived(block: Any, frames: int, time: Any, status: Any) -> None:
            if not microphone.is_deaf():
                loop.call_soon_threadsafe(microphone.put, np.array(block[:, 0]))

        stream = portaudio.InputStream(
            sample_rate,
            blocksize=sample_rate * BLOCK_MS // 1000,
            device=wanted,
            channels=1,
            dtype="float32",
            callback=arrived,
        )
    except (portaudio.PortAudioError, ValueError) as error:
        wish = f"microphone {device!r}" if device else "a microphone"
        raise ClientError(f"{wish} cannot be opened: {error}; python -m sounddevice lists them") from error
    with stream:
        yield microphone


@contextmanager
def open_loudspeaker(device: str | None = None) -> Iterator[Playback]:
    """Play on a device, by name or number, or on the default one; nothing sounds afterwards.

    Raises ClientError when PortAudio or the device is missing.
    """
    portaudio, wanted = _load_portaudio(), _by_number(device)
    playback: Playback | None = None

    def wanting(block: Any, frames: int, time: Any, status: Any) -> None:
        block[:, 0] = playback.take(frames) if playback else 0

    try:
        sample_rate = int(portaudio.query_devices(wanted, "output")["default_samplerate"])
        stream = portaudio.OutputStream(sample_rate, device=wanted, channels=1, dtype="float32", callback=wanting)
    except (portaudio.PortAudioError, ValueError) as error:
        wish = f"loudspeaker {device!r}" if device else "a loudspeaker"
        raise ClientError(f"{wish} cannot be opened: {error}; python -m sounddevice lists them") from error
    playback = Playback(sample_rate, stream.latency)
    with stream:
        yield playback


async def talk(
    console: Console,
    url: str = DEFAULT_URL,
    device: str | None = None,
    output_device: str | None = None,
    full_duplex: bool = False,
) -> None:
    """Stream the microphone, play the replies and print the conversation until cancelled.

    full_duplex: the microphone is heard while a reply sounds, so that one can interrupt; without headphones
        the assistant hears itself
    Raises ClientError when there is no microphone or no server, or when the server leaves.
    """
    with open_microphone(device) as microphone, _loudspeaker_if_any(console, output_device) as playback:
        async with connect(url, spoken=playback is not None) as conversation:
            if playback and not conversation.spoken:
                console.print("Replies are shown only: the server has no voice.")
            if playback and not full_duplex:
                microphone.is_deaf = lambda: playback.sounding
            events = play_replies(conversation, playback) if playback else conversation
            async with follow(events, console):
                console.print(f"Listening to {microphone.name}. Speak; Ctrl-C ends the conversation.")
                try:
                    async for waveform in microphone:
                        await conversation.send_audio(waveform)
                finally:
                    if microphone.dropped:
                        lost_ms = microphone.dropped * BLOCK_MS
                        console.print(f"{lost_ms} ms of audio were dropped: the server was too slow")


@contextmanager
def _loudspeaker_if_any(console: Console, device: str | None) -> Iterator[Playback | None]:
    """Where the default one is missing, that is said; one that was asked for has to be there."""
    with ExitStack() as devices:
        playback = None
        try:
            playback = devices.enter_context(open_loudspeaker(device))
        except ClientError as error:
            if device:
                raise
            console.print(f"Replies are shown only: {error}")
        yield playback


def _by_number(device: str | None) -> str | int | None:
    return int(device) if device and device.isdecimal() else device


def _load_portaudio() -> ModuleType:
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
