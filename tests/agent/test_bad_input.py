"""What a client can do wrong: it is told, by field and limit, and its session goes on."""

from __future__ import annotations

import base64
import gc
import json
import tracemalloc
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from agent.config import AgentConfig, ServerConfig
from agent.hearing.vad import WebRtcVad
from agent.protocol.client_events import parse_client_event
from agent.protocol.errors import ProtocolError
from tests.agent.harness import Client, running, talking, turn
from tests.agent.scripted import ScriptedEngine, silence, speech


def said(**fields: Any) -> str:
    return json.dumps(fields)


def item(**fields: Any) -> str:
    whole = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]} | fields
    return said(type="conversation.item.create", item=whole)


def audio_input(**fields: Any) -> str:
    return said(type="session.update", session={"audio": {"input": fields}})


BAD = [
    ("not json", "invalid_json", None, "not JSON"),
    ("[1, 2]", "invalid_json", None, "JSON object"),
    ('{"type": NaN}', "invalid_json", None, "NaN"),
    ("[" * 100_000, "invalid_json", None, "not JSON"),
    ('{"type": ' + "9" * 5_000 + "}", "invalid_json", None, "not JSON"),
    *(('{"type": ' + "[" * depth + "]" * depth + "}", "invalid_json", None, "64 deep") for depth in (64, 500)),
    *(  # Python reads some that it cannot write out again, which ones depends on the stack
        (
            '{"type":"response.create","response":{"metadata":' + "[" * depth + "]" * depth + "}}",
            "invalid_json",
            None,
            "",
        )
        for depth in range(950, 1_000)
    ),
    ('{"type": ' + "[" * 63 + "]" * 63 + "}", "invalid_value", "type", "a string"),
    (b"\x00\x01\x02", "invalid_audio", "audio", "3 bytes"),
    (said(), "missing_required_parameter", "type", "type is missing"),
    (said(type=7), "invalid_value", "type", "a string, not 7"),
    (said(type="response.fly"), "unknown_event", "type", "session.update"),
    (said(type="response.create", event_id=[1]), "invalid_value", "event_id", "event_id"),
    (said(type="input_audio_buffer.append"), "missing_required_parameter", "audio", "audio is missing"),
    (said(type="input_audio_buffer.append", audio=5), "invalid_value", "audio", "base64, not 5"),
    (said(type="input_audio_buffer.append", audio="?!"), "invalid_base64", "audio", "not base64"),
    (said(type="input_audio_buffer.append", audio="häh="), "invalid_base64", "audio", "not base64"),
    (said(type="input_audio_buffer.append", audio="QUJD"), "invalid_audio", "audio", "3 bytes"),
    (said(type="input_audio_buffer.commit"), "input_audio_buffer_commit_empty", None, "100 ms"),
    (said(type="response.cancel"), "response_cancel_not_active", "response_id", "no response"),
    (said(type="session.update"), "missing_required_parameter", "session", "session is missing"),
    (said(type="session.update", session=[]), "invalid_value", "session", "an object"),
    (said(type="session.update", session={"type": "translation"}), "invalid_value", "session.type", "realtime"),
    (
        said(type="session.update", session={"output_modalities": ["audio"]}),
        "invalid_value",
        "session.output_modalities",
        "no voice",
    ),
    (
        said(type="session.update", session={"tools": [{"type": "function"}]}),
        "missing_required_parameter",
        "session.tools[0].name",
        "is missing",
    ),
    (
        said(type="session.update", session={"instructions": "x" * 40_000}),
        "string_above_max_length",
        "session.instructions",
        "32768",
    ),
    (
        audio_input(format={"type": "audio/pcm", "rate": 44_100}),
        "invalid_value",
        "session.audio.input.format.rate",
        "16000 or 24000",
    ),
    (
        audio_input(format={"type": "audio/opus"}),
        "invalid_value",
        "session.audio.input.format.type",
        "audio/pcmu",
    ),
    (
        audio_input(format={"type": "audio/pcmu", "rate": 16_000}),
        "invalid_value",
        "session.audio.input.format.rate",
        "8000, not 16000",
    ),
    (
        audio_input(turn_detection={"type": "semantic_vad", "threshold": 0.3}),
        "unsupported_parameter",
        "session.audio.input.turn_detection.threshold",
        "belongs to server_vad",
    ),
    (
        audio_input(turn_detection={"eagerness": "high"}),
        "unsupported_parameter",
        "session.audio.input.turn_detection.eagerness",
        "belongs to semantic_vad",
    ),
    (
        audio_input(turn_detection={"type": "semantic_vad", "eagerness": "mad"}),
        "invalid_value",
        "session.audio.input.turn_detection.eagerness",
        "medium",
    ),
    (
        audio_input(turn_detection={"idle_timeout_ms": 100}),
        "invalid_value",
        "session.audio.input.turn_detection.idle_timeout_ms",
        "5000 to 30000, not 100",
    ),
    (
        audio_input(turn_detection={"type": "magic_vad"}),
        "invalid_value",
        "session.audio.input.turn_detection.type",
        "server_vad",
    ),
    (
        audio_input(turn_detection={"threshold": 2}),
        "invalid_value",
        "session.audio.input.turn_detection.threshold",
        "0 to 1, not 2",
    ),
    (
        audio_input(turn_detection={"silence_duration_ms": True}),
        "invalid_value",
        "session.audio.input.turn_detection.silence_duration_ms",
        "not true",
    ),
    (
        audio_input(turn_detection={"create_response": None}),
        "invalid_value",
        "session.audio.input.turn_detection.create_response",
        "true or false, not null",
    ),
    (item(role="robot"), "invalid_value", "item.role", "system"),
    (item(type="mcp_call"), "invalid_value", "item.type", "message"),
    (item(content="hi"), "invalid_value", "item.content", "a list"),
    (item(content=[]), "invalid_value", "item.content", "at least one"),
    (item(content=[3]), "invalid_type", "item.content[0]", "an object"),
    (item(content=[{"type": "input_image"}]), "invalid_value", "item.content[0].type", "input_text"),
    (
        item(content=[{"type": "input_text", "text": "\ud800"}]),
        "invalid_value",
        "item.content[0].text",
        "Unicode",
    ),
    (
        item(content=[{"type": "input_audio", "audio": "AAA="}]),
        "invalid_value",
        "item.content[0].audio",
        "100 to 30000 ms",
    ),
    (
        said(type="conversation.item.create", previous_item_id="none", item=json.loads(item())["item"]),
        "item_not_found",
        "previous_item_id",
        "'none'",
    ),
    (
        said(type="response.create", response={"conversation": "some"}),
        "invalid_value",
        "response.conversation",
        "auto",
    ),
    (
        said(type="response.create", response={"max_output_tokens": 0}),
        "invalid_value",
        "response.max_output_tokens",
        "1 to 4096",
    ),
    (
        said(type="response.create", response={"metadata": {"k": 1}}),
        "invalid_value",
        "response.metadata.k",
        "a string",
    ),
]


async def test_every_mistake_is_named_and_the_session_goes_on() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        before = (await client.configure())["session"]
        for message, code, param, words in BAD:
            await client.socket.send(message)
            complaint = await client.complaint()
            assert (complaint["code"], complaint["param"]) == (code, param), message[:80]
            assert words in complaint["message"], complaint["message"]
            assert len(complaint["message"]) < 400
        assert (await client.configure())["session"] == before  # nothing was half done
        await client.append(turn())
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"


async def test_a_complaint_carries_the_event_id() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        for kind in ("no.such.event", "response.cancel", "input_audio_buffer.append"):
            await client.send(kind, event_id=f"my {kind}")
            assert (await client.complaint())["event_id"] == f"my {kind}"


async def test_a_second_response_is_refused_while_one_is_active() -> None:
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port, talking(port) as client:
        await client.send("response.create")
        await client.send("response.create")
        assert (await client.complaint())["code"] == "conversation_already_has_active_response"
        await client.send("response.cancel", response_id="resp_other")
        assert (await client.complaint())["code"] == "response_cancel_not_active"
        engine.go_on.set()
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"


async def test_20_megabytes_are_refused_and_the_session_goes_on() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.send("input_audio_buffer.append", audio="A" * (20 * 2**20))
        complaint = await client.complaint()
        assert complaint["code"] == "message_too_large"
        assert str(16 * 2**20) in complaint["message"]
        await client.send("input_audio_buffer.append", audio="A" * (15 * 2**20 + 4))
        complaint = await client.complaint()
        assert (complaint["code"], complaint["param"]) == ("string_above_max_length", "audio")
        assert str(15 * 2**20) in complaint["message"]
        await client.send("response.create")
        await client.until("response.done")


async def test_beyond_the_hard_limit_the_connection_is_closed_with_the_reason() -> None:
    config = AgentConfig(server=ServerConfig(max_message_bytes=2**17))
    async with running(ScriptedEngine(), config) as port, talking(port) as client:
        await client.send("input_audio_buffer.append", audio="A" * 2**18)
        with pytest.raises(ConnectionClosedError) as closed:
            await client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert str(2**17) in closed.value.rcvd.reason


async def test_audio_may_come_before_the_greeting_is_read() -> None:
    async with (
        running(ScriptedEngine()) as port,
        connect(f"ws://127.0.0.1:{port}/v1/realtime", proxy=None) as socket,
    ):
        client = Client(socket)
        await client.append(silence(400, 24_000) + speech(400, rate=24_000) + silence(800, 24_000))
        assert (await client.receive())["type"] == "session.created"
        await client.until("response.done")


async def test_a_clip_of_one_sample() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.append(b"\x01\x00")
        await client.configure_input(turn_detection=None)
        await client.append(b"\x01\x00")
        await client.send("input_audio_buffer.commit")
        complaint = await client.complaint()
        assert complaint["code"] == "input_audio_buffer_commit_empty"
        assert "0 ms" in complaint["message"]


async def test_a_buffer_that_is_never_committed_is_bounded_and_the_client_is_told_once() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.configure_input(turn_detection=None)
        await client.append(speech(40_000), chunk_bytes=32_000)
        await client.send("input_audio_buffer.commit")
        await client.until("conversation.item.input_audio_transcription.completed")
        complaints = [event["error"] for event in client.seen if event["type"] == "error"]
        assert [complaint["code"] for complaint in complaints] == ["input_audio_buffer_full"]
        assert "30000 ms" in complaints[0]["message"]
        assert client.seen[-1]["transcript"] == "voice 1 for 30000 ms"


async def test_speech_without_end_is_cut_into_turns() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await client.append(speech(65_000), chunk_bytes=320_000)
        await client.until("input_audio_buffer.committed")
        await client.until("input_audio_buffer.committed")
        await client.until("response.done")
    turns = [len(waveform) for waveform in engine.heard if len(waveform) > 16_000]  # the rest tells the voice early
    assert turns == [480_000, 480_000]


async def test_ten_minutes_of_silence_cost_nothing() -> None:
    engine = ScriptedEngine()
    async with running(engine, make_vad=WebRtcVad) as port, talking(port) as client:
        tracemalloc.start()
        try:
            sizes = []
            for _ in range(10):
                await client.append(silence(60_000), chunk_bytes=32_000)
                await client.send("input_audio_buffer.clear")
                await client.until("input_audio_buffer.cleared")
                client.seen.clear()
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert sizes[-1] - sizes[0] < 50_000
    assert engine.heard == []


async def test_a_client_that_does_not_read_is_let_go() -> None:
    config = AgentConfig(server=ServerConfig(send_timeout_s=0.2))
    async with running(ScriptedEngine(), config) as port:
        address = f"ws://127.0.0.1:{port}/v1/realtime"
        async with connect(address, proxy=None, max_queue=1, close_timeout=0.1) as socket:
            update = said(type="session.update", session={"instructions": "x" * 30_000})
            with pytest.raises(ConnectionClosedError):
                while True:
                    await socket.send(update)
        async with talking(port) as client:  # others are not touched
            await client.append(turn())
            await client.until("response.done")


async def test_too_many_transcripts_at_a_time_are_refused() -> None:
    engine = ScriptedEngine()
    engine.pencil.clear()
    async with running(engine) as port, talking(port) as client:
        await client.configure_input(turn_detection=None)
        for _ in range(10):
            await client.append(speech(100))
            await client.send("input_audio_buffer.commit")
        for _ in range(2):
            failed = await client.until("conversation.item.input_audio_transcription.failed")
            assert "8 transcripts" in failed["error"]["message"]
        engine.pencil.set()
        for _ in range(8):
            await client.until("conversation.item.input_audio_transcription.completed")


def test_the_event_id_is_bounded_too() -> None:
    with pytest.raises(ProtocolError, match="128") as raised:
        parse_client_event(said(type="response.create", event_id="x" * 1000))
    assert raised.value.param == "event_id"


def test_base64_of_the_largest_append_is_taken() -> None:
    audio = base64.b64encode(bytes(2**20)).decode()
    event = parse_client_event(said(type="input_audio_buffer.append", audio=audio))
    assert event.audio == bytes(2**20)  # type: ignore[union-attr]
