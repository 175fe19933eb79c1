"""A gateway on a broker, and a device's record of what it was told, to be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from clients.mqtt.bridge import BridgeLimits
from clients.mqtt.broker import BrokerAddress
from clients.mqtt.gateway import Gateway, GatewaySettings
from clients.retry import Backoff

QUICK = Backoff(0.02, 0.1)


def is_ours(task: asyncio.Task[Any]) -> bool:
    """Not of a library: those end theirs in their own time."""
    return "/clients/" in task.get_coro().cr_code.co_filename  # type: ignore[union-attr]


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
