"""Clients that know the names of the beta alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.beta.realtime import RealtimeServerEvent
from pydantic import BaseModel
from websockets.asyncio.client import connect

from agent.config import AgentConfig, ServerConfig
from agent.protocol.client_events import parse_client_event
from agent.protocol.errors import ProtocolError
from tests.agent.harness import Client, Event, running, silence, speech
from tests.agent.scripted import ScriptedEngine, ScriptedVoice
from tests.agent.test_tools import BREW, CALL, calling_config

BETA = {"OpenAI-Beta": "realtime=v1"}
FREE = ("model", "voice")  # literals of the beta's types, which no other server can keep to


def models() -> dict[str, type[BaseModel]]:
    union = get_args(RealtimeServerEvent)[0]
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(union)}


MODELS = models()


class OldClient(Client):
    """Checks every event against the types of the beta."""

    async def receive(self) -> Event:
        event: Event = json.loads(await self.socket.recv())
        self.seen.append(event)
        if not event["type"].startswith(("wavllm.", "transcription_session.")):
            checked = event
            if "session" in event:
                checked = event | {"session": {k: v for k, v in event["session"].items() if k not in FREE}}
            if "segment" not in event["type"]:
                MODELS[event["type"]].model_validate(checked, strict=True)
        return event


@asynccontextmanager
async def old_client(port: int, query: str = "", headers: dict[str, str] = BETA) -> AsyncIterator[OldClient]:
    url = f"ws://127.0.0.1:{port}/v1/realtime?{query}"
    async with connect(url, proxy=None, additional_headers=headers) as socket:
        yield OldClient(socket)


async def test_a_spoken_turn_by_the_old_names() -> None:
    async with running(ScriptedEngine(), voice=ScriptedVoice()) as port, old_client(port) as client:
        created = (await client.receive())["session"]
        assert (created["modalities"], created["input_audio_format"]) == (["text"], "pcm16")
        session = {
            "modalities": ["text", "audio"],
            "voice": "alloy",
            "input_audio_format": "pcm16",
            "output_audio_format": "g711_ulaw",
            "input_audio_transcription": {"model": "whisper-1"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
            "temperature": 0.8,
            "max_response_output_tokens": 50,
        }
        await client.send("session.update", session=session)
        updated = (await client.receive())["session"]
        assert updated["modalities"] == ["text", "audio"]
        assert (updated["output_audio_format"], updated["max_response_output_tokens"]) == ("g711_ulaw", 50)
        assert updated["turn_detection"]["silence_duration_ms"] == 400
        assert not updated.keys() & {"audio", "output_modalities", "type", "max_output_tokens"}
        client.seen.clear()
        await client.append(silence(400, 24_000) + speech(400, rate=24_000) + silence(600, 24_000))
        response = (await client.until("response.done"))["response"]
        kinds = [kind for kind in client.kinds() if "input_audio_transcription" not in kind]
        assert [kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before] == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.created",
            "response.created",
            "rate_limits.updated",
            "response.output_item.added",
            "conversation.item.created",
            "response.content_part.added",
            "response.audio_transcript.delta",
            "response.audio.delta",
            "response.audio.done",
            "response.audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.done",
        ]
        assert response["output"][0]["content"] == [{"type": "audio", "transcript": "answer 1 to speech"}]
        assert (response["modalities"], response["output_audio_format"]) == (["text", "audio"], "g711_ulaw")


async def test_typed_items_one_response_and_a_call(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with running(engine, calling_config(tmp_path)) as port, old_client(port) as client:
        content = [{"type": "text", "text": "hello"}]
        await client.send("conversation.item.create", item={"type": "message", "role": "assistant", "content": content})
        assert (await client.until("conversation.item.created"))["item"]["content"] == content
        engine.words = [CALL]
        response: Event = {"modalities": ["text"], "max_response_output_tokens": 50, "tools": [BREW]}
        earlier = {"type": "message", "role": "assistant", "content": content}
        await client.send("response.create", response=response | {"conversation": "none", "input": [earlier]})
        done = (await client.until("response.done"))["response"]
        assert (done["output"][0]["name"], done["max_output_tokens"]) == ("brew", 50)
    assert engine.asked[0][1][0].reply == "hello"


async def test_a_transcription_session_by_the_old_names() -> None:
    async with running(ScriptedEngine()) as port, old_client(port, "intent=transcription") as client:
        assert (await client.receive())["type"] == "transcription_session.created"
        update = {"input_audio_format": "pcm16", "turn_detection": None}
        await client.send("transcription_session.update", session=update)
        updated = await client.receive()
        assert updated["type"] == "transcription_session.updated"
        assert updated["session"]["turn_detection"] is None
        await client.append(speech(400, rate=24_000))
        await client.send("input_audio_buffer.commit")
        await client.until("conversation.item.input_audio_transcription.completed")


async def test_the_operator_can_want_the_old_names_for_all() -> None:
    config = AgentConfig(server=ServerConfig(legacy_events=True))
    async with running(ScriptedEngine(), config) as port, old_client(port, headers={}) as client:
        assert "modalities" in (await client.receive())["session"]
        await client.send("response.create")
        await client.until("response.text.done")


async def test_without_the_header_the_old_names_are_unknown() -> None:
    async with running(ScriptedEngine()) as port, old_client(port, headers={}) as client:
        await client.send("transcription_session.update", session={})
        while (event := json.loads(await client.socket.recv()))["type"] != "error":
            pass
        assert event["error"]["code"] == "unknown_event"


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"input_audio_format": "mp3"}, "session.audio.input.format.type"),
        ({"modalities": ["audio"]}, None),
        ({"modalities": 3}, "session.output_modalities"),
        ({"voice": 3}, "session.audio.output.voice"),
    ],
)
async def test_complaints_name_the_fields_of_today(session: Event, param: str | None) -> None:
    async with running(ScriptedEngine(), voice=ScriptedVoice()) as port, old_client(port) as client:
        await client.send("session.update", session=session)
        event = await client.until("error", "session.updated")
        assert event.get("error", {}).get("param") == param


ANY = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["modalities", "voice", "input_audio_format", "turn_detection", "item", "content", "input"])


@given(
    kind=st.sampled_from(["session.update", "response.create", "conversation.item.create", "no.such"]),
    name=st.sampled_from(["session", "response", "item"]),
    inner=ANY | st.dictionaries(FIELDS | st.sampled_from(["role", "type"]), ANY | st.just("assistant"), max_size=4),
)
def test_misshapen_messages_are_taken_or_refused_never_worse(kind: str, name: str, inner: Any) -> None:
    try:
        parse_client_event(json.dumps({"type": kind, name: inner}), legacy=True)
    except ProtocolError as refused:
        assert refused.message
