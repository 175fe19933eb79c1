"""Whatever is sent over a real socket: no crash, no leak, and every message that cannot be taken is answered.

One generator makes messages from a source of randomness: hypothesis is that source in the suite, a seed in the long
run, `pytest -m slow tests/agent/test_fuzz.py`, which sends 100,000 (FUZZ_MESSAGES) and watches the memory.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import gc
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from agent.config import AgentConfig, ServerConfig
from agent.protocol.client_events import parse_client_event
from agent.protocol.errors import ProtocolError
from tests.agent.harness import get, running, talking, turn
from tests.agent.scripted import ScriptedEngine, ScriptedVoice, speech
from tests.agent.test_transport import end_of, raw

TEXT = {"type": "input_text", "text": "hello"}
SOUND = base64.b64encode(speech(200)).decode()
FUNCTION = {"type": "function", "name": "brew", "description": "d", "parameters": {"type": "object"}}
DETECTION = {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 500, "idle_timeout_ms": None}
EVENTS: list[dict[str, Any]] = [
    {"type": "session.update", "session": {"type": "realtime", "instructions": "x", "max_output_tokens": 5}},
    {"type": "session.update", "session": {"audio": {"input": {"turn_detection": DETECTION}}}},
    {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}},
    {"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}},
    {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}},
    {"type": "session.update", "session": {"output_modalities": ["audio"], "tools": [FUNCTION]}},
    {"type": "input_audio_buffer.append", "audio": SOUND},
    {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(32_000)).decode()},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "id": "a", "content": [TEXT]}},
    {
        "type": "conversation.item.create",
        "previous_item_id": "a",
        "item": {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": SOUND}]},
    },
    {"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "c", "output": "o"}},
    {"type": "conversation.item.retrieve", "item_id": "a"},
    {"type": "conversation.item.delete", "item_id": "a"},
    {"type": "conversation.item.truncate", "item_id": "a", "content_index": 0, "audio_end_ms": 5},
    {"type": "response.create"},
    {"type": "response.create", "response": {"conversation": "none", "metadata": {"k": "v"}, "input": []}},
    {"type": "response.create", "response": {"output_modalities": ["audio"], "max_output_tokens": 3}},
    {"type": "response.cancel"},
    {"type": "output_audio_buffer.clear"},
]
ODD = (None, True, False, 0, -1, 2**70, 1e308, -0.0, "", "a", "\x00", "ü" * 300, "\ud800", [], [[]], {}, {"type": "?"})
MOST_MIB = 16  # that the process may grow by
Message = tuple[str | bytes, str]  # and the event_id that it was given


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in an event with every key of it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from places(value[key])


def make_message(rng: random.Random, number: int) -> Message:
    """An event as it should be, or bent in a few places, or bytes that are hardly one."""
    event_id = f"fuzz {number}"
    kind = rng.random()
    if kind < 0.1:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(40))), event_id
    event = copy.deepcopy(rng.choice(EVENTS)) | {"event_id": event_id}
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        container, key = rng.choice(list(places(event)))
        change = rng.randrange(4)
        if change == 0 and key != "event_id":
            del container[key]
        elif change == 1 and isinstance(container, dict):
            container[rng.choice(("type", "unknown", "item", "session", "id", "audio"))] = rng.choice(ODD)
        elif key != "event_id":
            container[key] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(event)
    if kind > 0.85:
        place = rng.randrange(len(text))
        text = rng.choice((text[:place], text[:place] + rng.choice('{}[]",:\\x00é9') + text[place + 1 :], text[place:]))
    return text, event_id


def must_fail(message: str | bytes) -> tuple[bool, str | None]:
    """Whether it is no event at all, and the event_id that a complaint about it has to carry."""
    try:
        return False, parse_client_event(message).event_id
    except ProtocolError as error:
        return True, error.event_id


async def converse(port: int, messages: Iterator[Message]) -> int:
    """Send everything, and see to it that what had to be refused was refused, and nothing twice; how many were."""
    url, sent = f"ws://127.0.0.1:{port}/v1/realtime", Counter[str | None]()
    refused, complaints = Counter[str | None](), Counter[str | None]()
    async with connect(url, proxy=None, max_size=None, max_queue=None) as socket:  # it reads even while it leaves

        async def listen() -> None:
            async for text in socket:
                event = json.loads(text)
                if event["type"] == "session.updated" and event["session"]["instructions"] == "the end":
                    return
                if event["type"] == "error" and event["error"]["type"] == "invalid_request_error":
                    assert event["error"]["message"] and event["error"]["code"]
                    complaints[event["error"]["event_id"]] += 1

        async with asyncio.TaskGroup() as tasks:
            ears = tasks.create_task(listen())
            for message, _ in messages:
                fails, event_id = must_fail(message)
                sent[event_id] += 1
                refused[event_id] += fails
                await socket.send(message)
            await socket.send(json.dumps({"type": "session.update", "session": {"instructions": "the end"}}))
            await ears
    for event_id, count in sent.items():
        assert refused[event_id] <= complaints[event_id] <= count, event_id
    assert set(complaints) <= set(sent)
    return sum(complaints.values())


def limits() -> AgentConfig:
    return AgentConfig(server=ServerConfig(messages_per_s=10**6))


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(rng=st.randoms(use_true_random=False))
def test_bent_messages_are_answered_and_the_session_goes_on(rng: random.Random) -> None:
    async def run() -> None:
        async with running(ScriptedEngine(), limits(), voice=ScriptedVoice()) as port:
            await converse(port, (make_message(rng, number) for number in range(50)))

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.timeout(3_600)
async def test_a_hundred_thousand_messages(caplog: pytest.LogCaptureFixture) -> None:
    messages, batch, process = int(os.environ.get("FUZZ_MESSAGES", 100_000)), 1_000, psutil.Process()
    caplog.set_level(logging.ERROR)
    refused, sizes_mib = 0, []
    engine, voice = ScriptedEngine(), ScriptedVoice()
    memories = (engine.heard, engine.asked, engine.prepared, engine.speculated, voice.asked)
    async with running(engine, limits(), voice=voice) as port:
        for number in range(messages // batch):
            rng = random.Random(number)
            refused += await converse(port, (make_message(rng, at) for at in range(batch)))
            for memory in memories:
                memory.clear()
            gc.collect()
            sizes_mib.append(process.memory_info().rss / 2**20)
        async with talking(port) as client:
            await client.append(turn())
            await client.until("response.done")
        assert (await get(port, "/readyz"))[0] == 200
    warm = len(sizes_mib) // 5
    early, late = sizes_mib[warm], sizes_mib[-1]
    print(f"{messages} messages, {refused} complaints; {early:.0f} MiB after a fifth, {late:.0f} at last")
    assert late - early < MOST_MIB
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


FRAMES = [
    Frame(Opcode.TEXT, json.dumps(EVENTS[0]).encode()).serialize(mask=True),
    Frame(Opcode.BINARY, speech(20)).serialize(mask=True),
    Frame(Opcode.PING, b"?").serialize(mask=True),
    Frame(Opcode.CLOSE, b"\x03\xe8bye").serialize(mask=True),
    Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True),
    Frame(Opcode.CONT, b"orphan").serialize(mask=True),
]


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(rng=st.randoms(use_true_random=False))
def test_bent_bytes_cost_one_connection_at_most(rng: random.Random) -> None:
    """Frames with bits flipped, cut off, in pieces; the neighbour does not notice."""

    async def bend(port: int) -> None:
        async with raw(port) as socket:
            for _ in range(rng.randrange(1, 6)):
                frame = bytearray(rng.choice(FRAMES))
                for _ in range(rng.choice((0, 1, 3))):
                    frame[rng.randrange(len(frame))] = rng.randrange(256)
                socket.writer.write(frame[: rng.choice((len(frame), rng.randrange(len(frame) + 1)))])
            socket.writer.write_eof()
            await end_of(socket.reader)

    async def run() -> None:
        async with running(ScriptedEngine(), limits()) as port, talking(port) as neighbour:
            for _ in range(8):
                await bend(port)
            await neighbour.append(turn())
            await neighbour.until("response.done")

    asyncio.run(run())


@pytest.mark.parametrize(
    "head",
    [b"\x00" * 40, b"GET\r\n\r\n", b"\xff\xfe HTTP/1.1\r\n\r\n", b"GET /v1/realtime HTTP/1.1\r\n" + b"A: b\r\n" * 400],
)
async def test_bent_handshakes_are_hung_up_on(head: bytes) -> None:
    async with running(ScriptedEngine(), limits()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        writer.write_eof()
        assert b" 101 " not in await end_of(reader)
        writer.close()
        async with talking(port):
            pass
