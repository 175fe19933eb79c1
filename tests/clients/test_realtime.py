from __future__ import annotations

import socket
from importlib.util import find_spec

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from clients.realtime import ClientError, connect, to_pcm
from tests.clients.scripted_server import ScriptedServer


async def test_a_conversation_in_events() -> None:
    async with ScriptedServer().running() as server, connect(server.url, "Be brief.") as conversation:
        await conversation.send_audio(np.zeros(320, np.float32))
        await conversation.send_text("hello")
        kinds = []
        async for event in conversation:
            kinds.append(event["type"])
            if event["type"] == "response.done":
                break
    assert kinds[0] == "response.created"
    assert server.samples == 320
    assert server.session["instructions"] == "Be brief."
    assert server.session["output_modalities"] == ["text"]
    assert server.session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 16000}


def test_samples_are_clipped_not_wrapped() -> None:
    assert np.frombuffer(to_pcm(np.array([0.0, 1.5, -1.5], np.float32)), "<i2").tolist() == [0, 32767, -32767]


async def test_no_server() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ClientError, match="start one with: wavllm serve"):
            async with connect(f"ws://127.0.0.1:{unused.getsockname()[1]}/v1/realtime"):
                pass


async def test_a_refusal_is_told() -> None:
    async with ScriptedServer(refuse=True).running() as server:
        with pytest.raises(ClientError, match="refused the session: full"):
            async with connect(server.url):
                pass


@pytest.mark.parametrize("greeting", ["hello", '"hello"', "[]", "{}", b"\xff"])
async def test_a_server_of_something_else_is_told(greeting: str | bytes) -> None:
    async def greet(socket: ServerConnection) -> None:
        await socket.send(greeting)
        await socket.wait_closed()

    async with serve(greet, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(ClientError, match=r"no event where session\.created was due"):
            async with connect(f"ws://127.0.0.1:{port}/"):
                pass


async def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.realtime.GREETING_S", 0.01)
    async with serve(lambda socket: socket.wait_closed(), "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(ClientError, match=r"silent for 0\.01 s where session\.created was due"):
            async with connect(f"ws://127.0.0.1:{port}/"):
                pass


@pytest.mark.parametrize(
    "proxy",
    [
        "ftp://127.0.0.1:9",
        pytest.param(
            "socks5://127.0.0.1:9", marks=pytest.mark.skipif(bool(find_spec("python_socks")), reason="usable")
        ),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_told(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"http": proxy})
    with pytest.raises(ClientError, match=r"proxy of the environment is of no use for ws://192\.0\.2\.1/"):
        async with connect("ws://192.0.2.1/"):
            pass


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "127.0.0.1", "ws://[::1"])
async def test_not_an_address(url: str) -> None:
    with pytest.raises(ClientError, match="not a WebSocket address"):
        async with connect(url):
            pass
