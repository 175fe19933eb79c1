"""The way to a conversation and out of it: keys, origins, TLS, limits, signs of life, metrics, the end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from agent.config import AccessConfig, AgentConfig, KeyConfig, ServerConfig, load_keys
from agent.errors import ConfigError
from agent.transport.server import serve
from agent.transport.wire import Bucket
from clients.realtime import ClientError
from clients.realtime import connect as converse
from tests.agent.harness import Client, get, knock, running, talking, turn
from tests.agent.scripted import ScriptedEngine
from wavllm_core.engine.load import Spread

SECRET, OTHER = "a-secret-of-the-kitchen", "another-secret-of-the-hall"
KEYS = load_keys(AccessConfig(), {"WAVLLM_KEYS": f"{{kitchen: {SECRET}, hall: {{key: {OTHER}, max_sessions: 1}}}}"})


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}"


def limited(**limits: Any) -> AgentConfig:
    return AgentConfig(server=ServerConfig(**limits))


async def figures(port: int, *headers: str) -> dict[str, float]:
    status, _, text = await get(port, "/metrics", *headers)
    assert status == 200
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values() if value): sample.value
        for sample in samples
    }


async def test_who_shows_no_key_is_refused_before_the_handshake(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "agent")
    async with running(ScriptedEngine(), keys=KEYS) as port:
        for shown in (
            [],
            [bearer("")],
            [bearer(SECRET[:-1])],
            [f"Authorization: Basic {SECRET}"],
            [bearer("a"), bearer(SECRET)],
            [bearer("ä")],
        ):
            status, headers, body = await knock(port, *shown)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert json.loads(body)["error"]["code"] == "invalid_api_key"
        assert (await get(port, "/metrics"))[0] == 401
        assert (await get(port, "/healthz"))[0] == (await get(port, "/readyz"))[0] == 200
        url = f"ws://127.0.0.1:{port}/v1/realtime"
        async with connect(url, proxy=None, additional_headers={"Authorization": f"bearer {SECRET}"}) as socket:
            await Client(socket).until("session.created")
        offered = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{OTHER}")]
        async with connect(url, proxy=None, subprotocols=offered) as socket:
            await Client(socket).until("session.created")
            assert socket.subprotocol == "realtime"
            status, headers, body = await knock(port, bearer(OTHER))
            assert (status, json.loads(body)["error"]["code"]) == (429, "too_many_sessions")
            assert "1 sessions" in body and "retry-after" in headers
            for origins in (["http://other"], ["null"], ["http://["], [f"http://127.0.0.1:{port}", "http://b"]):
                assert (await knock(port, bearer(SECRET), *(f"Origin: {one}" for one in origins)))[0] == 403
            counted = await figures(port, bearer(SECRET))
        assert counted["wavllm_refusals_total invalid_api_key"] == 7
        assert counted["wavllm_refusals_total too_many_sessions"] == 1
    assert "with the key kitchen" in caplog.text
    assert SECRET not in caplog.text and OTHER not in caplog.text


async def test_pages_of_others_may_not_talk_to_it() -> None:
    config = AgentConfig(access=AccessConfig(allowed_origins=("https://friend.example",)))
    async with running(ScriptedEngine(), config) as port:
        status, _, body = await knock(port, "Origin: https://evil.example")
        assert (status, json.loads(body)["error"]["code"]) == (403, "origin_not_allowed")
        url = f"ws://127.0.0.1:{port}/v1/realtime"
        for origin in ("https://friend.example", f"http://127.0.0.1:{port}"):
            async with connect(url, proxy=None, additional_headers={"Origin": origin}) as socket:
                await Client(socket).until("session.created")


async def test_our_own_client_shows_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(ScriptedEngine(), keys=KEYS) as port:
        url = f"ws://127.0.0.1:{port}/v1/realtime"
        with pytest.raises(ClientError, match=r"wants a key that it knows.*WAVLLM_API_KEY"):
            async with converse(url):
                pass
        monkeypatch.setenv("WAVLLM_API_KEY", SECRET)
        async with converse(url) as conversation:
            await conversation.send_text("hello")
            async for event in conversation:
                if event["type"] == "response.done":
                    break


def make_certificate(certificate: Path, key: Path) -> None:
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    named = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*made, *named, "-out", certificate, "-keyout", key], check=True, capture_output=True)


@pytest.mark.needs("openssl")
async def test_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    config = AgentConfig(access=AccessConfig(certificate=certificate, private_key=key))
    trust = ssl.create_default_context(cafile=certificate)
    async with (
        running(ScriptedEngine(), config) as port,
        connect(f"wss://127.0.0.1:{port}/v1/realtime", ssl=trust, proxy=None) as socket,
    ):
        await Client(socket).until("session.created")
    with pytest.raises(ConfigError, match=r"key\.pem cannot be used"):
        await serve(AgentConfig(access=AccessConfig(certificate=key)), ScriptedEngine())
    with pytest.raises(ConfigError, match="private_key"):
        await serve(AgentConfig(access=AccessConfig(private_key=key)), ScriptedEngine())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kitchen: short", "kitchen.key: "),
        (f"kitchen: {{key: {SECRET}, max_session: 3}}", "max_session: "),
        (f"kitchen: {{key: {SECRET}, messages_per_s: 0}}", "messages_per_s: "),
        (f"[{SECRET}]", "lines like"),
        (f"{{{SECRET}", "lines like"),
        (f"kitchen: [{SECRET}]", "kitchen"),
        ("{}", "holds no key"),
    ],
)
def test_complaints_about_keys_never_quote_them(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_keys(AccessConfig(keys_file=path), {})
    complaint = str(raised.value)
    assert complaint.startswith(str(path)) and words in complaint
    assert SECRET not in complaint and "short" not in complaint.replace(str(path), "")
    assert raised.value.__cause__ is None and SECRET not in repr(KEYS)


def test_two_keys_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"kitchen: {SECRET}")
    with pytest.raises(ConfigError, match="two keys of the name 'kitchen'"):
        load_keys(AccessConfig(keys_file=path), {"WAVLLM_KEYS": f"kitchen: {OTHER}"})


async def test_slow_handshakes_are_hung_up_on_and_are_few() -> None:
    async with running(ScriptedEngine(), limited(handshake_timeout_s=0.3, max_connections=3)) as port:
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in slow:
            writer.write(b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nX-")
            await writer.drain()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await end_of(reader) == b""  # at once, whatever it was going to say
        writer.close()
        for reader, writer in slow:
            assert await end_of(reader) == b""
            writer.close()
        async with talking(port) as client:
            await client.append(turn())
            await client.until("response.done")


@pytest.mark.parametrize("said", [b"", b"GET /heal", b"\x16\x03\x01\r\n\r\n", b"HEAD /healthz HTTP/1.1\r\n\r\n"])
async def test_probes_and_scans_of_ports_leave_no_traceback(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with running(ScriptedEngine()) as port:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            writer.write_eof()
            await end_of(reader)
            writer.close()
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []


async def test_a_fault_of_our_own_in_a_handshake_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(ScriptedEngine):
        async def load_figures(self) -> NoReturn:
            raise ZeroDivisionError

    async with running(Faulty()) as port:
        assert (await get(port, "/healthz"))[0] == 500
    assert "ZeroDivisionError" in caplog.text


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server hangs up."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


class RawSocket:
    """A client that answers no ping unless it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def read(self) -> tuple[int, bytes]:
        """Opcode and payload of one frame; messages of the server are not split."""
        first, second = await self.reader.readexactly(2)
        length = second
        if second >= 126:
            length = int.from_bytes(await self.reader.readexactly(2 if second == 126 else 8), "big")
        return first & 0x0F, await self.reader.readexactly(length)

    async def until(self, opcode: Opcode) -> bytes:
        while (frame := await self.read())[0] != opcode:
            pass
        return frame[1]

    async def write(self, opcode: Opcode, data: bytes) -> None:
        self.writer.write(Frame(opcode, data).serialize(mask=True))
        await self.writer.drain()


@asynccontextmanager
async def raw(port: int) -> AsyncIterator[RawSocket]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    writer.write(f"GET /v1/realtime HTTP/1.1\r\nHost: x\r\n{upgrade}{key}".encode())
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    yield RawSocket(reader, writer)
    writer.close()


async def test_a_peer_that_is_gone_is_noticed() -> None:
    async with running(ScriptedEngine(), limited(ping_s=0.05, pong_s=0.1)) as port, raw(port) as socket:
        reason = await socket.until(Opcode.CLOSE)
        assert (int.from_bytes(reason[:2], "big"), reason[2:]) == (1011, b"no sign of life for 0.1 s")


async def test_a_busy_session_needs_no_pong() -> None:
    async with running(ScriptedEngine(), limited(ping_s=0.02, pong_s=0.02)) as port, raw(port) as socket:
        for _ in range(8):
            await socket.until(Opcode.PING)
            await socket.write(Opcode.BINARY, bytes(640))
        await socket.write(Opcode.TEXT, b'{"type": "input_audio_buffer.clear"}')
        while b"cleared" not in await socket.until(Opcode.TEXT):
            pass


async def test_a_flood_is_slowed_down_and_nothing_of_it_is_lost() -> None:
    engine = ScriptedEngine()
    async with running(engine, limited(messages_per_s=40)) as port, talking(port) as client:
        for _ in range(80):
            await client.send("input_audio_buffer.clear")
        complaint = await client.complaint()
        assert (complaint["code"], "40 messages" in complaint["message"]) == ("rate_limit_exceeded", True)
        await client.configure()
        assert client.kinds().count("input_audio_buffer.cleared") == 80
        assert client.kinds().count("error") == 1
        assert (await figures(port))["wavllm_throttled_messages_total"] >= 20


def test_a_bucket_fills_again() -> None:
    bucket = Bucket(8)
    assert [bucket.take(5.0) for _ in range(10)] == [0.0] * 8 + [1 / 8, 2 / 8]
    assert [bucket.take(5.375) for _ in range(2)] == [0.0, 1 / 8]
    assert [bucket.take(99.0) for _ in range(9)] == [0.0] * 8 + [1 / 8]


async def test_a_turn_is_seen_in_the_metrics() -> None:
    async with running(ScriptedEngine()) as port:
        async with talking(port) as client:
            await client.append(turn())
            await client.until("response.done")
            await client.send("response.cancel")
            await client.complaint()
            counted = await figures(port)
        assert counted["wavllm_sessions"] == counted["wavllm_turns_total"] == 1
        for name in ("turn_end_wait", "first_event", "first_token", "encoder"):
            assert counted[f"wavllm_{name}_seconds_count"] == 1
        assert counted["wavllm_turn_end_wait_seconds_sum"] == pytest.approx(0.5, abs=0.021)
        assert counted["wavllm_first_event_seconds_sum"] >= 0.48
        assert counted["wavllm_responses_total completed"] == 1
        assert counted["wavllm_errors_total response_cancel_not_active"] == 1
        assert counted["wavllm_engine_positions_filled"] == 0
        async with asyncio.timeout(5):
            while (counted := await figures(port))["wavllm_sessions"]:
                pass
        assert counted["wavllm_closed_total 1000"] == 1


async def test_codes_that_clients_make_up_are_counted_together() -> None:
    async with running(ScriptedEngine()) as port:
        for code in (3000, 4321, 4999):
            async with connect(f"ws://127.0.0.1:{port}/v1/realtime") as socket:
                await socket.close(code)
        async with asyncio.timeout(5):
            while (counted := await figures(port)).get("wavllm_closed_total private", 0) < 3:
                pass
        assert not [name for name in counted if name.startswith(("wavllm_closed_total 3", "wavllm_closed_total 4"))]


async def test_what_comes_with_every_step_is_told_as_a_histogram() -> None:
    engine = ScriptedEngine()
    engine.spreads = {"queue_wait_seconds": Spread((0.1, 1.0), (3, 0, 2), 7.5)}
    async with running(engine) as port:
        counted = await figures(port)
    name = "wavllm_engine_queue_wait_seconds"
    buckets = {bound: counted[f"{name}_bucket {bound}"] for bound in ("0.1", "1.0", "+Inf")}
    assert buckets == {"0.1": 3, "1.0": 3, "+Inf": 5}
    assert (counted[f"{name}_count"], counted[f"{name}_sum"]) == (5, 7.5)
    assert "wavllm_engine_queue_wait_ms" not in counted


@asynccontextmanager
async def stopping(engine: ScriptedEngine, **limits: Any) -> AsyncIterator[tuple[int, Client]]:
    """A server that was told to stop in the middle of a reply."""
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(limited(port=0, **limits), engine, on_ready=ready.set_result))
        async with talking(await ready) as client:
            engine.go_on.clear()
            await client.send("response.create")
            await client.until("response.output_text.delta")
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(5):
                while (await get(await ready, "/readyz"))[0] == 200:
                    pass
            yield await ready, client
            assert client.socket.close_code == 1001
    assert engine.running == 0 and not engine.open


async def test_a_server_that_stops_lets_replies_finish() -> None:
    engine = ScriptedEngine()
    async with stopping(engine) as (port, client):
        status, headers, body = await knock(port)
        assert (status, json.loads(body)["error"]["code"]) == (503, "server_stopping")
        assert "retry-after" in headers
        engine.go_on.set()
        assert (await client.until("response.done"))["response"]["status"] == "completed"
        with pytest.raises(ConnectionClosed) as closed:
            await client.until("nothing")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.reason == "the server stops"


@pytest.mark.parametrize("again", [False, True])
async def test_but_not_for_ever(again: bool) -> None:
    async with stopping(ScriptedEngine(), drain_s=30 if again else 0.1) as (_, client):
        if again:
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            await client.until("response.done")


def test_key_limits_are_read() -> None:
    assert KEYS["hall"] == KeyConfig(key=KEYS["hall"].key, max_sessions=1)
