"""What a broker's or a server's death costs: time, and nothing else."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiomqtt import Client

from clients.device import MqttDevice
from tests.clients.brokers import Mosquitto
from tests.clients.gateways import QUICK, Log, gateway_running
from tests.clients.scripted_server import ScriptedServer

DEVICES, LINES, RESTARTS = 8, 50, 20


@pytest.mark.needs("mosquitto")
async def test_over_restarts_of_the_broker_every_line_is_answered_once(tmp_path: Path) -> None:
    """Under load; every second time the broker is killed and forgets what it had not written down."""
    log, mosquitto = Log(), Mosquitto(tmp_path)
    replies: dict[str, list[str]] = {}

    async def ask_all(device: MqttDevice) -> None:
        replies[device.name] = []
        for number in range(LINES):
            line = f"{device.name} {number}"
            reply = await device.ask(line, line)
            assert reply["id"] == line
            replies[device.name].append(reply["text"])

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(mosquitto.running())
        server = await stack.enter_async_context(ScriptedServer().running())
        await stack.enter_async_context(gateway_running(mosquitto.address, server.url))
        devices = [
            await stack.enter_async_context(
                MqttDevice(f"device-{number}", mosquitto.address, log, QUICK, repeat_s=0.2).connected()
            )
            for number in range(DEVICES)
        ]
        async with asyncio.TaskGroup() as tasks:
            for device in devices:
                tasks.create_task(ask_all(device))
            for restart in range(RESTARTS):
                await log.until("reply", (restart + 1) * DEVICES * LINES // (RESTARTS + 1))
                await mosquitto.stop(kill=restart % 2 == 1)
                await mosquitto.start()
    assert replies == {
        f"device-{number}": [f"you wrote device-{number} {line}" for line in range(LINES)] for number in range(DEVICES)
    }
    assert len(log.of("reply")) == DEVICES * LINES
    assert server.turns == DEVICES * LINES, "the model was asked more than once for one line"


@pytest.mark.needs("mosquitto")
async def test_a_line_waits_on_the_broker_for_a_gateway_that_is_away(tmp_path: Path) -> None:
    """Even for one that does not repeat itself, over a broker that ends in good order."""
    mosquitto = Mosquitto(tmp_path)
    async with mosquitto.running(), ScriptedServer().running() as server:
        async with gateway_running(mosquitto.address, server.url):
            pass
        async with Client(mosquitto.address.host, mosquitto.address.port) as device:
            await device.publish("wavllm/1/hall/text", b'{"id": "7", "text": "hello"}', qos=1)
        await mosquitto.stop()
        await mosquitto.start()
        async with Client(mosquitto.address.host, mosquitto.address.port) as device:
            await device.subscribe("wavllm/1/hall/reply", qos=1)
            async with gateway_running(mosquitto.address, server.url), asyncio.timeout(5):
                reply = await anext(device.messages)
    assert json.loads(bytes(reply.payload))["text"] == "you wrote hello"  # type: ignore[arg-type]
    assert server.turns == 1
