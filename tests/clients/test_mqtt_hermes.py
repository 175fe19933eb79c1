"""Rhasspy satellites, as programs on a real broker, and a server that answers by rule."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiomqtt import Client
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol.errors import ProtocolError
from clients.mqtt import hermes
from clients.mqtt.gateway import GatewaySettings
from clients.mqtt.hermes import read_wav, write_wav
from clients.mqtt.player import Player
from clients.mqtt.site import SiteLimits
from clients.realtime import ClientError
from tests.agent.harness import running
from tests.agent.scripted import ScriptedEngine, ScriptedVoice
from tests.agent.test_functions import call, configured, saying
from tests.clients.brokers import Mosquitto
from tests.clients.gateways import gateway_running
from tests.clients.scripted_server import SOUND, ScriptedServer

LOUD = np.full(1_600, 16_000, "<i2").tobytes()
QUIET = bytes(len(LOUD))
broker = pytest.mark.needs("mosquitto")


class Satellite:
    """Remembers all that is published, and plays what it is sent at once."""

    def __init__(self, client: Client, site: str = "kitchen") -> None:
        self.client, self.site = client, site
        self.told: list[tuple[str, Any]] = []
        self.played = b""
        self.confirms = True  # what it has played
        self._changed = asyncio.Event()

    async def publish(self, topic: str, **values: Any) -> None:
        await self.client.publish(f"hermes/{topic}", json.dumps(values), qos=1)

    async def stream(self, *pcm: bytes) -> None:
        for part in pcm:
            await self.client.publish(f"hermes/audioServer/{self.site}/audioFrame", write_wav(part, 16_000))

    async def listen(self) -> None:
        """Until cancelled."""
        async for message in self.client.messages:
            topic = message.topic.value.removeprefix("hermes/")
            assert isinstance(message.payload, bytes)
            if topic.startswith(f"audioServer/{self.site}/playBytes/"):
                assert len(message.payload) <= 24_044
                self.played += message.payload[44:]
                self.told.append(("playBytes", len(message.payload)))
                if self.confirms:
                    await self.publish(f"audioServer/{self.site}/playFinished", id=topic.rpartition("/")[2])
            elif not topic.startswith("audioServer/"):
                with suppress(ValueError):
                    self.told.append((topic, json.loads(message.payload)))
            self._changed.set()

    def of(self, topic: str) -> list[Any]:
        return [values for told, values in self.told if told == topic]

    async def until(self, topic: str, count: int = 1) -> Any:
        async with asyncio.timeout(10):
            while len(self.of(topic)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.of(topic)[count - 1]


@asynccontextmanager
async def kitchen(folder: Path, server: ScriptedServer, **limits: float) -> AsyncIterator[Satellite]:
    async with server.running(), kitchen_of(folder, server.url, **limits) as satellite:
        yield satellite


@asynccontextmanager
async def kitchen_of(folder: Path, url: str, **limits: float) -> AsyncIterator[Satellite]:
    async with (
        Mosquitto(folder).running() as mosquitto,
        gateway_running(mosquitto.address, url, sites=("kitchen",), site_limits=SiteLimits(**limits)),
        Client(mosquitto.address.host, mosquitto.address.port) as client,
        asyncio.TaskGroup() as tasks,
    ):
        await client.subscribe("hermes/#", qos=1)
        satellite = Satellite(client)
        listening = tasks.create_task(satellite.listen())
        yield satellite
        listening.cancel()


@broker
async def test_whoever_says_the_wake_word_is_listened_to_and_answered_aloud(tmp_path: Path) -> None:
    async with kitchen(tmp_path, ScriptedServer(spoken=[("make me a latte", "Coming up.")], voice=True)) as satellite:
        await satellite.publish("hotword/computer/detected", siteId="kitchen", modelId="computer")
        started = await satellite.until("dialogueManager/sessionStarted")
        assert await satellite.until("asr/startListening") == {
            "siteId": "kitchen",
            "sessionId": started["sessionId"],
            "stopOnSilence": True,
            "wakewordId": "computer",
        }
        await satellite.stream(LOUD, LOUD, QUIET, QUIET)
        captured = await satellite.until("asr/textCaptured")
        ended = await satellite.until("dialogueManager/sessionEnded")
        await satellite.until("hotword/toggleOn")
    assert captured["text"] == "make me a latte"
    assert captured["seconds"] == pytest.approx(0.4)
    assert (captured["siteId"], captured["sessionId"]) == ("kitchen", started["sessionId"])
    assert satellite.played == SOUND
    assert satellite.of("playBytes") == [24_044, 24_044, 57_600 - 48_000 + 44]
    assert ended == {**started, "termination": {"reason": "nominal"}}
    kinds = [topic for topic, _ in satellite.told if topic not in ("playBytes", "asr/textCaptured")]
    assert kinds == [
        "hotword/computer/detected",
        "hotword/toggleOff",
        "dialogueManager/sessionStarted",
        "asr/startListening",
        "asr/stopListening",
        "dialogueManager/sessionEnded",
        "hotword/toggleOn",
    ]


@broker
async def test_the_real_server_says_a_given_text_and_forgets_it(tmp_path: Path) -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    async with (
        running(engine, voice=voice) as port,
        kitchen_of(tmp_path, f"ws://127.0.0.1:{port}/v1/realtime") as satellite,
    ):
        await satellite.publish("tts/say", siteId="kitchen", text="The coffee is ready.", id="1")
        await satellite.until("tts/sayFinished")
        await satellite.publish("hotword/computer/detected", siteId="kitchen")
        await satellite.until("asr/startListening")
        await satellite.stream(LOUD, LOUD, LOUD, *[QUIET] * 7)
        await satellite.until("asr/textCaptured")
        await satellite.until("dialogueManager/sessionEnded")
    assert satellite.played.startswith(ScriptedVoice.sound("The coffee is ready."))
    assert [[said.reply for said in history] for _, history, _ in engine.asked] == [[None]]


@broker
async def test_a_timer_is_spoken_of_when_no_session_is_under_way(tmp_path: Path) -> None:
    engine = saying(call("set_timer", seconds=0.01), "Right.", "It is over.")
    async with (
        running(engine, configured(tmp_path), voice=ScriptedVoice()) as port,
        kitchen_of(tmp_path, f"ws://127.0.0.1:{port}/v1/realtime") as satellite,
    ):
        await satellite.publish("hotword/computer/detected", siteId="kitchen", modelId="computer")
        await satellite.until("asr/startListening")
        await satellite.stream(LOUD, LOUD, LOUD, QUIET, QUIET)
        ended = await satellite.until("dialogueManager/sessionEnded")
        await satellite.until("playBytes", 2)
    assert ended["termination"] == {"reason": "nominal"}
    assert satellite.played == ScriptedVoice.sound("Right.") + ScriptedVoice.sound("It is over.")


@broker
async def test_a_reply_that_asks_is_listened_to(tmp_path: Path) -> None:
    turns = [("a latte", "A latte. How many?"), ("three", "Coming up.")]
    async with kitchen(tmp_path, ScriptedServer(spoken=turns, voice=True)) as satellite:
        await satellite.publish(
            "dialogueManager/startSession", siteId="kitchen", customData="7", init={"type": "action"}
        )
        for turn in (1, 2):
            await satellite.until("asr/startListening", turn)
            await satellite.stream(LOUD, QUIET, QUIET)
            await satellite.until("asr/textCaptured", turn)
        ended = await satellite.until("dialogueManager/sessionEnded")
    assert [captured["text"] for captured in satellite.of("asr/textCaptured")] == ["a latte", "three"]
    assert ended["customData"] == "7"
    assert len({captured["sessionId"] for captured in satellite.of("asr/textCaptured")}) == 1


@broker
async def test_who_wants_to_know_what_was_said_is_told_that_alone(tmp_path: Path) -> None:
    async with kitchen(tmp_path, ScriptedServer(spoken=[("hello", "Who is there?")], voice=True)) as satellite:
        await satellite.publish("asr/startListening", siteId="kitchen", sessionId="mine", wakewordId="w")
        await satellite.stream(LOUD)
        await satellite.publish("asr/stopListening", siteId="kitchen", sessionId="mine")
        captured = await satellite.until("asr/textCaptured")
        await satellite.publish("tts/say", siteId="kitchen", text="good night", id="say-1", sessionId="other")
        finished = await satellite.until("tts/sayFinished")
    assert (captured["text"], captured["sessionId"], captured["wakewordId"]) == ("hello", "mine", "w")
    assert finished == {"id": "say-1", "siteId": "kitchen", "sessionId": "other"}
    assert satellite.played == SOUND, "the reply was not to be played, the text was"
    assert not [topic for topic, _ in satellite.told if topic.startswith("dialogueManager")]


@broker
async def test_a_notification_is_said_and_a_session_may_wait_for_it(tmp_path: Path) -> None:
    async with kitchen(tmp_path, ScriptedServer(voice=True), listen_s=0.2) as satellite:
        notice = {"type": "notification", "text": "the coffee is ready"}
        await satellite.publish("dialogueManager/startSession", siteId="kitchen", init=notice)
        await satellite.publish(
            "dialogueManager/startSession", siteId="kitchen", init={"type": "action"}, customData="b"
        )
        never = {"type": "action", "canBeEnqueued": False}
        await satellite.publish("dialogueManager/startSession", siteId="kitchen", init=never, customData="c")
        second = await satellite.until("dialogueManager/sessionEnded", 2)
    assert satellite.of("dialogueManager/sessionQueued") == [{"siteId": "kitchen", "customData": "b"}]
    assert satellite.of("error/dialogueManager")[0]["context"] == "c"
    assert satellite.of("dialogueManager/sessionEnded")[0]["termination"] == {"reason": "nominal"}
    assert (second["customData"], second["termination"]) == ("b", {"reason": "timeout"})
    assert satellite.played == SOUND


@broker
async def test_sessions_are_ended_and_interrupted(tmp_path: Path) -> None:
    async with kitchen(tmp_path, ScriptedServer(voice=True)) as satellite:
        await satellite.publish(
            "dialogueManager/startSession", siteId="kitchen", init={"type": "action", "text": "yes?"}
        )
        await satellite.until("asr/startListening")
        await satellite.publish("hotword/computer/detected", siteId="kitchen")
        session = await satellite.until("dialogueManager/sessionStarted", 2)
        await satellite.until("asr/startListening", 2)
        await satellite.publish("dialogueManager/endSession", sessionId="of nobody", text="bye")
        await satellite.publish("dialogueManager/endSession", sessionId=session["sessionId"], text="bye")
        await satellite.until("dialogueManager/sessionEnded", 2)
    reasons = [ended["termination"]["reason"] for ended in satellite.of("dialogueManager/sessionEnded")]
    assert reasons == ["abortedByUser", "nominal"]
    assert satellite.played == 2 * SOUND
    assert len(satellite.of("asr/stopListening")) == 2


@broker
async def test_a_reply_that_is_broken_off_does_not_silence_the_site(tmp_path: Path) -> None:
    """The model reached the limit of its tokens after something was spoken."""
    server = ScriptedServer(spoken=[("a long story", "Once upon")], voice=True, status="incomplete")
    async with kitchen(tmp_path, server) as satellite:
        await satellite.publish("dialogueManager/startSession", siteId="kitchen", init={"type": "action"})
        await satellite.until("asr/startListening")
        await satellite.stream(LOUD, QUIET, QUIET)
        ended = await satellite.until("dialogueManager/sessionEnded")
        await satellite.publish("tts/say", siteId="kitchen", text="good night", id="say-1")
        await satellite.until("tts/sayFinished")
    assert ended["termination"]["reason"] == "error"
    assert satellite.played == 2 * SOUND


@broker
async def test_a_reply_that_is_lost_with_the_server_neither_silences_the_site_nor_mixes_up_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.mqtt.player.STALL_S", 0.2)
    server = ScriptedServer(spoken=[("a", "Once"), ("b", "Coming.")], voice=True)
    server.leave_after = "response.output_audio.delta"
    async with kitchen(tmp_path, server) as satellite:
        for turn in (1, 2):
            await satellite.publish("dialogueManager/startSession", siteId="kitchen", init={"type": "action"})
            session = await satellite.until("dialogueManager/sessionStarted", turn)
            await satellite.until("asr/startListening", turn)
            await satellite.stream(LOUD, QUIET, QUIET)
            if turn == 1:
                await satellite.until("playBytes", 2)
                await satellite.publish("dialogueManager/endSession", sessionId=session["sessionId"])
            await satellite.until("dialogueManager/sessionEnded", turn)
            server.leave_after = ""
        captured = await satellite.until("asr/textCaptured")
    assert satellite.played == 2 * SOUND
    assert (captured["text"], captured["sessionId"]) == ("b", session["sessionId"])


@broker
async def test_who_wanted_something_said_is_told_when_the_wake_word_breaks_it_off(tmp_path: Path) -> None:
    async with kitchen(tmp_path, ScriptedServer(voice=True)) as satellite:
        satellite.confirms = False
        await satellite.publish("tts/say", siteId="kitchen", text="good night", id="say-1")
        await satellite.until("playBytes", 2)
        await satellite.publish("hotword/computer/detected", siteId="kitchen")
        await satellite.until("asr/startListening")
        finished = await satellite.until("tts/sayFinished")
    assert finished["id"] == "say-1" and len(satellite.of("playBytes")) == 2


@broker
async def test_a_session_that_waits_goes_on_waiting_when_the_wake_word_is_said(tmp_path: Path) -> None:
    action = {"type": "action"}
    async with kitchen(tmp_path, ScriptedServer(voice=True)) as satellite:
        for name in ("a", "b"):
            await satellite.publish("dialogueManager/startSession", siteId="kitchen", init=action, customData=name)
        await satellite.until("dialogueManager/sessionQueued")
        await satellite.publish("hotword/computer/detected", siteId="kitchen")
        for number in (2, 3):
            session = await satellite.until("dialogueManager/sessionStarted", number)
            await satellite.publish("dialogueManager/endSession", sessionId=session["sessionId"])
            await satellite.until("dialogueManager/sessionEnded", number)
    started, ended = (
        [told["customData"] for told in satellite.of(f"dialogueManager/session{kind}")] for kind in ("Started", "Ended")
    )
    assert started == ended == ["a", None, "b"]


@broker
async def test_without_a_voice_it_goes_on_and_says_why(tmp_path: Path) -> None:
    async with kitchen(tmp_path, ScriptedServer(spoken=[("hello", "hi")])) as satellite:
        await satellite.publish("tts/say", siteId="kitchen", text="good night", id="say-1")
        await satellite.until("tts/sayFinished")
        await satellite.publish("hotword/computer/detected", siteId="kitchen")
        await satellite.until("asr/startListening")
        await satellite.stream(LOUD, QUIET, QUIET)
        assert (await satellite.until("dialogueManager/sessionEnded"))["termination"] == {"reason": "nominal"}
    assert satellite.of("error/tts")[0]["error"] == "the server has no voice for a given text"


@broker
async def test_what_cannot_be_is_refused_and_the_rest_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lying = write_wav(LOUD, 16_000)[:-2]
    async with kitchen(tmp_path, ScriptedServer(spoken=[("hello", "hi")], voice=True)) as satellite:
        for _ in range(2):
            for site in ("hall", "#", "a/b", "+", "x" * 64):
                await satellite.publish("hotword/computer/detected", siteId=site)
            await satellite.client.publish("hermes/audioServer/kitchen/audioFrame", lying)
            await satellite.client.publish("hermes/audioServer/kitchen/audioFrame", bytes(70_000))
            await satellite.client.publish("hermes/asr/startListening", b"{")
            await satellite.publish("asr/startListening", siteId=5)
            await satellite.publish("dialogueManager/startSession", siteId="kitchen", init={"type": "party"})
            await satellite.publish("tts/say", siteId="kitchen", text="x" * 5_000)
        poison = json.dumps({"siteId": "kitchen", "text": "poison"})
        await satellite.client.publish("hermes/tts/say", poison, retain=True, qos=1)
        await satellite.until("tts/sayFinished")  # it was not retained for those who were there
        await satellite.publish("hotword/computer/detected", siteId="kitchen")
        await satellite.until("asr/startListening", 3)
        await satellite.stream(LOUD, QUIET, QUIET)
        await satellite.until("dialogueManager/sessionEnded")
    assert satellite.of("dialogueManager/sessionStarted")[0]["siteId"] == "kitchen"
    assert len(satellite.of("dialogueManager/sessionStarted")) == 1
    frames = [complaint["error"] for complaint in satellite.of("error/audioServer/record")]
    assert frames[:2] == [
        "the file claims 3236 bytes; there are 3234",
        "a frame has 70000 bytes; the limit is 33024: a second",
    ]
    assert "is not JSON" in satellite.of("error/asr")[0]["error"]
    assert satellite.of("error/asr")[1]["error"] == "siteId must be a string, not 5"
    assert 'init.type must be "action" or "notification"' in satellite.of("error/dialogueManager")[0]["error"]
    assert satellite.of("error/tts")[0]["error"] == "text has 5000 characters; the limit is 4096"
    logged = [record.getMessage() for record in caplog.records if "told once" in record.getMessage()]
    assert len([line for line in logged if "none of the sites that are served" in line]) == 5
    assert len(logged) == len(set(logged))


@broker
async def test_a_retained_command_is_not_obeyed(tmp_path: Path) -> None:
    async with (
        Mosquitto(tmp_path).running() as mosquitto,
        ScriptedServer(voice=True).running() as server,
        Client(mosquitto.address.host, mosquitto.address.port) as client,
    ):
        await client.subscribe("hermes/error/#", qos=1)
        await client.publish("hermes/tts/say", b'{"siteId": "kitchen", "text": "boo"}', retain=True, qos=1)
        async with gateway_running(mosquitto.address, server.url, sites=("kitchen",)), asyncio.timeout(5):
            complaint = await anext(client.messages)
    assert b"a retained hermes/tts/say is ignored" in complaint.payload  # type: ignore[operator]
    assert server.turns == 0


def test_sites_have_names_like_devices() -> None:
    with pytest.raises(ClientError, match=r"site 'a/b': .*only letters"):
        GatewaySettings(sites=("a/b",))


def test_more_sites_than_devices_cannot_be_served() -> None:
    with pytest.raises(ClientError, match="2 sites are more than the 1 devices to be served"):
        GatewaySettings(sites=("hall", "kitchen"), max_devices=1)
    assert GatewaySettings(sites=("hall", "hall"), max_devices=1).sites


def with_fields(change: Callable[[bytearray], None]) -> bytes:
    wav = bytearray(write_wav(LOUD, 16_000))
    change(wav)
    return bytes(wav)


def put(offset: int, form: str, value: int) -> Callable[[bytearray], None]:
    return lambda wav: struct.pack_into(form, wav, offset, value)


@pytest.mark.parametrize(
    ("wav", "fault"),
    [
        (b"", "0 bytes is not a WAV file"),
        (b"RIFX" + bytes(40), "44 bytes is not a WAV file"),
        (with_fields(put(4, "<I", 2**31)), "the file claims 2147483648 bytes; there are 3236"),
        (with_fields(put(40, "<I", 3_202)), "chunk b'data' claims 3202 bytes; there are 3200"),
        (with_fields(put(40, "<I", 3_199)), "samples come before their format, or are not of 16 bits"),
        (with_fields(put(16, "<I", 10**6)), "chunk b'fmt ' claims"),
        (with_fields(put(22, "<H", 2)), "not format 1, 2 channels, 16000 Hz, 16 bits"),
        (with_fields(put(24, "<I", 44_100)), "not format 1, 1 channels, 44100 Hz, 16 bits"),
        (with_fields(put(20, "<H", 3)), "not format 3"),
        (with_fields(put(16, "<I", 2)), "the format of the WAV file is cut off"),
        (with_fields(lambda wav: wav.__setitem__(slice(36, 40), b"LIST")), "the WAV file holds no samples"),
        (with_fields(lambda wav: wav.__setitem__(slice(12, 16), b"LIST")), "samples come before their format"),
    ],
)
def test_headers_that_lie_are_refused(wav: bytes, fault: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        read_wav(wav)
    assert fault in raised.value.message


@given(st.binary(max_size=64))
def test_any_bytes_are_samples_or_refused(tail: bytes) -> None:
    for payload in (tail, write_wav(b"", 16_000)[:36] + tail):
        try:
            read_wav(payload)
        except ProtocolError as error:
            assert error.code == "invalid_audio"


def test_what_else_a_file_may_hold_is_skipped() -> None:
    wav = write_wav(LOUD, 16_000)
    extra = wav[:36] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + wav[36:]
    assert read_wav(b"RIFF" + struct.pack("<I", len(extra) - 8) + extra[8:]) == LOUD


@given(st.text(max_size=40), st.binary(max_size=100))
def test_any_command_is_read_or_refused(topic: str, payload: bytes) -> None:
    for name in (topic, f"hermes/{topic}", *(f"hermes/{command}" for command in hermes.COMMANDS)):
        with pytest.raises(ProtocolError):
            hermes.parse_command(name, payload)
        assert hermes.component(name)


async def test_a_site_that_never_tells_what_it_has_played_is_not_waited_for_for_ever() -> None:
    sent: list[str] = []
    heard = asyncio.Event()

    async def send(request_id: str, pcm: bytes) -> None:
        sent.append(request_id)

    async def played(reply_id: str) -> None:
        heard.set()

    player = Player(send, played, grace_s=-0.49)
    async with asyncio.TaskGroup() as tasks:
        playing = tasks.create_task(player.run())
        player.put("a", bytes(60_000))
        player.end("a")
        async with asyncio.timeout(5):
            await heard.wait()
        playing.cancel()
    assert sent == ["a-0", "a-1", "a-2"]
