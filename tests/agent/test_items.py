"""Items as a client makes, reads, cuts and removes them, and what the model is told of them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import AgentConfig, ModelConfig
from agent.protocol.formats import PCM_RATES_HZ
from agent.sessions.kept_audio import KeptAudio
from tests.agent.harness import Client, Event, running, talking, turn
from tests.agent.scripted import ScriptedEngine, ScriptedVoice, speech

CALL = {"type": "function_call", "id": "c", "call_id": "call_1", "name": "brew", "arguments": '{"cups": 2}'}
OUTPUT = {"type": "function_call_output", "id": "o", "call_id": "call_1", "output": "done"}


def message(text: str, role: str = "user", **more: Any) -> Event:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **more}


async def create(client: Client, item: Event, **fields: Any) -> Event:
    await client.send("conversation.item.create", item=item, **fields)
    return await client.until("conversation.item.done", "error")


async def retrieve(client: Client, item_id: str) -> Event:
    await client.send("conversation.item.retrieve", item_id=item_id)
    item: Event = (await client.until("conversation.item.retrieved"))["item"]
    return item


def sound(item: Event) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(item["content"][0]["audio"]), "<i2")


async def test_every_kind_of_item_is_added_done_and_shown_again() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        for item in (message("be kind", "system", id="s"), message("hi", id="u"), CALL, OUTPUT):
            client.seen.clear()
            done = await create(client, item)
            assert client.kinds() == ["conversation.item.added", "conversation.item.done"]
            assert client.seen[0]["item"] == done["item"] == await retrieve(client, item["id"])
            assert done["item"].items() >= (item | {"status": "completed", "object": "realtime.item"}).items()
        await client.send("conversation.item.delete", item_id="o")
        assert (await client.until("conversation.item.deleted"))["item_id"] == "o"
        await client.send("conversation.item.retrieve", item_id="o")
        complaint = await client.complaint()
        assert (complaint["code"], complaint["param"]) == ("item_not_found", "item_id")


@pytest.mark.parametrize("rate", PCM_RATES_HZ)
async def test_what_was_said_comes_back_at_the_rate_of_the_client(rate: int) -> None:
    async with running(ScriptedEngine()) as port, talking(port, rate=rate) as client:
        content = [{"type": "input_audio", "audio": base64.b64encode(speech(500, 2, rate)).decode()}]
        await create(client, {"id": "mine", "type": "message", "role": "user", "content": content})
        await client.until("conversation.item.input_audio_transcription.completed")
        item = await retrieve(client, "mine")
        assert item["content"][0]["transcript"] == "voice 2 for 500 ms"
        assert len(sound(item)) == rate // 2
        assert np.median(sound(item)) == 2 * 3_000


async def test_a_turn_comes_back_with_its_prefix_and_no_more_silence_than_was_heard() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.append(turn(400))
        item_id = (await client.until("input_audio_buffer.committed"))["item_id"]
        await client.until("response.done")
        assert len(sound(await retrieve(client, item_id))) == 16 * (300 + 400 + 100)


async def test_a_spoken_reply_comes_back_as_far_as_it_was_heard() -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    engine.words = ["One latte."]
    async with running(engine, voice=voice) as port, talking(port) as client:
        await client.send("response.create", response={"output_modalities": ["audio"]})
        item_id = (await client.until("response.done"))["response"]["output"][0]["id"]
        item = await retrieve(client, item_id)
        assert sound(item).tobytes() == voice.sound("One latte.")
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=30)
        await client.until("conversation.item.truncated")
        item = await retrieve(client, item_id)
        assert item["content"][0]["transcript"] == "One"
        assert sound(item).tobytes() == voice.sound("One")


async def test_a_call_and_what_it_gave_are_history_for_the_model(tmp_path: Path) -> None:
    engine, config = ScriptedEngine(), AgentConfig(model=ModelConfig(checkpoint=tmp_path))
    async with running(engine, config) as port, talking(port) as client:
        second = CALL | {"id": "c2", "call_id": "call_2", "arguments": "{}"}
        for item in (message("two cups"), CALL, second, OUTPUT, OUTPUT | {"id": "o2", "call_id": "call_2"}):
            await create(client, item)
        await client.send("response.create")
        await client.until("response.done")
    asked = engine.asked[0][1]
    assert [exchange.text for exchange in asked] == [
        "two cups",
        "<tool_response>done</tool_response>\n<tool_response>done</tool_response>",
    ]
    assert asked[0].reply == (
        '<tool_call>{"name": "brew", "arguments": {"cups": 2}}</tool_call> '
        '<tool_call>{"name": "brew", "arguments": {}}</tool_call>'
    )


async def test_an_output_of_no_call_is_refused() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.send("conversation.item.create", item=OUTPUT)
        complaint = await client.complaint()
        assert (complaint["code"], complaint["param"]) == ("invalid_tool_call_id", "item.call_id")
        for missing in ("call_id", "output"):
            item = {name: value for name, value in OUTPUT.items() if name != missing}
            await client.send("conversation.item.create", item=item)
            complaint = await client.complaint()
            assert (complaint["code"], complaint["param"]) == ("missing_required_parameter", f"item.{missing}")


async def test_a_buffer_that_only_webrtc_has_is_refused_with_the_reason() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.send("output_audio_buffer.clear", event_id="mine")
        complaint = await client.complaint()
        assert (complaint["code"], complaint["event_id"]) == ("unsupported_event", "mine")
        assert "WebRTC" in complaint["message"]


async def test_every_segment_says_who_and_how_long() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.append(turn(400, voice=2))
        segment = await client.until("conversation.item.input_audio_transcription.segment")
        assert (segment["text"], segment["speaker"]) == ("voice 2 for 800 ms", "speaker 1")
        assert (segment["start"], segment["end"], segment["content_index"]) == (0.0, 0.8, 0)
        completed = await client.until("conversation.item.input_audio_transcription.completed")
        assert completed["item_id"] == segment["item_id"]


def test_the_oldest_sound_goes_when_there_is_too_much() -> None:
    kept = KeptAudio(max_bytes=10)
    for name in "abc":
        kept.begin(name)
        kept.add(name, name.encode() * 4)
    assert [kept.get(name) for name in "abc"] == [None, b"bbbb", b"cccc"]
    kept.cut("c", 1)
    kept.begin("d")
    kept.add("d", b"dddd")
    assert [kept.get(name) for name in "bcd"] == [b"bbbb", b"cc", b"dddd"]
    kept.add("d", b"dddd")
    kept.add("d", b"dddd")  # longer than all may be: none of it, and not its end either
    kept.add("d", b"dd")
    assert [kept.get(name) for name in "bcd"] == [None, None, None]
    kept.forget("d")


def test_an_item_that_begins_anew_is_counted_once() -> None:
    kept = KeptAudio(max_bytes=10)
    for _ in range(9):
        kept.begin("a")
        kept.add("a", bytes(8))
    assert kept.get("a") == bytes(8)


async def test_what_was_counted_is_not_counted_again_for_every_reply() -> None:
    class Counting(ScriptedEngine):
        longest = 0

        def count_tokens(self, text: str) -> int:
            self.longest = max(self.longest, len(text))
            return super().count_tokens(text)

    engine = Counting()
    async with running(engine) as port, talking(port) as client:
        for _ in range(9):
            await create(client, message("be kind", "system"))
        await client.send("response.create")
        done = await client.until("response.done")
        assert done["response"]["usage"]["input_tokens"] == 18 and engine.longest < 30
