from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agent.config import AgentConfig, ServerConfig
from agent.errors import AgentError
from agent.transport.server import serve
from tests.agent.harness import Client, get, knock, running, talking, turn
from tests.agent.scripted import ScriptedEngine
from wavllm_core.engine.api import Heard


async def test_health_and_other_paths() -> None:
    async with running(ScriptedEngine()) as port, talking(port):
        status, headers, answer = await get(port, "/healthz")
        health = json.loads(answer)
        assert (status, health["status"], health["sessions"]) == (200, "ok", 1)
        assert {"queue_wait_ms", "decoder_step_ms", "positions_filled"} <= set(health["engine"])
        assert headers["content-type"] == "application/json"
        assert (await get(port, "/elsewhere"))[0] == 404
        assert (await get(port, "/v1/realtime"))[0] == 426
        with pytest.raises(InvalidStatus, match="404"):
            await connect(f"ws://127.0.0.1:{port}/v1/other", proxy=None)


async def test_health_is_none_where_the_model_works_no_more() -> None:
    engine = ScriptedEngine()
    engine.dead = True
    async with running(engine) as port:
        status, _, answer = await get(port, "/healthz")
        assert (status, json.loads(answer)["status"]) == (503, "the engine is closed")
        status, _, answer = await get(port, "/readyz")
        assert (status, json.loads(answer)["error"]["code"]) == (503, "engine_failed")


async def test_the_greeting_tells_what_it_can_do() -> None:
    async with running(ScriptedEngine()) as port:
        url = f"ws://127.0.0.1:{port}/v1/realtime?model=any&intent=conversation"
        async with connect(url, proxy=None, subprotocols=["realtime", "key.abc"]) as opened:  # type: ignore[list-item]
            greeting = await Client(opened).receive()
        assert opened.subprotocol == "realtime"
    assert greeting["type"] == "session.created"
    assert set(greeting["wavllm"]) == {"extensions", "version"}
    session = greeting["session"]
    assert session["output_modalities"] == ["text"]
    assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24_000}
    assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"


async def test_a_full_server_says_so_and_takes_clients_again_later() -> None:
    config = AgentConfig(server=ServerConfig(max_sessions=1))
    async with running(ScriptedEngine(), config) as port:
        async with talking(port):
            for status, headers, answer in (await knock(port), await get(port, "/readyz")):
                error = json.loads(answer)["error"]
                assert (status, error["code"], "1 sessions" in error["message"]) == (503, "server_full", True)
                assert (headers["content-type"], headers["retry-after"]) == ("application/json", "5")
        async with asyncio.timeout(5):
            while (await get(port, "/readyz"))[0] != 200:
                pass  # the server notices in its own time
        async with talking(port) as client:
            await client.append(turn())
            await client.until("response.done")


async def test_an_engine_without_room_refuses_too() -> None:
    engine = ScriptedEngine()
    engine.full = True
    async with running(engine) as port, connect(f"ws://127.0.0.1:{port}/v1/realtime", proxy=None) as refused:
        error = json.loads(await refused.recv())["error"]
        assert (error["code"], "0 conversations" in error["message"]) == ("server_full", True)
        with pytest.raises(ConnectionClosed) as closed:
            await refused.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1013, error["message"])


async def test_a_signal_stops_the_server_and_clients_are_told() -> None:
    engine = ScriptedEngine()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(AgentConfig(server=ServerConfig(port=0)), engine, on_ready=ready.set_result))
        async with connect(f"ws://127.0.0.1:{await ready}/v1/realtime", proxy=None) as client:
            await client.recv()
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the server stops")


async def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AgentError, match=f"127.0.0.1:{port}"):
            await serve(AgentConfig(server=ServerConfig(port=port)), ScriptedEngine())


class BrokenEngine(ScriptedEngine):
    """Fails in a way that nobody foresaw."""

    def transcribe(self, heard: Heard) -> None:  # type: ignore[override]
        raise ZeroDivisionError


async def test_a_surprise_costs_one_connection_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with running(BrokenEngine()) as port, talking(port) as other:
        async with talking(port) as client:
            await client.append(turn())
            with pytest.raises(ConnectionClosed) as closed:
                await client.until("nothing")
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "internal error")
        assert "ZeroDivisionError" in caplog.text
        await other.send("response.create")
        await other.until("response.done")
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] == [logging.ERROR]
