"""What a client may set, when, and what it may no longer change; sessions that only transcribe, and their end."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from agent.config import AgentConfig, ServerConfig
from agent.protocol.errors import ProtocolError
from agent.protocol.fields import Fields
from agent.protocol.settings import LOGPROBS, Fixed, SessionSettings, merge
from tests.agent.harness import Client, running, talking, turn
from tests.agent.scripted import ScriptedEngine, ScriptedVoice

TRANSCRIPTION = "conversation.item.input_audio_transcription"


def merged(patch: dict[str, Any], fixed: Fixed | None = None, **now: Any) -> SessionSettings:
    return merge(SessionSettings(**now), Fields(patch, "session"), SessionSettings(), fixed)


@pytest.mark.parametrize(
    ("patch", "code", "param"),
    [
        ({"model": "gpt-realtime"}, "immutable_parameter", "model"),
        ({"prompt": {"id": "pmpt_1"}}, "unsupported_parameter", "prompt"),
        ({"include": ["item.input_audio_transcription.words"]}, "invalid_value", "include"),
        ({"include": [LOGPROBS, None]}, "invalid_value", "include[1]"),
        ({"include": LOGPROBS}, "invalid_value", "include"),
        ({"truncation": "disabled"}, "invalid_value", "truncation"),
        ({"tool_choice": "required"}, "unsupported_parameter", "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "unsupported_parameter", "tool_choice"),
        ({"parallel_tool_calls": 1}, "invalid_value", "parallel_tool_calls"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "invalid_value", "tools[0].name"),
        ({"tools": [{"type": "function", "name": "a", "parameters": []}]}, "invalid_value", "tools[0].parameters"),
        (
            {"tools": [{"type": "function", "name": "a", "parameters": {"type": "string"}}]},
            "invalid_value",
            "tools[0].parameters",
        ),
        (
            {"tools": [{"type": "function", "name": "a", "parameters": {"x": "y" * 20_000}}]},
            "string_above_max_length",
            "tools[0].parameters",
        ),
        ({"tools": [{"type": "function", "name": "a"}] * 2}, "invalid_value", "tools[1].name"),
        ({"tools": [{"type": "function", "name": "a"}] * 65}, "invalid_value", "tools"),
    ],
)
def test_what_cannot_be_is_refused_by_name(patch: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        merged({"instructions": "half done", **patch}, Fixed(kind=True), calls_tools=True)
    assert (refused.value.code, refused.value.param) == (code, f"session.{param}")


def test_tools_are_set_kept_and_cleared() -> None:
    tools = [{"type": "function", "name": "brew", "description": "Coffee.", "parameters": {"type": "object"}}]
    with_tools = merged({"tools": tools, "tool_choice": "none", "parallel_tool_calls": False}, calls_tools=True)
    wire = merge(with_tools, Fields({}), SessionSettings()).to_wire("sess_1")
    assert (wire["tools"], wire["tool_choice"], wire["parallel_tool_calls"]) == (tools, "none", False)
    assert merge(with_tools, Fields({"tools": []}), SessionSettings()).tools == ()


def test_the_model_may_be_called_by_the_name_that_the_client_connected_with() -> None:
    settings = merged({"model": "gpt-realtime"}, model="gpt-realtime")
    assert settings.to_wire("sess_1")["model"] == "wavllm"
    assert merged({"model": "wavllm"}, model="gpt-realtime").model == "gpt-realtime"
    renamed = merged({"model": "gpt-realtime-2.1"}, model="gpt-realtime")  # as the agents SDK does, before all else
    assert merge(renamed, Fields({"model": "gpt-realtime-2.1"}), SessionSettings(), Fixed(kind=True)) == renamed


def test_a_voice_that_was_heard_stays() -> None:
    heard = Fixed(voice=True)
    assert merged({"audio": {"output": {"voice": "marin"}}}).asked_voice == "marin"
    for voice in ("marin", "espeak"):  # as it was called, and as it is called
        merged({"audio": {"output": {"voice": voice}}}, heard, asked_voice="marin", voice="espeak")
    with pytest.raises(ProtocolError) as refused:
        merged({"audio": {"output": {"voice": {"id": "cedar"}}}}, heard, asked_voice="marin", voice="espeak")
    assert (refused.value.code, refused.value.param) == ("cannot_update_voice", "session.audio.output.voice")


async def test_voice_and_kind_are_fixed_over_the_wire() -> None:
    async with running(ScriptedEngine(), voice=ScriptedVoice()) as port, talking(port) as client:
        for voice in ("marin", "cedar"):
            assert (await client.configure(audio={"output": {"voice": voice}}))["type"] == "session.updated"
        await client.send("response.create", response={"output_modalities": ["audio"]})
        await client.until("response.done")
        for patch, code in (
            ({"audio": {"output": {"voice": "marin"}}}, "cannot_update_voice"),
            ({"type": "transcription"}, "immutable_parameter"),
        ):
            await client.send("session.update", session={"type": "realtime", "instructions": "changed"} | patch)
            assert (await client.complaint())["code"] == code
        assert (await client.configure())["session"]["instructions"] == ""


async def transcribes_only(client: Client) -> None:
    for _ in range(2):
        client.seen.clear()
        await client.append(turn(400))
        await client.until(f"{TRANSCRIPTION}.completed")
        assert [kind for kind in client.kinds() if not kind.endswith(".delta")] == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "wavllm.speaker",
            f"{TRANSCRIPTION}.segment",
            f"{TRANSCRIPTION}.completed",
        ]
    await client.send("response.create", event_id="no")
    complaint = await client.complaint()
    assert (complaint["code"], complaint["event_id"]) == ("unsupported_event", "no")
    for name, value in (("instructions", "x"), ("output_modalities", ["text"]), ("max_output_tokens", 5)):
        await client.send("session.update", session={"type": "transcription", name: value})
        complaint = await client.complaint()
        assert (complaint["code"], complaint["param"]) == ("unsupported_parameter", f"session.{name}")


@pytest.mark.parametrize("kind", ["realtime", "transcription"])
async def test_transcripts_tell_how_sure_the_model_was_where_it_is_wanted(kind: str) -> None:
    engine = ScriptedEngine()
    engine.logprob = -0.25

    async def told(client: Client) -> list[Any]:
        client.seen.clear()
        await client.append(turn(400))
        completed = await client.until(f"{TRANSCRIPTION}.completed")
        deltas = [event for event in client.seen if event["type"] == f"{TRANSCRIPTION}.delta"]
        assert "".join(event["delta"] for event in deltas).strip() == completed["transcript"]
        return [event.get("logprobs") for event in (*deltas, completed)]

    async with running(engine) as port, talking(port) as client:
        assert (await client.configure(type=kind))["session"]["include"] is None
        assert await told(client) == [None, None, None]
        assert (await client.configure(type=kind, include=[LOGPROBS]))["session"]["include"] == [LOGPROBS]
        first, second, whole = await told(client)
        assert whole == [*first, *second]
        assert first == [{"token": "voice 1 ", "logprob": -0.25, "bytes": list(b"voice 1 ")}]
        await client.configure(type=kind, instructions="x") if kind == "realtime" else None
        assert None not in await told(client)  # what is not named stays
        await client.configure(type=kind, include=None)
        assert await told(client) == [None, None, None]


async def test_a_session_can_be_told_to_transcribe() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        updated = await client.configure(type="transcription")
        assert updated["session"]["type"] == "transcription"
        assert set(updated["session"]["audio"]) == {"input"}
        await transcribes_only(client)
    assert (engine.asked, engine.speculated, engine.prepared) == ([], [], [])


async def test_the_address_can_say_so_too() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port, "intent=transcription&model=whisper-1") as client:
        await client.send("session.update", session={"type": "realtime"})
        assert (await client.complaint())["code"] == "immutable_parameter"
        await transcribes_only(client)
    assert engine.asked == []


async def test_a_session_ends_when_its_time_is_up() -> None:
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine, AgentConfig(server=ServerConfig(session_s=0.3))) as port, talking(port) as client:
        await client.send("response.create")
        done = await client.until("response.done")
        assert done["response"]["status"] == "failed"
        assert "0.3 s" in done["response"]["status_details"]["error"]["message"]
        assert (await client.complaint())["code"] == "session_expired"
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason[:11]) == (1001, "the session")


async def test_the_client_is_told_when_that_will_be() -> None:
    config = AgentConfig(server=ServerConfig(session_s=1e6))
    async with running(ScriptedEngine(), config) as port, talking(port) as client:
        expires_at = (await client.configure())["session"]["expires_at"]
        assert isinstance(expires_at, int)
        assert expires_at > 1e6
    async with running(ScriptedEngine()) as port, talking(port) as client:
        assert (await client.configure())["session"]["expires_at"] is None
