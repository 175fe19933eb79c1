"""A server with a voice, and a client that hears it: what tests of spoken replies share."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.config import AgentConfig, VoiceConfig
from agent.speech.voice import Voice
from tests.agent.harness import Client, Event, running, talking
from tests.agent.scripted import ScriptedEngine, ScriptedVoice

SENTENCES = ["One latte. ", "Anything else? ", "Fine."]
TEXT = "".join(SENTENCES)
OPENING = [
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
]
CLOSING = [
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]
TRANSCRIPT, AUDIO = "response.output_audio_transcript.delta", "response.output_audio.delta"
MS_PER_CHAR = 10  # of the scripted voice


def talkative() -> ScriptedEngine:
    engine = ScriptedEngine()
    engine.words = [TEXT[start : start + 4] for start in range(0, len(TEXT), 4)]
    return engine


@asynccontextmanager
async def listening(engine: ScriptedEngine, voice: Voice, **limits: int) -> AsyncIterator[Client]:
    """A client of a server with a voice that wants to hear replies."""
    config = AgentConfig(voice=VoiceConfig(**limits))
    async with running(engine, config, voice=voice) as port, talking(port) as client:
        updated = await client.configure(output_modalities=["audio"])
        assert updated["session"]["output_modalities"] == ["audio"]
        client.seen.clear()
        yield client
    if isinstance(voice, ScriptedVoice):
        assert voice.running == 0


def heard(events: list[Event]) -> bytes:
    return b"".join(base64.b64decode(event["delta"]) for event in events if event["type"] == AUDIO)


def read(events: list[Event]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == TRANSCRIPT)


async def round_trip(client: Client) -> None:
    """Afterwards everything has come that was under way."""
    await client.configure()


@asynccontextmanager
async def half_heard(engine: ScriptedEngine, voice: ScriptedVoice) -> AsyncIterator[Client]:
    """The same while a long reply is spoken, of which 400 ms have arrived."""
    engine.words = ["One two three. Four five six. ", "Seven " * 300]
    async with listening(engine, voice, lead_ms=500) as client:
        await client.send("response.create")
        while len(heard(client.seen)) < 48 * 400:
            await client.receive()
        yield client
