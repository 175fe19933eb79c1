"""The gateway between a broker, real or in this process, and a server that answers by rule."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.device import MqttDevice
from clients.mqtt.bridge import BridgeLimits
from clients.mqtt.broker import BrokerAddress
from clients.mqtt.gateway import Gateway, GatewaySettings
from clients.mqtt.retry import Backoff
from tests.clients.brokers import Mosquitto, amqtt_running
from tests.clients.scripted_server import LATENCY, ScriptedServer

QUICK = Backoff(0.02, 0.1)
BROKERS = ["amqtt", pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto"))]


@pytest.fixture(params=BROKERS)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BrokerAddress]:
    if request.param == "amqtt":
        async with amqtt_running() as address:
            yield address
    else:
        async with Mosquitto(tmp_path).running() as mosquitto:
            yield mosquitto.address


def is_ours(task: asyncio.Task[Any]) -> bool:
    """Not of a library: those end theirs in their own time."""
    return "/clients/" in inspect.getfile(task.get_coro())  # type: ignore[arg-type]


@asynccontextmanager
async def gateway_running(address: BrokerAddress, url: str, **settings: Any) -> AsyncIterator[None]:
    ready = asyncio.Event()
    limits = BridgeLimits(**{"backoff": QUICK, "stall_s": 0.1, **settings.pop("limits", {})})
    gateway = Gateway(address, GatewaySettings(url, limits=limits, broker_backoff=QUICK, **settings))
    before = asyncio.all_tasks()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(gateway.run(ready.set))
        await ready.wait()
        yield
        running.cancel()
    assert not {task for task in asyncio.all_tasks() - before if is_ours(task)}


class Log:
    """What a device was told, to be waited for."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._changed = asyncio.Event()

    def __call__(self, channel: str, values: dict[str, Any]) -> None:
        self.told.append((channel, values))
        self._changed.set()

    def of(self, channel: str) -> list[dict[str, Any]]:
        return [values for told, values in self.told if told == channel]

    async def until(self, channel: str, count: int = 1) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while len(self.of(channel)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.of(channel)[count - 1]


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
