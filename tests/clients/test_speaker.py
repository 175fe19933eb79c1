from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clients.realtime import ClientError, Waveform
from clients.speaker import MAX_BLOCKS, Microphone, open_microphone, talk
from tests.agent.harness import running
from tests.agent.scripted import ScriptedEngine, ScriptedVoice
from tests.clients.scripted_server import ScriptedServer


def portaudio(query: Callable[..., Any], stream: Any = None, output: Any = None) -> ModuleType:
    """What stands in for sounddevice on a machine without sound."""

    def no_output(*_: object, **__: object) -> None:
        raise OSError("no such device")

    module = ModuleType("sounddevice")
    streams = {"InputStream": stream, "OutputStream": output or no_output}
    vars(module).update(PortAudioError=OSError, query_devices=query, **streams)
    return module


class LoudThenQuiet:
    """An input stream at 48 kHz of a loud and many quiet blocks."""

    def __init__(self, sample_rate: int, *, blocksize: int, callback: Callable[..., None], **_: Any) -> None:
        assert (sample_rate, blocksize) == (48_000, 1536)
        self.callback, self.blocksize = callback, blocksize

    def __enter__(self) -> None:
        for level in [0.5] + [0.0] * 20:
            self.callback(np.full((self.blocksize, 1), level, np.float32), self.blocksize, None, None)

    def __exit__(self, *_: object) -> None:
        pass


async def test_what_the_microphone_hears_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    device = {"name": "a device", "default_samplerate": 48_000.0}
    monkeypatch.setitem(sys.modules, "sounddevice", portaudio(lambda *_: device, LoudThenQuiet))
    console = Console(file=io.StringIO(), width=100)
    last = "conversation.item.input_audio_transcription.completed"
    async with ScriptedServer(spoken=[("hello", "hi")], leave_after=last).running() as server:
        with pytest.raises(ClientError, match="the server ended the conversation"):
            await talk(console, server.url)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Replies are shown only: a loudspeaker cannot be opened: no such device" in output
    assert "Listening to a device" in output
    assert "speaker 1  hello" in output


class Room:
    """A microphone that the test speaks into, and a loudspeaker that it waits for; both at 24 kHz."""

    BLOCK = 24_000 * 32 // 1000

    def __init__(self) -> None:
        self.speak: Callable[..., None]
        self.want: Callable[..., None]

    def microphone(self, *_: object, callback: Callable[..., None], **__: object) -> nullcontext[None]:
        self.speak = callback
        return nullcontext()

    def loudspeaker(self, *_: object, callback: Callable[..., None], **__: object) -> nullcontext[None]:
        self.want = callback
        stream: Any = nullcontext()
        stream.latency = 0.0
        return stream

    def say(self, ms: int, level: float) -> None:
        for _ in range(ms // 32):
            self.speak(np.full((self.BLOCK, 1), level, np.float32), self.BLOCK, None, None)

    def hear(self, samples: int) -> Waveform:
        block = np.ones((samples, 1), np.float32)
        self.want(block, samples, None, None)
        return block[:, 0]


@asynccontextmanager
async def in_a_room(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, **options: bool) -> AsyncIterator[Room]:
    """Somebody talks with a server that has a voice."""
    room = Room()
    device = {"name": "a device", "default_samplerate": 24_000.0}
    module = portaudio(lambda *_: device, room.microphone, room.loudspeaker)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    console = Console(file=io.StringIO(), width=100)
    async with running(engine, voice=ScriptedVoice()) as port, asyncio.TaskGroup() as tasks:
        talking = tasks.create_task(talk(console, f"ws://127.0.0.1:{port}/v1/realtime", **options))
        await until(lambda: "Listening" in console.file.getvalue())  # type: ignore[attr-defined]
        yield room
        talking.cancel()


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(2_000):
        if happened():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never happened")


async def test_replies_are_heard_and_the_microphone_is_deaf_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine()
    engine.words = ["x" * 60]
    async with in_a_room(engine, monkeypatch) as room:
        room.say(480, 0.2)
        room.say(800, 0)
        heard = np.zeros(0, np.float32)

        def whole() -> bool:
            nonlocal heard
            room.say(32, 0.2)  # the echo, were it sent, would begin another turn
            heard = np.concatenate([heard, room.hear(1_000)])
            return np.count_nonzero(heard) >= 59 * ScriptedVoice.CHAR_SAMPLES

        await until(lambda: room.hear(100).any())
        await until(whole)
        assert np.median(heard[heard != 0]) == pytest.approx(ord("x") / 32_768, rel=0.01)
        while room.hear(1_000).any():
            pass
        room.hear(24_000)  # the echo fades
        assert len(engine.asked) == 1
        room.say(480, 0.2)
        room.say(800, 0)
        await until(lambda: len(engine.asked) == 2)
        assert engine.asked[1][1][0].reply == "x" * 60  # nobody interrupted it


async def test_full_duplex_lets_people_interrupt_and_the_unheard_words_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = ScriptedEngine()
    engine.words = ["One two. ", "Three four. ", "Five six. " * 300]
    async with in_a_room(engine, monkeypatch, full_duplex=True) as room:
        room.say(480, 0.2)
        room.say(800, 0)
        heard = 0

        def begun() -> bool:
            nonlocal heard
            heard += np.count_nonzero(room.hear(100))
            return heard >= 14 * ScriptedVoice.CHAR_SAMPLES  # "Three" is said, "four" is not

        await until(begun)
        room.say(480, 0.2)
        await until(lambda: not room.hear(100).any())
        room.say(800, 0)
        await until(lambda: len(engine.asked) == 2)
        assert engine.asked[1][1][0].reply == "One two. Three"
        await until(lambda: bool(room.hear(100).any()))  # the next reply


async def test_no_sounddevice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ClientError, match=r"pip install 'wavllm-agent\[mic\]'"), open_microphone():
        pass


async def test_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def query(*_: object) -> None:
        raise OSError("Error querying device -1")

    monkeypatch.setitem(sys.modules, "sounddevice", portaudio(query))
    with pytest.raises(ClientError, match="a microphone cannot be opened: Error querying"), open_microphone():
        pass
    with pytest.raises(ClientError, match="microphone 'USB' cannot be opened"), open_microphone("USB"):
        pass


async def test_a_loudspeaker_that_is_asked_for_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    device = {"name": "a device", "default_samplerate": 48_000.0}
    monkeypatch.setitem(sys.modules, "sounddevice", portaudio(lambda *_: device, LoudThenQuiet))
    with pytest.raises(ClientError, match="loudspeaker 'USB' cannot be opened: no such device"):
        await talk(Console(file=io.StringIO()), "ws://127.0.0.1:9/", output_device="USB")


@pytest.mark.needs("portaudio")
async def test_the_real_library_says_when_there_is_no_such_device() -> None:
    with pytest.raises(ClientError, match="cannot be opened"), open_microphone("no such microphone"):
        pass


async def test_the_oldest_audio_is_dropped_and_counted() -> None:
    microphone = Microphone("a device", 16_000)
    for level in range(MAX_BLOCKS + 3):
        microphone.put(np.full(512, level / 1000, np.float32))
    assert microphone.dropped == 3
    first = await anext(aiter(microphone))
    assert first.max() == pytest.approx(0.003)
