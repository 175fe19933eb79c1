"""The smart speaker as a whole: devices that tests speak into, a server behind a real socket."""

from __future__ import annotations

import asyncio
import io
import math
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clients.demo.run import FOLDER
from clients.file import read_sound
from clients.realtime import ClientError
from clients.retry import Backoff
from clients.speaker import SpeakerOptions, talk
from tests.agent.harness import running
from tests.agent.scripted import ScriptedEngine, ScriptedVoice
from tests.clients.scripted_server import ScriptedServer
from tests.clients.sounds import Room, until
from wavllm_core.engine.api import Heard, Written

QUICK = Backoff(0.01, 0.02)


class Home:
    """A room with a speaker in it, and what the speaker prints."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.console = Console(file=io.StringIO(), width=100)
        self.keys: asyncio.Queue[None] = asyncio.Queue()

    @property
    def printed(self) -> str:
        return self.console.file.getvalue()  # type: ignore[attr-defined]

    async def press(self) -> None:
        """After what was said before, as audio takes the way through the event loop."""
        await asyncio.sleep(0)
        self.keys.put_nowait(None)
        await until(self.keys.empty)

    async def pressed(self) -> AsyncIterator[None]:
        while True:
            yield await self.keys.get()


@asynccontextmanager
async def speaker_running(
    url: str, monkeypatch: pytest.MonkeyPatch, room: Room | None = None, push_to_talk: bool = False, **options: Any
) -> AsyncIterator[Home]:
    home = Home(room or Room())
    monkeypatch.setitem(sys.modules, "sounddevice", home.room.module())
    keys = home.pressed() if push_to_talk else None
    async with asyncio.TaskGroup() as tasks:
        talking = tasks.create_task(talk(home.console, url, SpeakerOptions(backoff=QUICK, **options), keys))
        await until(lambda: "Listening" in home.printed)
        yield home
        talking.cancel()


@asynccontextmanager
async def in_a_room(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[Home]:
    """Somebody talks with a server that has a voice."""
    async with (
        running(engine, voice=ScriptedVoice()) as port,
        speaker_running(f"ws://127.0.0.1:{port}/v1/realtime", monkeypatch, **options) as home,
    ):
        yield home


async def test_what_the_microphone_hears_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        ScriptedServer(spoken=[("hello", "hi")]).running() as server,
        speaker_running(server.url, monkeypatch, Room(loudspeaker=False)) as home,
    ):
        home.room.say(32, 0.5)
        home.room.say(640, 0)
        await until(lambda: "speaker 1  hello" in home.printed)
    assert "Replies are shown only: a loudspeaker cannot be opened: no such device" in home.printed
    assert "Listening to a device" in home.printed


async def test_replies_are_heard_and_the_microphone_is_deaf_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine()
    engine.words = ["x" * 60]
    async with in_a_room(engine, monkeypatch) as home:
        room = home.room
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
    async with in_a_room(engine, monkeypatch, duplex="full") as home:
        room, heard = home.room, 0
        room.say(480, 0.2)
        room.say(800, 0)

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


@pytest.mark.needs("livekit")
async def test_with_echo_cancellation_a_reply_is_not_taken_for_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loudspeaker plays comes back into the microphone, loud enough to be taken for speech."""
    engine, voice = ScriptedEngine(), ScriptedVoice()
    reply = (read_sound(FOLDER / "clips" / "s2i_8c59cf3c.flac")[2 * 16_000 : 5 * 16_000] * 32_767).astype("<i2")
    monkeypatch.setattr(voice, "sound", lambda text: reply.tobytes())  # 2 s at 24 kHz for 7 characters
    engine.words = ["x" * 13 + "."]
    word = np.repeat(read_sound(FOLDER / "clips" / "fsdd_3_jackson_2.flac"), 3)[::2]
    async with (
        running(engine, voice=voice) as port,
        speaker_running(f"ws://127.0.0.1:{port}/v1/realtime", monkeypatch, duplex="cancel") as home,
    ):
        room, played = home.room, np.zeros(2 * Room.BLOCK, np.float32)
        room.play(0.6 * word / np.abs(word).max())
        room.say(800, 0)
        await until(lambda: bool(room.hear(Room.BLOCK).any()))

        def over() -> bool:
            nonlocal played
            played = np.concatenate([played, room.hear(Room.BLOCK)])
            room.play(0.4 * played[-3 * Room.BLOCK : -2 * Room.BLOCK])
            return len(played) > 3 * 24_000 and not played[-24_000:].any()

        await until(over)
        room.say(480, 0)
        await until(lambda: "x." in home.printed)
        assert np.abs(played).max() > 0.2, "the echo of this would be taken for speech"
    assert len(engine.asked) == len(engine.heard) == 1


async def test_asleep_it_answers_nobody_and_called_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Voices of this server say how long they were: that is what it is called by."""
    engine = ScriptedEngine()
    async with in_a_room(engine, monkeypatch, wake_phrases=("voice 2",)) as home:
        home.room.say(480, 0.1)
        home.room.say(800, 0)
        await until(lambda: "not meant  voice 1 for" in home.printed)
        assert engine.asked == []
        home.room.say(480, 0.2)
        home.room.say(800, 0)
        await until(lambda: len(engine.asked) == 1)
        assert len(engine.asked[0][1]) == 1, "what was not meant is not in the history"


class Writing(ScriptedEngine):
    """Counts the transcripts that are done."""

    def __init__(self) -> None:
        super().__init__()
        self.transcripts = 0

    async def transcribe(self, heard: Heard) -> AsyncGenerator[Written, None]:
        async with aclosing(super().transcribe(heard)) as pieces:
            async for piece in pieces:
                yield piece
        self.transcripts += 1


async def test_it_wakes_to_a_name_that_may_be_noise_and_awake_is_silent_to_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name is short, and called from afar: what the model is unsure of is told to who listens for it."""
    engine = Writing()
    engine.written, engine.logprob = "computer", math.log(0.5)
    async with in_a_room(engine, monkeypatch, room=Room(loudspeaker=False), wake_phrases=("computer",)) as home:
        room = home.room
        room.say(480, 0.2)
        room.say(320, 0)
        await asyncio.sleep(0.1)  # time enough to doubt it, if anybody did
        room.say(480, 0)
        await until(lambda: home.printed.count("assistant") == 1)
        assert len(engine.asked) == 1 and "speaker 1  computer" in home.printed
        engine.written, written = "nine", engine.transcripts
        room.say(480, 0.2)
        room.say(320, 0)
        await until(lambda: engine.transcripts > written)  # during the pause, so that the turn is known for noise
        room.say(480, 0)
        await until(lambda: home.printed.count("assistant") == 2)
        assert "nine" not in home.printed
        engine.written, engine.logprob = "what now", 0.0
        room.say(480, 0.2)
        room.say(800, 0)
        await until(lambda: len(engine.asked) == 2)
    assert [past.text for past in engine.asked[1][1]][:-1] == ["computer"]


async def test_push_to_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine()
    engine.words = ["Five six. " * 300]
    async with in_a_room(engine, monkeypatch, push_to_talk=True) as home:
        room = home.room
        for _ in range(2):
            room.say(640, 0.2)  # before the key is pressed
            await home.press()
            room.say(480, 0.2)
            asked = len(engine.asked)
            await home.press()
            await until(lambda asked=asked: len(engine.asked) == asked + 1)  # type: ignore[misc]
            await until(lambda: bool(room.hear(100).any()))
    assert [len(heard) / 16_000 for heard in engine.heard] == pytest.approx([0.48, 0.48], abs=0.02)
    assert len(engine.asked[1][1][0].reply) < 100, "pressing the key interrupted it"


async def test_a_server_that_leaves_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    last = "conversation.item.input_audio_transcription.completed"
    turns = [("hello", "hi"), ("again", "hi again")]
    async with (
        ScriptedServer(spoken=turns, leave_after=last).running() as server,
        speaker_running(server.url, monkeypatch) as home,
    ):
        home.room.say(32, 0.5)
        home.room.say(160, 0)
        await until(lambda: "A new conversation" in home.printed)
        server.leave_after = ""
        home.room.say(32, 0.5)
        home.room.say(160, 0)
        await until(lambda: "speaker 1  again" in home.printed)
    assert "the server ended the conversation; trying on" in home.printed


async def test_nobody_is_told_that_it_listens_before_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    room, go_on = Room(), threading.Event()
    room.on_start = lambda: go_on.wait(10)
    monkeypatch.setitem(sys.modules, "sounddevice", room.module())
    home = Home(room)
    async with ScriptedServer().running() as server, asyncio.TaskGroup() as tasks:
        talking = tasks.create_task(talk(home.console, server.url, SpeakerOptions(backoff=QUICK)))
        await until(lambda: len(room.streams) == 1)
        await asyncio.sleep(0.2)
        assert not home.printed
        go_on.set()
        await until(lambda: "Listening to a device" in home.printed)
        assert len(room.streams) == 2
        talking.cancel()


async def test_no_server_at_the_beginning_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Room().module())
    with pytest.raises(ClientError, match=r"no server at ws://127\.0\.0\.1:9/"):
        await talk(Console(file=io.StringIO()), "ws://127.0.0.1:9/")


async def test_a_wake_phrase_that_cannot_be_said_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Room().module())
    options = SpeakerOptions(wake_phrases=("!",))
    with pytest.raises(ClientError, match=r"--wake '!': a wake phrase needs at least one letter"):
        await talk(Console(file=io.StringIO()), "ws://127.0.0.1:9/", options)


async def test_no_microphone_at_the_beginning_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Room(microphone=False).module())
    async with ScriptedServer().running() as server:
        with pytest.raises(ClientError, match="a microphone cannot be opened"):
            await talk(Console(file=io.StringIO()), server.url)
