from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clients.realtime import ClientError
from clients.speaker import MAX_BLOCKS, Microphone, open_microphone, talk
from tests.clients.scripted_server import ScriptedServer


def portaudio(query: Callable[..., Any], stream: Any = None) -> ModuleType:
    """What stands in for sounddevice on a machine without sound."""
    module = ModuleType("sounddevice")
    vars(module).update(PortAudioError=OSError, query_devices=query, InputStream=stream)
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
    assert "Listening to a device" in output
    assert "speaker 1  hello" in output


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
