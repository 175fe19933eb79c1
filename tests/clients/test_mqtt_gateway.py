"""The gateway between a broker, real or in this process, and a server that answers by rule."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from clients.demo.run import free_port
from clients.device import MqttDevice
from clients.mqtt.broker import BrokerAddress
from clients.mqtt.embedded import embedded_broker
from tests.clients.brokers import Mosquitto
from tests.clients.gateways import QUICK, Log, gateway_running
from tests.clients.scripted_server import LATENCY, ScriptedServer

BROKERS = ["amqtt", pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto"))]


@pytest.fixture(params=BROKERS)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BrokerAddress]:
    if request.param == "amqtt":
        async with embedded_broker(free_port()) as address:
            yield address
    else:
        async with Mosquitto(tmp_path).running() as mosquitto:
            yield mosquitto.address


async def test_a_typed_line_is_answered(broker: BrokerAddress) -> None:
    log = Log()
    async with (
        ScriptedServer().running() as server,
        gateway_running(broker, server.url),
        MqttDevice("kitchen", broker, log, QUICK).connected() as device,
    ):
        reply = await device.ask("hello", "line-1")
        await log.until("latency")
    assert reply == {"id": "line-1", "text": "you wrote hello", "status": "completed", "error": None}
    assert log.of("latency") == [{"id": "line-1", **LATENCY}]


async def test_a_spoken_turn_is_answered(broker: BrokerAddress) -> None:
    log = Log()
    async with (
        ScriptedServer(spoken=[("computer", "yes?")]).running() as server,
        gateway_running(broker, server.url),
        MqttDevice("kitchen", broker, log, QUICK).connected() as device,
    ):
        reply = await device.speak(np.full(3_200, 0.5, np.float32))
        transcript = await log.until("transcript")
    assert reply["text"] == "yes?"
    assert transcript == {"id": "item_1", "text": "computer", "speaker": "speaker 1"}
    assert log.of("speaker") == [{"id": "item_1", "speaker": "speaker 1", "number": 1, "similarity": 0.9}]
    assert [state["state"] for state in log.of("state")][-3:] == ["listening", "thinking", "ready"]
