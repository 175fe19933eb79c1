"""Whatever is published on our topics is answered by an error or by nothing, and the rest goes on."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from websockets.asyncio.server import ServerConnection

from clients.device import MqttDevice, run_device
from clients.file import Line
from clients.mqtt.broker import Arrived, BrokerAddress
from clients.mqtt.gateway import Gateway, GatewaySettings
from clients.mqtt.topics import DOWN, AudioChunk
from tests.clients.brokers import Mosquitto
from tests.clients.gateways import QUICK, Log, gateway_running
from tests.clients.scripted_server import ScriptedServer


class Errors:
    """A stranger on the broker, who publishes anything and reads the complaints."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def next(self) -> tuple[str, dict[str, Any]]:
        async with asyncio.timeout(5):
            message = await anext(self.client.messages)
        return message.topic.value.split("/")[2], json.loads(message.payload)


@asynccontextmanager
async def stranger(address: BrokerAddress) -> AsyncIterator[Errors]:
    async with Client(address.host, address.port) as client:
        await client.subscribe("wavllm/1/+/error", qos=1)
        yield Errors(client)


@asynccontextmanager
async def everything(folder: Path, **gateway: Any) -> AsyncIterator[tuple[BrokerAddress, ScriptedServer]]:
    async with (
        Mosquitto(folder).running() as broker,
        ScriptedServer().running() as server,
        gateway_running(broker.address, server.url, **gateway),
    ):
        yield broker.address, server


pytestmark = pytest.mark.needs("mosquitto")


async def test_complaints_name_the_fault_and_the_rest_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cases = [
        ("kitchen/text", b"hello", "kitchen", "invalid_json"),
        ("kitchen/text", b'{"text": ""}', "kitchen", "invalid_value"),
        ("kitchen/audio", b"odd", "kitchen", "invalid_audio"),
        ("kitchen/audio", bytes(100_000), "kitchen", "message_too_large"),
        ("kitchen/text", bytes(1_000_000), "kitchen", "message_too_large"),
        ("k%/text", b'{"text": "hello"}', "gateway", "invalid_device"),
        ("/text", b'{"text": "hello"}', "gateway", "invalid_device"),
        ("a" * 65 + "/text", b'{"text": "hello"}', "gateway", "invalid_device"),
        ("gateway/text", b'{"text": "hello"}', "gateway", "invalid_device"),
    ]
    async with (
        everything(tmp_path) as (address, server),
        stranger(address) as other,
        MqttDevice("kitchen", address, backoff=QUICK).connected() as device,
    ):
        for topic, payload, device_name, code in cases * 2:
            await other.client.publish(f"wavllm/1/{topic}", payload, qos=1)
            told, error = await other.next()
            assert (told, error["code"]) == (device_name, code)
        assert (await device.ask("hello"))["text"] == "you wrote hello"
        assert server.turns == 1
    logged = [record.getMessage() for record in caplog.records if "told once" in record.getMessage()]
    assert len(logged) == len(set(logged)) == 5


async def test_a_retained_command_is_never_carried_out(tmp_path: Path) -> None:
    """It would come again with every connection."""
    async with Mosquitto(tmp_path).running() as broker, stranger(broker.address) as other:
        await other.client.publish("wavllm/1/kitchen/text", b'{"text": "open the door"}', qos=1, retain=True)
        await other.client.publish("wavllm/1/hall/audio", b"poison", qos=1, retain=True)
        async with ScriptedServer().running() as server:
            for _ in range(2):
                async with gateway_running(broker.address, server.url):
                    told = sorted([await other.next(), await other.next()])
                    assert [(name, error["code"]) for name, error in told] == [
                        ("hall", "retained_message"),
                        ("kitchen", "retained_message"),
                    ]
        assert server.turns == 0


async def test_more_devices_than_allowed_are_refused(tmp_path: Path) -> None:
    async with (
        everything(tmp_path, max_devices=1) as (address, _),
        stranger(address) as other,
        MqttDevice("first", address, backoff=QUICK).connected() as device,
    ):
        await device.ask("hello")
        await other.client.publish("wavllm/1/second/text", b'{"text": "hello"}', qos=1)
        name, error = await other.next()
        assert (name, error["code"]) == ("second", "too_many_devices")
        assert "'second' is refused: the gateway serves 1 devices already" in error["message"]
        assert (await device.ask("still there?"))["status"] == "completed"


@pytest.mark.parametrize(
    "payload",
    [b"hello", b"[]", b'{"id": []}', b'{"id": 1}', b'{"arguments": 3}', b'{"first_token_ms": 1}', b'{"state": []}'],
)
async def test_a_device_outlives_whatever_it_is_told(tmp_path: Path, payload: bytes) -> None:
    """Retained, so that it is told as soon as it is there."""
    async with everything(tmp_path) as (address, _), stranger(address) as other:
        for channel in DOWN:
            await other.client.publish(f"wavllm/1/kitchen/{channel}", payload, qos=1, retain=True)
        (answer,) = await run_device("kitchen", [Line(text="hello")], Console(file=io.StringIO()), address)
    assert answer.complete and answer.reply and answer.reply["text"] == "you wrote hello"


async def test_more_lines_than_can_wait_are_refused_by_id(tmp_path: Path) -> None:
    log = Log()
    async with (
        Mosquitto(tmp_path).running() as broker,
        ScriptedServer(mute=True).running() as server,
        gateway_running(broker.address, server.url),
        MqttDevice("kitchen", broker.address, log, QUICK).connected() as device,
        asyncio.TaskGroup() as tasks,
    ):
        asking = [tasks.create_task(device.ask("hello", f"line {number}")) for number in range(18)]
        error = await log.until("error")
        for task in asking:
            task.cancel()
    assert (error["code"], error["id"]) == ("too_many_lines", "line 17")


class GarblingServer(ScriptedServer):
    """Its first conversation makes no sense."""

    garbled = False

    async def converse(self, socket: ServerConnection) -> None:
        if not self.garbled:
            self.garbled = True
            await socket.send(json.dumps({"type": "session.created"}))
            await socket.recv()
            await socket.send(json.dumps({"type": "session.updated"}))
            await socket.recv()
            await socket.send(json.dumps({"type": "response.created"}))
        await super().converse(socket)


async def test_a_server_that_makes_no_sense_costs_one_conversation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Mosquitto(tmp_path).running() as broker,
        GarblingServer().running() as server,
        gateway_running(broker.address, server.url),
        MqttDevice("kitchen", broker.address, backoff=QUICK, repeat_s=0.1).connected() as device,
    ):
        assert (await device.ask("hello"))["text"] == "you wrote hello"
    assert [record.getMessage() for record in caplog.records if record.exc_info and "device" in record.msg] == [
        "device kitchen failed"
    ]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    topic=st.text() | st.text().map(lambda name: f"wavllm/1/{name}/text") | st.just("wavllm/1/a/audio"),
    payload=st.binary(max_size=300),
    retained=st.booleans(),
)
def test_nothing_that_arrives_stops_the_gateway(topic: str, payload: bytes, retained: bool) -> None:
    """Without a broker, which would keep the worst from us."""

    async def receive() -> None:
        gateway = Gateway(BrokerAddress("127.0.0.1", 9), GatewaySettings("ws://127.0.0.1:9/", broker_backoff=QUICK))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(gateway.run())
            await asyncio.sleep(0)
            gateway.receive(Arrived(topic, payload, retained))
            gateway.receive(Arrived("wavllm/1/a/audio", AudioChunk(0, bytes(2)).encode(), False))
            assert not running.done()
            running.cancel()

    asyncio.run(receive())


async def test_a_flood_of_rubbish_is_outlived(tmp_path: Path) -> None:
    async with everything(tmp_path) as (address, _), stranger(address) as other:
        for number in range(2_000):
            await other.client.publish(
                f"wavllm/1/device-{number % 7}/{'audio' if number % 2 else 'text'}", bytes([number % 251] * 9)
            )
        async with MqttDevice("kitchen", address, backoff=QUICK).connected() as device:
            assert (await device.ask("hello"))["text"] == "you wrote hello"
