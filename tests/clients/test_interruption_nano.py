"""A reply of the shipped model, a short sound, and the rest of the reply, as a client plays it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from agent.config import AgentConfig, TurnsConfig, VoiceConfig
from agent.transport.server import serve
from clients.demo.run import FOLDER
from clients.file import read_sound
from clients.playback import Playback, play_replies
from clients.realtime import Event, connect
from tests.agent.scripted import ScriptedVoice
from wavllm_core.checkpoint import NANO
from wavllm_core.engine.live import LiveEngine

ORDER = "give me a dark roast espresso with lots of almond milk"
SOUND_MS, HEARD_MS = 400, 150


@pytest.fixture
def engine() -> LiveEngine:
    """Loaded before there is an event loop that it would block."""
    return LiveEngine.load(NANO)


def transcript(done: Event) -> str:
    return "".join(item["content"][0]["transcript"] for item in done["response"]["output"])


async def test_a_short_sound_does_not_end_a_reply(engine: LiveEngine) -> None:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = AgentConfig(turns=TurnsConfig(short_ms=600), voice=VoiceConfig(lead_ms=400))
    config = replace(config, server=replace(config.server, port=0))
    clip, playback = read_sound(FOLDER / "clips" / "s2i_90a00f8a.flac"), Playback(24_000)
    onset = int(np.flatnonzero(np.abs(clip) > 0.05 * np.abs(clip).max())[0])
    sound = clip[onset : onset + 16 * SOUND_MS]
    responses: list[Event] = []
    async with asyncio.TaskGroup() as tasks:
        work = serve(config, engine, on_ready=port.set_result, make_voice=lambda _: ScriptedVoice())
        server = tasks.create_task(work)
        async with connect(f"ws://127.0.0.1:{await port}/v1/realtime", spoken=True) as conversation:
            await conversation.send_text(ORDER)
            heard_ms = 0
            async for event in play_replies(conversation, playback):
                if event["type"] == "response.output_audio.delta" and heard_ms < HEARD_MS:
                    heard_ms += np.count_nonzero(playback.take(24 * HEARD_MS)) // 24
                    if heard_ms >= HEARD_MS:
                        await conversation.send_audio(sound)
                elif event["type"] in ("response.created", "response.done", "conversation.item.truncated"):
                    responses.append(event)
                if event["type"] == "conversation.item.truncated":
                    await conversation.send_audio(np.zeros(16_000, np.float32))
                if len(responses) == 5:
                    break
            await conversation.send_text("what did i order")
            async for event in play_replies(conversation, playback):
                if event["type"] == "response.done":
                    break
        server.cancel()
    await engine.close()
    print(
        [
            (
                e["type"],
                e.get("audio_end_ms"),
                e.get("wavllm_resumes"),
                (transcript(e) if e["type"] == "response.done" else ""),
            )
            for e in responses
        ]
    )
    first, cut, truncated, again, rest = responses
    assert cut["response"]["status_details"]["reason"] == "turn_detected"
    assert truncated["type"] == "conversation.item.truncated"
    assert again["wavllm_resumes"] == first["response"]["id"]
    assert rest["response"]["status"] == "completed"
    whole = "A dark roast espresso with lots of almond milk. How many?"
    assert whole.removesuffix(transcript(rest)) in ("A ", "A dark ", "A dark roast ")  # voices differ in their pace
    assert "espresso" in transcript(event)  # the history is whole
