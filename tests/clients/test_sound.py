"""Devices that are missing, slow, or lost and found."""

from __future__ import annotations

import asyncio
import sys
import threading

import numpy as np
import pytest

from clients.realtime import ClientError
from clients.retry import Backoff
from clients.sound import LOST_S, MAX_BLOCKS, Microphone, Sound, keep_open
from tests.clients.sounds import NoSuchDevice, Room, until


def test_no_sounddevice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ClientError, match=r"pip install 'wavllm-agent\[mic\]'"):
        Sound()


async def open_and_close(sound: Sound) -> None:
    async with sound.open():
        pass


async def test_no_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Room(microphone=False).module())
    with pytest.raises(ClientError, match="a microphone cannot be opened: no such device"):
        await open_and_close(await asyncio.to_thread(Sound))
    with pytest.raises(ClientError, match="microphone 'USB' cannot be opened"):
        await open_and_close(await asyncio.to_thread(Sound, "USB"))


def test_a_loudspeaker_that_is_asked_for_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Room(loudspeaker=False).module())
    with pytest.raises(ClientError, match="loudspeaker 'USB' cannot be opened: no such device"):
        Sound(output_device="USB")
    assert Sound().no_loudspeaker.startswith("a loudspeaker cannot be opened: no such device")


@pytest.mark.needs("portaudio")
async def test_the_real_library_says_when_there_is_no_such_device() -> None:
    with pytest.raises(ClientError, match="cannot be opened"):
        await open_and_close(await asyncio.to_thread(Sound, "no such microphone"))


async def test_what_cannot_be_started_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room()

    def fail() -> None:
        raise NoSuchDevice("it is busy")

    room.on_start = fail
    monkeypatch.setitem(sys.modules, "sounddevice", room.module())
    with pytest.raises(ClientError, match="a microphone cannot be opened: it is busy"):
        await open_and_close(await asyncio.to_thread(Sound))
    assert [stream.closed for stream in room.streams] == [True]


async def test_devices_that_open_too_slowly_are_closed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop goes on meanwhile; whoever was to hear the devices has left before they are open."""
    room, begun, go_on = Room(), threading.Event(), threading.Event()

    def start() -> None:
        begun.set()
        assert go_on.wait(10)

    room.on_start = start
    monkeypatch.setitem(sys.modules, "sounddevice", room.module())
    sound = await asyncio.to_thread(Sound)
    async with asyncio.TaskGroup() as tasks:
        opening = tasks.create_task(open_and_close(sound))
        await until(begun.is_set)
        opening.cancel()
        await asyncio.sleep(0)
        go_on.set()
    assert [stream.closed for stream in room.streams] == [True, True]


async def test_the_oldest_audio_is_dropped_and_counted() -> None:
    microphone = Microphone()
    for level in range(MAX_BLOCKS + 3):
        microphone.put(np.full(512, level / 1000, np.float32))
    assert microphone.dropped == 3
    assert (await microphone.hear()).max() == pytest.approx(0.003)


async def test_devices_that_fall_silent_are_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of them, however many attempts it takes: PortAudio finds new devices when it begins anew."""
    room, notices = Room(), list[str]()
    monkeypatch.setitem(sys.modules, "sounddevice", room.module())
    sound = await asyncio.to_thread(Sound)
    async with asyncio.TaskGroup() as tasks:
        opened = tasks.create_task(keep_open(sound, notices.append, Backoff(0.001, 0.002), look_s=0.001))
        await until(lambda: len(room.streams) == 2)
        room.say(32, 0.5)
        room.hear(100)
        loop = asyncio.get_running_loop()
        assert sound.silent(loop.time()) is None
        assert sound.silent(loop.time() + LOST_S + 1) == "microphone"
        room.there["input"] = False
        room.name = "another device"
        monkeypatch.setattr(sound, "silent", lambda now_s: "microphone" if len(room.streams) == 2 else None)
        await until(lambda: room.rescans >= 3)
        room.there["input"] = True
        await until(lambda: len(notices) == 2)
        room.say(32, 0.25)
        assert (await sound.microphone.hear()).size + (await sound.microphone.hear()).size > 0
        opened.cancel()
    assert notices == ["the microphone is lost; waiting for it", "back: another device"]
    assert len(room.streams) == 4
    assert all(stream.closed for stream in room.streams)
