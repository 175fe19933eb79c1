"""A server on port 0, and a client that checks every event against the types of the openai SDK."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, get_args

from openai.types.realtime import RealtimeServerEvent
from pydantic import BaseModel
from websockets.asyncio.client import ClientConnection, connect

from agent.config import AgentConfig, KeyConfig
from agent.protocol.formats import PCM_RATES_HZ
from agent.speech.voice import Voice
from agent.transport.server import serve
from agent.voices.speakers import SpeakerOptions
from tests.agent.scripted import LoudnessVad, ScriptedEngine, silence, speech
from wavllm_core.engine.api import Heard

Event = dict[str, Any]


def with_the_one_rate_of_the_sdk(event: Event) -> Event:
    """PCM at other rates is an extension that clients ask for; the SDK's types know 24 kHz alone."""
    sound = event.get("response", {}).get("audio")
    if not sound or sound["output"]["format"] not in [{"type": "audio/pcm", "rate": rate} for rate in PCM_RATES_HZ]:
        return event
    output = sound["output"] | {"format": {"type": "audio/pcm", "rate": 24_000}}
    return event | {"response": event["response"] | {"audio": {"output": output}}}


def event_models() -> dict[str, type[BaseModel]]:
    union = get_args(RealtimeServerEvent)[0]
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(union)}


MODELS = event_models()


@asynccontextmanager
async def running(
    engine: ScriptedEngine,
    config: AgentConfig | None = None,
    make_vad: Any = LoudnessVad,
    voice: Voice | None = None,
    keys: dict[str, KeyConfig] | None = None,
    judge: Callable[[Heard], float] | None = None,
    speakers: SpeakerOptions | None = None,
) -> AsyncIterator[int]:
    """A live server; gives its port, and afterwards sees to it that nothing is left."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    before = asyncio.all_tasks()
    async with asyncio.TaskGroup() as tasks:
        config = config or AgentConfig()
        config = replace(config, server=replace(config.server, port=0))
        parts: dict[str, Any] = {
            "make_vad": make_vad,
            "make_voice": lambda _: voice,
            "make_judge": lambda _: judge,
            "speakers": speakers or SpeakerOptions(),
        }
        work = serve(config, engine, keys=keys, on_ready=port.set_result, **parts)
        server = tasks.create_task(work)
        try:
            yield await port
        finally:
            server.cancel()
    assert asyncio.all_tasks() == before
    assert (engine.running, engine.open) == (0, set())


class Client:
    """Sends and receives JSON, as any application would."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[Event] = []

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def append(self, pcm: bytes, chunk_bytes: int = 6_400) -> None:
        for start in range(0, len(pcm), chunk_bytes):
            audio = base64.b64encode(pcm[start : start + chunk_bytes]).decode()
            await self.send("input_audio_buffer.append", audio=audio)

    async def receive(self) -> Event:
        event: Event = json.loads(await self.socket.recv())
        self.seen.append(event)
        if not event["type"].startswith(("wavllm.", "session.")):  # those have a rate the SDK does not know
            MODELS[event["type"]].model_validate(with_the_one_rate_of_the_sdk(event), strict=True)
        return event

    async def until(self, *kinds: str) -> Event:
        """The first event of such a type; the others are in `seen`."""
        while (event := await self.receive())["type"] not in kinds:
            pass
        return event

    async def configure(self, **session: Any) -> Event:
        await self.send("session.update", session={"type": "realtime", **session})
        return await self.until("session.updated", "error")

    async def configure_input(self, **audio: Any) -> Event:
        return await self.configure(audio={"input": audio})

    async def complaint(self) -> Event:
        error: Event = (await self.until("error"))["error"]
        return error

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.seen]


async def get(port: int, path: str, *headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers in lower case, and body of a plain request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    status, *fields = head.split("\r\n")
    return int(status.split()[1]), {name.lower(): value for name, value in (x.split(": ", 1) for x in fields)}, body


async def knock(port: int, *headers: str) -> tuple[int, dict[str, str], str]:
    """What a client is told that asks for a conversation and does not get it."""
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    return await get(port, "/v1/realtime", *upgrade, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", *headers)


@asynccontextmanager
async def talking(port: int, query: str = "", *, rate: int = 16_000) -> AsyncIterator[Client]:
    """A client that has been greeted, sends 16 kHz and wants the events of this server's own."""
    async with connect(f"ws://127.0.0.1:{port}/v1/realtime?{query}", proxy=None) as socket:
        client = Client(socket)
        kind = (await client.until("session.created"))["session"]["type"]
        audio = {"input": {"format": {"type": "audio/pcm", "rate": rate}}}
        await client.configure(type=kind, audio=audio, wavllm={})
        client.seen.clear()
        yield client


def turn(ms: int = 400, voice: int = 1) -> bytes:
    """A turn of speech at 16 kHz that the server finds by itself."""
    return silence(400) + speech(ms, voice) + silence(600)
